"""The share of the words of texts that occur in the training addresses: python benchmarks/known_words.py FILE.json ...

FILE.json is what `mmprime evaluate text --save` writes. A word is a run of letters, in lower case.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from mmprime.data import load_documents

_WORD = re.compile(r"[a-z]+")


def words(text: str) -> list[str]:
    """Its runs of letters."""
    return _WORD.findall(text.lower())


def main(files: list[str]) -> None:
    """A line for each group of texts of each file."""
    addresses = Path(__file__).resolve().parents[1] / "assets/sotu"
    known = {word for text in load_documents(addresses, "train") for word in words(text)}
    for file in files:
        groups: dict[str, list[str]] = {}
        for entry in json.loads(Path(file).read_text()):
            groups.setdefault(entry["group"], []).extend(words(entry["text"]))
        for name, found in groups.items():
            print(f"{file}, {name}: {sum(word in known for word in found) / len(found):.3f} of {len(found)} words")


if __name__ == "__main__":
    main(sys.argv[1:])
