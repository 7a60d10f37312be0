"""Approximate caches: exact where always fresh, less work and independent of the batch where not."""

import pytest
import torch
from model_world import make_model

from benchmarks.cached_dit import CachedDiT
from mmprime.engine import Canvas, Codec, Plan, Rollout, Span, begin, sample, sampler_of
from mmprime.models import DiTConfig, PrimeDiT


def line_model(length: int = 12) -> tuple[PrimeDiT, Canvas]:
    """A model of one text span, with random weights."""
    canvas = Canvas([Span("text", length, Codec.base(30, 2))])
    return make_model(canvas), canvas


def finished(rollout: Rollout) -> Rollout:
    while rollout.step():
        pass
    return rollout


@pytest.mark.parametrize("sampler", ["nested", "confidence", "remdm", "blocks"])
def test_a_cache_that_is_always_fresh_changes_nothing(sampler: str) -> None:
    model, canvas = line_model()
    cached = CachedDiT(model, refresh=1)
    options = {"size": 4} if sampler == "blocks" else {}
    exact, other = (
        finished(begin(denoiser, canvas, sampler_of(sampler, options, 6), generator=2, batch=3, cond=cond))
        for denoiser, cond in ((model, None), (cached, cached.condition(3)))
    )  # fmt: skip
    assert torch.equal(exact.y, other.y)
    assert cached.share == 1


@pytest.mark.parametrize("options", [{"refresh": 3}, {"block": 4}, {"block": 4, "prefix": True, "refresh": 2}])
def test_a_cache_computes_less_and_does_not_depend_on_the_batch(options: dict[str, int]) -> None:
    model, canvas = line_model()
    cached = CachedDiT(model, **options)  # type: ignore[arg-type]
    plan = Plan.ordered(canvas, 4, by="raster", steps=12)
    whole = sample(cached, canvas, plan, generator=5, cond=cached.condition(4))
    assert cached.share < 0.9
    assert (whole.y >= 0).all()
    again = sample(cached, canvas, plan, generator=5, cond=cached.condition(4))
    assert torch.equal(whole.y, again.y), "a new condition forgets the run before"
    first = Plan.ordered(canvas, 2, by="raster", steps=12)
    part = sample(cached, canvas, first, generator=5, cond=cached.condition(2))
    assert torch.equal(part.y, whole.y[:2])


def test_partial_steps_see_what_changed_since() -> None:
    """With one block the keys and values kept of the other tokens are exact: only they have changed. With more they
    are of the state at the last full pass."""
    canvas = Canvas([Span("text", 6, Codec.base(30, 2))])
    torch.manual_seed(0)
    shallow = PrimeDiT(canvas, DiTConfig(width=64, depth=1, heads=1)).eval()
    for parameter in shallow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for model, exact in ((shallow, True), (make_model(canvas), False)):
        cached = CachedDiT(model, refresh=10)
        cond = cached.condition(1)
        wanted = torch.ones(1, 6, dtype=torch.bool)
        y = torch.full((1, 12), -1)
        cached.hidden_at(y, canvas, cond, wanted)
        y[0, 2:6] = 1
        wanted[0, 1:] = False
        found = cached.hidden_at(y, canvas, cond, wanted)[:, 0]
        gap = (found - model(y, canvas)[:, 0]).abs().max()
        assert (gap < 1e-4) == exact, gap


def test_mistakes_are_refused() -> None:
    model, canvas = line_model()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CachedDiT(model, refresh=0)
    with pytest.raises(ValueError, match="refresh interval or a block size"):
        CachedDiT(model)
    with pytest.raises(ValueError, match="prefix cache a block size"):
        CachedDiT(model, refresh=2, prefix=True)
    cached = CachedDiT(model, refresh=2)
    with pytest.raises(ValueError, match=r"cond=cached.condition\(batch\)"):
        sample(cached, canvas, Plan.nested(canvas, 2))
    with pytest.raises(ValueError, match="one branch only"):
        cached.null_condition({})
