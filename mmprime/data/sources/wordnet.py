"""WordNet (Miller, CACM 38 (11), 1995) as prose: the entries of its dictionary, forty to a document.

data.POS: a line `OFFSET FILE_NUMBER POS COUNT(hex) word lex_id [word lex_id ...] ... | gloss` for each synset (wndb(5))
an entry: `dog, domestic dog: a member of the genus Canis; "the dog barked all night".`

Entries follow each other as in the lexicographer files, where words of like meaning lie together; a document holds
those of one file. Words with a capital (persons, places, Latin names) are left out, and synsets that have no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mmprime.io import read_text

from ..plain_text import Document
from ..text import split_documents, write_documents

PARTS = ("noun", "verb", "adj", "adv")
ENTRIES = 40  # of a document
_MARKER = re.compile(r"\([a-z]+\)$")  # the syntactic marker of an adjective: galore(ip)
_LICENCE = {
    "name": "WordNet 3.0",
    "author": "Princeton University",
    "licence": "WordNet-3.0",
    "home": "https://wordnet.princeton.edu/license-and-commercial-use",
    "notice": "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.",
}


class Synset(NamedTuple):
    """Words of one meaning, what they mean, and the number of the lexicographer file that says so."""

    file: int
    words: list[str]
    gloss: str

    def entry(self) -> str:
        """As a line of a dictionary."""
        gloss = self.gloss.rstrip(" ;:,.")
        return f"{', '.join(self.words)}: {gloss}."


def read_synsets(file: Path) -> Iterator[Synset]:
    """The synsets of a data file with their words that have no capital. Raises ValueError for a line that is none."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip() or line.startswith("  "):  # the licence
            continue
        fields, bar, gloss = line.partition(" | ")
        parts = fields.split()
        try:
            count = int(parts[3], 16)
            words = [_MARKER.sub("", word).replace("_", " ") for word in parts[4 : 4 + 2 * count : 2]]
            lexicographer = int(parts[1])
        except (IndexError, ValueError):
            words, lexicographer = [], 0
        if not bar or not words:
            raise ValueError(f"{file}: line {number} is no synset of WordNet (wndb(5)): {line[:60]!r}")
        yield Synset(lexicographer, [word for word in words if word == word.lower()], " ".join(gloss.split()))


def read_wordnet(folder: str | Path, examples_only: bool = False) -> tuple[list[Document], int]:
    """Documents of all four parts of speech, and how many synsets were left out: those of capitals, and with
    `examples_only` those whose gloss has no example.

    Raises ValueError, with where to get them, when the folder lacks the data files.
    """
    root = Path(folder)
    if missing := [f"data.{part}" for part in PARTS if not (root / f"data.{part}").is_file()]:
        raise ValueError(
            f"--dict {folder}: no {', '.join(missing)} there; it must be the folder of WordNet's data files, "
            "/usr/share/wordnet of the Debian package wordnet-base"
        )
    documents: list[Document] = []
    left_out = 0
    for part in PARTS:
        synsets = list(read_synsets(root / f"data.{part}"))
        kept = [synset for synset in synsets if synset.words and ('"' in synset.gloss or not examples_only)]
        left_out += len(synsets) - len(kept)
        for file, same in groupby(sorted(kept, key=lambda synset: synset.file), key=lambda synset: synset.file):
            documents += _documents(part, file, list(same))
    return documents, left_out


def _documents(part: str, file: int, synsets: Sequence[Synset]) -> Iterator[Document]:
    for start in range(0, len(synsets), ENTRIES):
        text = "\n".join(synset.entry() for synset in synsets[start : start + ENTRIES])
        yield Document(f"{part}-{file:02d}-{start // ENTRIES:04d}", text, {"part": part})


def prepare_wordnet(
    folder: str | Path,
    out: str | Path,
    examples_only: bool = False,
    split_fraction: float = 0.05,
    progress: bool = False,
) -> dict[str, Any]:
    """Turn WordNet's data files into text shards; return the index."""
    documents, left_out = read_wordnet(folder, examples_only)
    header = {
        "name": "wordnet",
        "document": f"{ENTRIES} entries",
        "synsets_left_out": left_out,
        "sources": {"wordnet": "Debian wordnet-base 3.0"},
        "licences": {"": _LICENCE},
    }
    return write_documents(split_documents(documents, split_fraction), out, header, progress)
