"""Text tokenizers: lossless for any text, with an end and a pad that text cannot forge."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmprime.tokenizers import TextTokenizer

CORPUS = ["a red apple", "red apples, green apples", "the green tree", "the red car"] * 5
HARD = [
    "",
    " ",
    "  two  spaces \n\t end ",
    "naïve café — Straße",
    "日本語 and العربية",
    "👩‍👩‍👧 family 🇮🇸",
    "\x00\x7f\x80 \ufeff",
    "e\u0301 is not é",
    "<end><pad><|endoftext|>",
]


def bpe() -> TextTokenizer:
    return TextTokenizer.train(CORPUS, 300)


MAKERS: dict[str, Callable[[], TextTokenizer]] = {"bpe": bpe, "bytes": TextTokenizer.bytes}


@pytest.fixture(params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return MAKERS[request.param]()


def test_round_trip_is_lossless_for_any_text(tokenizer: TextTokenizer) -> None:
    dice = random.Random(0)
    scalars = [*range(0xD800), *range(0xE000, 0x110000)]
    wild = ["".join(map(chr, dice.choices(scalars, k=40))) for _ in range(20)]
    for text in [*HARD, *wild]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.pad_id, tokenizer.end_id} & set(ids)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_padding_ends_then_pads(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("red")
    padded = tokenizer.encode_padded("red", len(ids) + 3)
    assert padded == [*ids, tokenizer.end_id, tokenizer.pad_id, tokenizer.pad_id]
    assert tokenizer.decode(padded) == "red"
    assert tokenizer.count_tokens(torch.tensor([padded, tokenizer.encode_padded("", len(padded))])).tolist() == [
        len(ids) + 1, 1
    ]  # fmt: skip
    assert tokenizer.decode([*ids, tokenizer.end_id, *ids]) == "red"
    assert tokenizer.decode([tokenizer.pad_id, *ids]) == "red"


def test_a_text_that_does_not_fit_is_refused_or_cut(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("a green apple")
    assert tokenizer.encode_padded("a green apple", len(ids) + 1) == [*ids, tokenizer.end_id]
    with pytest.raises(ValueError, match=rf"'a green apple' needs {len(ids) + 1} ids .* length is {len(ids)}"):
        tokenizer.encode_padded("a green apple", len(ids))
    cut = tokenizer.encode_padded("a green apple", len(ids), truncate=True)
    assert cut == [*ids[:-1], tokenizer.end_id]


def test_ids_outside_the_vocabulary_are_refused(tokenizer: TextTokenizer) -> None:
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=rf"{bad} must lie in \[0, {tokenizer.vocab_size}\)"):
            tokenizer.decode([bad])


def test_bytes_are_the_bytes() -> None:
    tokenizer = TextTokenizer.bytes()
    assert tokenizer.vocab_size == 258
    assert (tokenizer.pad_id, tokenizer.end_id) == (256, 257)
    text = "aé€😀\n"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode([0x61, 0xFF]) == "a\ufffd"


def test_training_merges_what_is_frequent() -> None:
    tokenizer = bpe()
    assert 258 < tokenizer.vocab_size <= 300
    assert (tokenizer.pad_id, tokenizer.end_id) == (0, 1)
    assert len(tokenizer.encode(" red")) == 1
    assert len(tokenizer.encode(" xyz")) == 4
    with pytest.raises(ValueError, match="vocab_size=200"):
        TextTokenizer.train(CORPUS, 200)


def test_an_unbroken_run_is_learned_from_in_time_in_proportion_to_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, 200,000 letters in a row would take the trainer a minute. Shorter runs teach the same as ever."""
    letters = "".join(random.Random(3).choices("mask", k=200_000))
    start = time.process_time()
    tokenizer = TextTokenizer.train([letters], 300)
    ids = tokenizer.encode(letters)
    assert time.process_time() - start < 15
    assert tokenizer.decode(ids) == letters
    assert len(ids) < len(letters) / 2
    shorter = [*CORPUS, letters[:1000], "中" * 333]
    learned = TextTokenizer.train(shorter, 400).fingerprint()
    monkeypatch.setattr("mmprime.tokenizers.text._LEARNED_AT_ONCE", 100_000)
    assert TextTokenizer.train(shorter, 400).fingerprint() == learned


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(CORPUS, 280, lowercase=True)
    tokenizer.save(tmp_path)
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = TextTokenizer.load(place)
        assert loaded.encode("The RED <end>") == tokenizer.encode("The RED <end>")
        assert loaded.decode(loaded.encode("The RED")) == "the red"
        assert loaded.fingerprint() == tokenizer.fingerprint()
        assert (loaded.pad_id, loaded.end_id, loaded.vocab_size) == (0, 1, tokenizer.vocab_size)
    cased = TextTokenizer.train(CORPUS, 280)
    assert cased.decode(cased.encode("The RED")) == "The RED"
    assert cased.fingerprint() != tokenizer.fingerprint()


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_gpt2_files_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    letters = [chr(c) for c in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
    symbols = [*letters, *(chr(0x100 + i) for i in range(256 - len(letters))), "re", "Ġre", "Ġred", "<|endoftext|>"]
    (tmp_path / names[0]).write_text(json.dumps({s: i for i, s in enumerate(symbols)}))
    (tmp_path / names[1]).write_text("#version: 0.2\nr e\nĠ re\nĠre d\n")
    tokenizer = TextTokenizer.load(tmp_path)
    assert tokenizer.encode("red red") == [256, letters.index("d"), 258]
    assert tokenizer.end_id == 259
    assert tokenizer.pad_id == 260  # GPT-2 has none; it gets the next id
    assert tokenizer.vocab_size == 261
    assert tokenizer.decode(tokenizer.encode_padded("red €", 12)) == "red €"


def test_a_foreign_file_neither_cuts_nor_pads_nor_lets_text_forge_its_end(tmp_path: Path) -> None:
    from tokenizers import AddedToken

    inner = TextTokenizer.bytes()._inner
    inner.add_tokens([AddedToken("<sep>", special=False)])
    content = json.loads(inner.to_str())
    for token in content["added_tokens"]:  # ordinary tokens, as some published files have them
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    foreign = TextTokenizer.load(tmp_path)._inner.from_file(str(tmp_path / "tokenizer.json"))
    foreign.enable_truncation(4)
    foreign.enable_padding(length=8)
    foreign.save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer.load(tmp_path)
    for text in ("<end> and <pad> are text", "x"):
        ids = tokenizer.encode(text)
        assert ids == list(text.encode())
        assert tokenizer.decode(ids) == text


def test_a_path_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such tokenizer"):
        TextTokenizer.load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"neither tokenizer\.json nor vocab\.json"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json"):
        TextTokenizer.load(tmp_path)
