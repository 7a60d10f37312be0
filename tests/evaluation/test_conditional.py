"""The count estimator of a text given another against its expectation over all masks; a model of lm-eval's harness."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pipeline_world import write_text_model

from mmprime.engine import MASK_ID, Canvas, Codec, Span
from mmprime.engine.denoiser import reveal_nats
from mmprime.evaluation.text.conditional import ConditionalText
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.sampling import SamplingConfig


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return from_pretrained(write_text_model(tmp_path_factory.mktemp("text")))


@torch.no_grad()
def _bound(pipe: Pipeline, context: list[int], ids: list[int]) -> float:
    """-E_k E_{k of L masked} L/k Σ_masked -log p: every set of masked digits; what follows the ids is masked."""
    length = pipe.canvas.span("text").num_tokens
    row = [*context, *ids] + [0] * (length - len(context) - len(ids))
    y = pipe.canvas.pack({"text": torch.tensor([row])})[0]
    units = [n for n, token in enumerate(pipe.canvas.token_of) if len(context) <= token < len(context) + len(ids)]
    y[pipe.canvas.token_of >= len(context) + len(ids)] = MASK_ID
    total = 0.0
    for k in range(1, len(units) + 1):
        sets = list(itertools.combinations(units, k))
        before = y.repeat(len(sets), 1)
        for state, masked in zip(before, sets):
            state[list(masked)] = MASK_ID
        for n in units:
            after = before.clone()
            after[:, n] = y[n]  # nothing is revealed where it was visible
            nats = reveal_nats(pipe.model, pipe.canvas, before, after[None]).sum((0, 2))
            total += float(nats.double().sum()) / k / len(sets)  # 1/L · L/k
    return -total


def test_the_estimate_is_that_of_all_masks(pipe: Pipeline) -> None:
    context, ids = list(b"re"), list(b"dxy")  # two digits a token: 63 states
    expected = _bound(pipe, context, ids)
    found = [ConditionalText(pipe, 256, 100, seed).log_likelihood(context, ids) for seed in range(4)]
    error = torch.tensor(found).std().item() / math.sqrt(len(found))
    assert torch.tensor(found).mean().item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.02 * abs(expected)
    one = ConditionalText(pipe, 8)
    assert one.log_likelihood(context, ids) != one.log_likelihood(list(b"bl"), ids)
    assert one.log_likelihood(context, []) == 0


def test_what_does_not_fit_is_cut_or_scored_in_pieces(pipe: Pipeline) -> None:
    text = ConditionalText(pipe, 2)
    context, ids = list(range(40)), list(b"pear")
    assert text.log_likelihood(context, ids) == text.log_likelihood(context[20:], ids)  # 24 tokens are held
    assert text.log_likelihood(context, ids) != text.log_likelihood(context[21:], ids)
    long = list(b"the harbour was quiet in the morning")
    assert text.log_likelihood(context, long) == pytest.approx(
        text.log_likelihood([], long[:24]) + text.log_likelihood([], long[24:])
    )


def test_what_is_written_is_what_the_pipeline_writes(pipe: Pipeline) -> None:
    text = ConditionalText(pipe)
    ids = text.continued(list(b"red"), 5)
    config = SamplingConfig(temperature=0, steps=10)
    assert pipe.continue_text("red", 1, 5, config).texts == ["red" + text.tokenizer.decode(ids)]
    assert len(text.continued(list(b"a long text that fills the span"), 3)) == 3
    with pytest.raises(ValueError, match="25 new tokens were asked for; the model holds 1 to 24"):
        text.continued([], 25)


def test_pictures_are_no_texts(pipe: Pipeline) -> None:
    canvas = Canvas([Span("text", 4, Codec.base(4, 2)), Span("image", (2, 2), Codec.base(4, 2))])
    with pytest.raises(ValueError, match=r"\['text', 'image'\]; a model of texts alone"):
        ConditionalText(SimpleNamespace(canvas=canvas, text_tokenizer=pipe.text_tokenizer))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples=0"):
        ConditionalText(pipe, samples=0)


TASKS = {
    "choice": """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: "{{endings}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
""",
    "whole": """
task: whole
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{start}}"
metric_list: [{metric: bits_per_byte}]
""",
    "written": """
task: written
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{start}}"
doc_to_target: "{{start}}"
generation_kwargs: {until: ["e"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
""",
}


@pytest.mark.slow
def test_a_task_of_local_files_in_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from lm_eval.tasks import TaskManager

    from mmprime.evaluation.text.harness import MaskedDiffusionLM

    rows = [
        {"start": "red ap", "endings": ["ple", "qqq"], "label": 0},
        {"start": "blue", "endings": ["xyz", "car"], "label": 1},
    ]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(task.replace("FOLDER", str(tmp_path)))
    folder = write_text_model(tmp_path)
    found = lm_eval.simple_evaluate(
        "mmprime",
        {"path": str(folder), "samples": 32},
        list(TASKS),
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    text = ConditionalText(from_pretrained(folder), 32)

    def score(start: str, ending: str) -> float:
        return text.log_likelihood(list(start.encode()), list(ending.encode()))

    for sample, row in zip(found["samples"]["choice"], rows):
        scores = [score(row["start"], " " + ending) for ending in row["endings"]]  # lm-eval puts a blank between
        assert [pair[0] for pair in sample["filtered_resps"]] == pytest.approx(scores)
        assert sample["acc"] == float(scores.index(max(scores)) == row["label"])
    nats = [score("", row["start"]) for row in rows]
    size = sum(len(row["start"]) for row in rows)
    assert found["results"]["whole"]["bits_per_byte,none"] == pytest.approx(-sum(nats) / size / math.log(2))
    for sample, row in zip(found["samples"]["written"], rows):
        ids = text.continued(list(row["start"].encode()), 6)
        assert sample["filtered_resps"] == [text.tokenizer.decode(ids).split("e")[0]]
    with pytest.raises(ValueError, match="unknown 'sample'"):
        MaskedDiffusionLM(path=str(folder), sample=3)
