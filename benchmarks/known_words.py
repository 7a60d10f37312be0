"""Which words of texts are known, and which pairs of words in a row: known_words.py FILE.json ... [--data DIR ...]

FILE.json is what `mmprime evaluate text --save` writes. A word is a run of letters, in lower case; known are those of
the training split of the datasets (default: the addresses). Neither share asks a language model, and neither knows of
one.
"""

from __future__ import annotations

import argparse
import json
import re
from itertools import pairwise
from pathlib import Path

from mmprime.data import load_documents

_WORD = re.compile(r"[a-z]+")
_ADDRESSES = Path(__file__).resolve().parents[1] / "assets/sotu"


def words(text: str) -> list[str]:
    """Its runs of letters."""
    return _WORD.findall(text.lower())


def main() -> None:
    """A line for each group of texts of each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE.json")
    parser.add_argument("--data", nargs="+", default=[_ADDRESSES], metavar="DIR", help="text datasets, split train")
    options = parser.parse_args()
    training = [words(text) for data in options.data for text in load_documents(data, "train")]
    known = {word for text in training for word in text}
    known_pairs = {pair for text in training for pair in pairwise(text)}
    for file in options.files:
        groups: dict[str, list[list[str]]] = {}
        for entry in json.loads(Path(file).read_text()):
            groups.setdefault(entry["group"], []).append(words(entry["text"]))
        for name, texts in groups.items():
            found = [word in known for text in texts for word in text]
            pairs = [pair in known_pairs for text in texts for pair in pairwise(text)]
            shares = (
                f"{sum(found) / len(found):.3f} of {len(found)} words, {sum(pairs) / len(pairs):.3f} of their pairs"
            )
            print(f"{file}, {name}: {shares}")


if __name__ == "__main__":
    main()
