"""The share of known words in texts: python benchmarks/known_words.py FILE.json ... [--data DIR ...]

FILE.json is what `mmprime evaluate text --save` writes. A word is a run of letters, in lower case; known are those of
the training split of the datasets (default: the addresses).
"""

from __future__ import annotations

import argparse
import json
import re
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
    known = {word for data in options.data for text in load_documents(data, "train") for word in words(text)}
    for file in options.files:
        groups: dict[str, list[str]] = {}
        for entry in json.loads(Path(file).read_text()):
            groups.setdefault(entry["group"], []).extend(words(entry["text"]))
        for name, found in groups.items():
            print(f"{file}, {name}: {sum(word in known for word in found) / len(found):.3f} of {len(found)} words")


if __name__ == "__main__":
    main()
