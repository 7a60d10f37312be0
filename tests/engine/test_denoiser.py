"""The lazy, chunked head: what it computes does not depend on the chunks, and only what is needed reaches it."""

from __future__ import annotations

from collections.abc import Callable

import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import MASKINGS, Plan, Rows, SoftmaxHead, joint_loss, nelbo, sample
from mmprime.engine import denoiser as denoiser_module
from mmprime.engine import rollout as rollout_module

WORLD = oracle.mixed_world()
CANVAS, ROWS = WORLD.canvas, WORLD.y[::5]
LOSSES: dict[str, Callable[..., Tensor]] = {
    **{name: lambda *args, masking=name, **options: nelbo(*args, masking=masking, **options) for name in MASKINGS},
    "finite": lambda *args, **options: nelbo(*args, steps=3, **options),
    "joint": joint_loss,
}


def value_and_gradient(loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    value, gradient, _ = scored(loss)
    return value, gradient


def scored(loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor, int]:
    """Value, gradient and how often the head was called."""
    model = oracle.wrong(WORLD)
    value = loss(model, CANVAS, ROWS, generator=torch.Generator().manual_seed(0))
    value.sum().backward()
    assert model.table.grad is not None
    return value.detach(), model.table.grad, model.head_calls


@pytest.mark.parametrize("name", LOSSES)
def test_chunks_change_neither_value_nor_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, gradient, calls = scored(LOSSES[name])
    assert calls == len(CANVAS.spans)
    monkeypatch.setattr(SoftmaxHead, "kept", 0)  # all is computed anew in the backward pass
    for size in (60, 1):  # several tokens a chunk; one
        monkeypatch.setattr(denoiser_module, "_CHUNK_ELEMENTS", size)
        chunked_value, chunked_gradient, more = scored(LOSSES[name])
        assert more > calls  # the head really has seen more and smaller chunks
        calls = more
        assert torch.allclose(chunked_value, value, atol=1e-12)
        assert torch.allclose(chunked_gradient, gradient, atol=1e-12)


def test_chunks_change_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, model = Plan.first_hitting(CANVAS, 30, 1, per_step=2), oracle.wrong(WORLD)
    whole = sample(model, CANVAS, plan, generator=2, trace=True)
    calls, tokens, model.head_calls, model.head_tokens = model.head_calls, model.head_tokens, 0, 0
    monkeypatch.setattr(rollout_module, "DRAWN_AT_ONCE", 1)
    parts = sample(model, CANVAS, plan, generator=2, trace=True)
    assert calls < tokens == model.head_tokens == model.head_calls  # token after token
    assert torch.equal(whole.y, parts.y)
    assert whole.trace is not None
    assert parts.trace is not None
    assert torch.allclose(whole.trace.entropy, parts.trace.entropy, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_the_slope(name: str) -> None:
    """Autograd against a finite difference along a random direction, same random draws."""
    _, gradient = value_and_gradient(LOSSES[name])
    assert gradient.abs().sum() > 0
    assert gradient.isfinite().all()
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ends = []
    for step in (1e-5, -1e-5):
        model = oracle.wrong(WORLD)
        model.table.data.add_(step * direction)
        value = LOSSES[name](model, CANVAS, ROWS, generator=torch.Generator().manual_seed(0))
        ends.append(float(value.detach().sum()))
    slope = (ends[0] - ends[1]) / 2e-5
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-6)


def test_visible_and_absent_tokens_never_reach_the_head() -> None:
    given, absent = CANVAS.mask("text"), CANVAS.mask("image")
    model = oracle.wrong(WORLD)
    nelbo(model, CANVAS, WORLD.y, given=given)
    assert model.head_tokens == len(WORLD.y)  # the one token of the image
    model.head_tokens = 0
    joint_loss(model, CANVAS, Rows.of(CANVAS, ROWS, given, absent))
    assert model.head_tokens == 0
    assert model.calls == 2


def test_half_precision_logits_are_scored_in_float32() -> None:
    full, half = oracle.random_table(CANVAS), oracle.random_table(CANVAS, dtype=torch.bfloat16)
    full.table.data.copy_(half.table.data.double())
    a, b = (nelbo(m, CANVAS, WORLD.y, generator=torch.Generator().manual_seed(1)).detach() for m in (full, half))
    assert b.dtype == torch.float32
    assert torch.allclose(a.float(), b, rtol=1e-5, atol=1e-5)


def test_no_gradient_no_graph_same_value() -> None:
    model = oracle.wrong(WORLD)
    with torch.no_grad():
        plain = nelbo(model, CANVAS, ROWS, generator=torch.Generator().manual_seed(0))
    value, _ = value_and_gradient(LOSSES["independent"])
    assert torch.equal(plain, value)
