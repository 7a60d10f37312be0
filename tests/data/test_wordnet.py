"""WordNet's data files as documents of dictionary entries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmprime.cli import prepare
from mmprime.data import load_documents, read_documents
from mmprime.data.sources.wordnet import ENTRIES, PARTS, read_synsets, read_wordnet

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by\n"
DOG = (
    '05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 02083346 n 0000 | a member of the genus; "the dog barked"  '
)
PLACE = "15 n 02 Aachen 0 Aix 0 001 @ 02083346 n 0000 | a city in western Germany  "
GALORE = '00 s 0a galore(ip) 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 000 | existing in abundance; "girls galore"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in PARTS:
        thing = f"00000001 03 {part[0]} 01 thing 0 000 | a {part} of its own  "
        (tmp_path / f"data.{part}").write_text(f"{LICENCE}{thing}\n")
    nouns = [f"{number:08d} 04 n 01 noun{number:x} 0 000 | an act  " for number in range(ENTRIES + 1)]
    lines = [*nouns, f"02084071 {DOG}", f"08775784 {PLACE}"]
    (tmp_path / "data.noun").write_text(LICENCE + "".join(f"{line}\n" for line in lines))
    (tmp_path / "data.adj").write_text(LICENCE + f"00000002 {GALORE}\n")
    return tmp_path


def test_a_synset_is_an_entry_of_its_words_in_small_letters(folder: Path) -> None:
    *_, dog, place = read_synsets(folder / "data.noun")
    assert dog.entry() == 'dog, domestic dog: a member of the genus; "the dog barked".'
    assert (dog.file, place.words) == (5, [])
    (galore,) = read_synsets(folder / "data.adj")
    assert galore.entry().startswith("galore, b, c, d, e, f, g, h, i, j: existing in abundance")


def test_documents_are_of_one_lexicographer_file(folder: Path) -> None:
    documents, left_out = read_wordnet(folder)
    assert left_out == 1
    assert [(d.name, d.text.count("\n") + 1) for d in documents if d.about["part"] == "noun"] == [
        ("noun-04-0000", ENTRIES), ("noun-04-0001", 1), ("noun-05-0000", 1),
    ]  # fmt: skip
    with_examples, left_out = read_wordnet(folder, examples_only=True)
    assert [d.name for d in with_examples] == ["noun-05-0000", "adj-00-0000"]
    assert left_out == ENTRIES + 4


def test_the_command_writes_shards_with_the_licence(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare.main(["wordnet", "--dict", str(folder), "--out", str(out), "--split-fraction", "0.2"]) == 0
    index = json.loads((out / "index.json").read_text())
    assert index["splits"] == {"train": 5, "val": 1}
    assert index["licences"][""]["licence"] == "WordNet-3.0"
    assert "All rights reserved" in index["licences"][""]["notice"]
    assert sorted(load_documents(out)) == sorted(document.text for document in read_wordnet(folder)[0])


def test_what_is_not_wordnet_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "data.verb").write_text(LICENCE + "not a synset\n")
    with pytest.raises(ValueError, match=r"data\.verb: line 2 is no synset of WordNet .*'not a synset'"):
        read_wordnet(folder)
    (folder / "data.verb").unlink()
    with pytest.raises(ValueError, match=r"no data\.verb there; .*wordnet-base"):
        read_wordnet(folder)


def test_what_ships_is_prose_of_words_with_examples() -> None:
    documents = read_documents(Path(__file__).resolve().parents[2] / "assets/wordnet", "val")
    lines = [line for document in documents for line in document.text.split("\n")]
    assert len(documents) == 17
    assert all(": " in line and '"' in line and line.endswith(".") for line in lines)
