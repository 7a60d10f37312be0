"""What a traced run says of itself, against its frames, against hand-computed means and brute force."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pipeline_world import write_text_image_model, write_text_model

from mmprime.engine import MASK_ID, Canvas, Codec, Span, sampler_of
from mmprime.generation import sampling, trace
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.sampling import Result, SamplingConfig


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return from_pretrained(write_text_image_model(tmp_path_factory.mktemp("t2i")))


@pytest.fixture(scope="module")
def text_pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return from_pretrained(write_text_model(tmp_path_factory.mktemp("text")))


def check_against_frames(found: Result, remasks: bool = False) -> None:
    """A digit is hidden before its rank (a remasked one just before it), and has its final value from there on."""
    states = trace.frames(found)
    assert torch.equal(states[-1], found.y)
    step = torch.arange(len(states))[:, None, None]
    before = (step == found.rank - 1) if remasks else (step < found.rank)
    assert bool((states[before] == MASK_ID).all())
    after = (found.rank >= 0) & (step >= found.rank)
    assert torch.equal(states[after], found.y.expand_as(states)[after])
    assert bool((states[:, found.rank == -1] == MASK_ID).all())
    assert found.trace is not None
    for values in (found.trace.entropy, found.trace.confidence):
        assert torch.equal(~values.isnan(), found.rank > 0)


@pytest.mark.parametrize("sampler", ["nested", "ancestral", "first_hitting", "token_synchronous", "halton", "entropy"])
def test_ranks_agree_with_frames(pipe: Pipeline, sampler: str) -> None:
    check_against_frames(pipe.generate("red apple", 2, SamplingConfig(sampler, 5, guidance=1.0, trace=True)))


@pytest.mark.parametrize(("name", "options"), [("remdm", {"eta": 0.9}), ("p2", {}), ("corrector", {"strength": 5.0})])
def test_remasked_digits_have_the_rank_of_their_last_reveal(
    pipe: Pipeline, name: str, options: dict[str, float]
) -> None:
    found = pipe.generate("red apple", 2, SamplingConfig(sampler_of(name, options), 6, trace=True))
    check_against_frames(found, remasks=True)
    known = trace.frames(found) >= 0
    assert bool((known[:-1] & ~known[1:]).any())  # something was hidden again


def test_given_and_absent_tokens_of_a_text(text_pipe: Pipeline) -> None:
    found = text_pipe.continue_text("The", 2, 6, SamplingConfig(steps=4, trace=True))
    check_against_frames(found)
    rank = text_pipe.canvas.view(found.rank, "text")
    assert bool((rank[:, :3] == 0).all())
    assert bool((rank[:, 3:9] > 0).all())
    assert bool((rank[:, 9:] == -1).all())


@pytest.mark.parametrize("sampler", ["nested", "entropy_bounded", "remdm"])
def test_parts_of_a_batch_are_joined(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    config = SamplingConfig(sampler, 4, trace=True)
    whole = pipe.generate("red apple", 5, config)
    monkeypatch.setattr(sampling, "AT_ONCE", 2)
    parts = pipe.generate("red apple", 5, config)
    assert whole.trace is not None
    assert parts.trace is not None
    assert torch.equal(whole.trace.y, parts.trace.y)
    for name in ("y", "rank", "nfe"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    for name in ("entropy", "confidence"):
        torch.testing.assert_close(
            getattr(whole.trace, name), getattr(parts.trace, name), equal_nan=True, atol=1e-5, rtol=0, msg=name
        )
    check_against_frames(parts, remasks=sampler == "remdm")


def test_an_untraced_sample_has_ranks_only(pipe: Pipeline) -> None:
    found = pipe.generate("red apple", 1, SamplingConfig(steps=3))
    assert found.rank.max() == 3
    assert found.trace is None
    with pytest.raises(ValueError, match="not traced"):
        trace.frames(found)
    with pytest.raises(ValueError, match="not traced"):
        trace.record(found, pipe.canvas)


CANVAS = Canvas([Span("text", 1, Codec.base(4, 2)), Span("image", (1, 3), Codec.base(4, 2))])
RANK = torch.tensor([[0, 0, 1, 4, 2, 2, -1, 3], [0, 0, 3, 3, 1, 2, 4, 4]])


def test_maps_are_mean_ranks() -> None:
    maps = trace.reveal_maps(RANK, CANVAS)
    expected = torch.tensor(
        [
            [[[2.5, 2.0, math.nan]], [[1.0, 2.0, math.nan]], [[4.0, 2.0, 3.0]]],
            [[[3.0, 1.5, 4.0]], [[3.0, 1.0, 4.0]], [[3.0, 2.0, 4.0]]],
        ]
    )
    torch.testing.assert_close(maps, expected.double(), equal_nan=True)
    with pytest.raises(ValueError, match="'text' has no grid"):
        trace.reveal_maps(RANK, CANVAS, "text")


def test_a_curve_counts_each_reveal_once() -> None:
    nan = math.nan
    values = torch.tensor([[nan, nan, 1.0, 4.0, 2.0, 2.0, nan, 7.0], [nan, nan, 6.0, 6.0, 3.0, 4.0, 8.0, 8.0]])
    found = trace.step_curve(values, RANK, CANVAS, 5)
    # step 3 of the second example: one reveal of two digits; nobody reveals at step 5
    expected = torch.tensor([[1.0, 2.0, 7.0, 4.0, nan], [3.0, 4.0, 6.0, 8.0, nan]]).double()
    torch.testing.assert_close(found.mean, expected.mean(0), equal_nan=True)
    torch.testing.assert_close(found.error, expected.std(0) / 2**0.5, equal_nan=True)
    mixed = torch.tensor([[0, 0, 1, 2, 1, 1, 2, 2]])
    alone = trace.step_curve(torch.tensor([[0.0, 0, 1, 5, 3, 3, 9, 9]]), mixed, CANVAS, 2)
    assert alone.mean.tolist() == [2.0, 7.0]  # (1 + 3) / 2 and (5 + 9) / 2
    assert bool(alone.error.isnan().all())


def test_the_likeliest_code_agrees_with_what_is_known(text_pipe: Pipeline) -> None:
    canvas, model = text_pipe.canvas, text_pipe.model
    codec = canvas.span("text").codec
    found = text_pipe.continue_text("The", 2, 12, SamplingConfig(steps=8, trace=True))
    y = trace.frames(found)[4]
    codes = trace.likeliest(model, canvas, y, "text")
    view = canvas.view(y, "text")
    with torch.no_grad():
        logits = model.logits(model(y, canvas).flatten(0, 1), canvas.span("text")).unflatten(0, codes.shape)
    seen = set()
    for b in range(2):
        for i in range(canvas.num_tokens):
            known = view[b, i] >= 0
            agree = (codec.digits[:, known] == view[b, i][known]).all(-1)
            want = int(logits[b, i].masked_fill(~agree, -torch.inf).argmax()) if known.any() else -1
            assert int(codes[b, i]) == want
            seen.add(int(known.sum()))
    assert seen == {0, 1, 2}


def test_record_is_json_without_nan(text_pipe: Pipeline) -> None:
    found = text_pipe.continue_text("The", 2, 6, SamplingConfig(steps=4, trace=True))
    entry = json.loads(json.dumps(trace.record(found, text_pipe.canvas), allow_nan=False))[1]
    span = entry["spans"]["text"]
    assert entry["nfe"] == 4
    assert span["rank"][0] == [0, 0]
    assert span["rank"][-1] == [-1, -1]
    assert span["entropy"][0] == [None, None]
    rank = text_pipe.canvas.view(found.rank, "text")
    assert span["rank"] == rank[1].tolist()
    assert span["entropy"][4][0] == pytest.approx(
        float(text_pipe.canvas.view(found.trace.entropy, "text")[1, 4, 0]), abs=1e-6
    )
