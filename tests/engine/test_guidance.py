"""Classifier-free guidance: a guided denoiser is a denoiser."""

from __future__ import annotations

import math
from collections.abc import Mapping

import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import BaseDenoiser, Guidance, Guided, Plan, Schedule, Span, begin, sample, sampler_of

WORLD = oracle.mixed_world()
CANVAS, WRONG = WORLD.canvas, oracle.wrong(WORLD)
TEXT = CANVAS.mask("text")
START = torch.where(TEXT, WORLD.y[22], -1)
NULL = 2


class ByLabel(oracle.TableDenoiser, BaseDenoiser):
    """One table for each label; `NULL` is the label that means none."""

    def __init__(self) -> None:
        super().__init__(CANVAS, torch.stack([oracle.random_table(CANVAS, seed).table.detach() for seed in range(3)]))

    def forward(self, y: Tensor, canvas: object, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        assert cond is not None
        self.forwarded += len(y)
        return self.table[cond["label"], oracle.state_number(y, self.radix)]

    def null_condition(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"label": torch.full_like(cond["label"], NULL)}


def guided_logits(guided: Guided, y: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Logits of the image token from the guided denoiser."""
    hidden = guided(y, CANVAS, cond)
    return guided.logits(hidden[:, CANVAS.token_slice("image")][:, 0], CANVAS.span("image")).detach()


def row(model: oracle.TableDenoiser, y: Tensor) -> Tensor:
    return model.table.detach()[oracle.state_number(y, model.radix), 2, :5]


def share(schedule: str, visible: float) -> float:
    """r(p) a second time, in plain Python."""
    name, *numbers = schedule.split(":")
    low, high = (float(number) for number in numbers) if name == "interval" else (0.0, 1.0)
    power = float(numbers[0]) if name == "power_cosine" and numbers else 4.0
    return {
        "constant": 1.0,
        "linear": visible,
        "power_cosine": 0.5 - 0.5 * math.cos(math.pi * visible**power),
        "interval": float(low <= visible < high),
    }[name]


SCHEDULES = ["constant", "linear", "power_cosine", "power_cosine:0.5", "interval:0:0.5", "interval:0.5:1"]


@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_logits_by_hand_when_a_span_is_given(scale: float, schedule: str) -> None:
    """ℓ_c + w r (ℓ_c - ℓ_u): ℓ_u sees the image only; none or one of its two digits is visible."""
    y = torch.stack([START, START.clone()])
    y[1, 4] = WORLD.y[22, 4]
    guided = Guided(WRONG, Guidance(scale, schedule))
    cond = guided.condition(CANVAS, (~TEXT).long().expand(2, -1), None)
    with_text, without = row(WRONG, y), row(WRONG, torch.where(TEXT, -1, y))
    weight = scale * torch.tensor([[share(schedule, 0.0)], [share(schedule, 0.5)]], dtype=torch.float64)
    expected = (1 + weight) * with_text - weight * without
    assert torch.allclose(guided_logits(guided, y, cond), expected, atol=1e-12)


def test_the_shape_of_each_schedule() -> None:
    visible = torch.arange(11, dtype=torch.float64) / 10
    for schedule in [*SCHEDULES, "interval:0.3:0.8", "power_cosine:1"]:
        exact = [share(schedule, number / 10) for number in range(11)]
        assert Guidance(1.0, schedule).share(visible).tolist() == pytest.approx(exact, abs=1e-12)


def test_logits_by_hand_with_a_label() -> None:
    model, label, y = ByLabel(), torch.tensor([0, 1, 1]), WORLD.y[:3].clone()
    y[:, 4:] = -1
    guided = Guided(model, Guidance(1.5, "constant"))
    cond = guided.condition(CANVAS, torch.ones(3, 6, dtype=torch.int64), {"label": label})
    number = oracle.state_number(y, model.radix)
    table = model.table.detach()[:, number, 2, :5]
    expected = table[NULL] + 2.5 * (table[label, torch.arange(3)] - table[NULL])
    assert torch.allclose(guided_logits(guided, y, cond), expected, atol=1e-12)


def test_each_span_and_each_token_has_its_own_scale() -> None:
    label = {"label": torch.tensor([1])}
    y = torch.full((1, 6), -1)
    rank = torch.ones_like(y)
    one = ByLabel().table.detach()[:, 0]
    for scale, weights in (
        ({"image": 3.0}, [0.0, 0.0, 3.0]),
        ({"image": 3.0, "text": 0.5}, [0.5, 0.5, 3.0]),
        (torch.tensor([-1.0, 2.0, 0.0]), [-1.0, 2.0, 0.0]),
    ):
        guided = Guided(ByLabel(), Guidance(scale, "constant"))
        hidden = guided(y, CANVAS, guided.condition(CANVAS, rank, label))[0]
        for token, weight in enumerate(weights):
            span = CANVAS.span("text" if token < 2 else "image")
            exact = one[1, token] + weight * (one[1, token] - one[NULL, token])
            found = guided.logits(hidden[token : token + 1], span)[0].detach()
            assert torch.allclose(found, exact[: span.codec.num_codes], atol=1e-12), (scale, token)


def test_only_spans_given_whole_are_dropped_example_by_example() -> None:
    given = torch.stack([TEXT, TEXT & (torch.arange(6) > 0), ~TEXT])
    cond = Guided(WRONG, Guidance(1.0)).condition(CANVAS, (~given).long(), None)
    assert torch.equal(cond["guidance_drop"], torch.stack([TEXT, torch.zeros(6, dtype=torch.bool), ~TEXT]))
    assert cond["guidance_scale"].tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_the_ramp_counts_neither_given_nor_absent_digits() -> None:
    rank = torch.tensor([[0, 0, 0, 0, 1, -1]])  # the text is given, one digit of the image never comes
    guided = Guided(WRONG, Guidance(3.0))
    y = torch.where(rank >= 0, WORLD.y[22:23], -1)
    cond = guided.condition(CANVAS, rank, None)
    with_text, without = row(WRONG, y), row(WRONG, torch.where(TEXT, -1, y))
    assert torch.allclose(guided_logits(guided, y, cond), without + 4.0 * (with_text - without), atol=1e-12)


@pytest.mark.parametrize("off", [0.0, None, Guidance(0.0, "constant"), Guidance({"image": 0.0}), Guidance({})])
def test_scale_zero_is_unguided_and_free(off: float | Guidance | None) -> None:
    plan = Plan.first_hitting(CANVAS, 40, 1, given=TEXT)
    start = START.expand(40, -1)
    plain = sample(WRONG, CANVAS, plan, start, generator=2)
    zero = sample(WRONG, CANVAS, plan, start, guidance=off, generator=2)
    assert torch.equal(plain.y, zero.y)
    assert torch.equal(plain.nfe, zero.nfe)
    almost = sample(WRONG, CANVAS, plan, start, guidance=1e-12, generator=2)
    assert torch.equal(plain.y, almost.y)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nfe_is_what_was_forwarded(schedule: str) -> None:
    """Two passes at the steps at which the weight is not zero, one at the others; no example pays for another."""
    plan = Plan.ancestral(CANVAS, Schedule.linear(), 3, 16, 3, given=TEXT)
    model = oracle.wrong(WORLD)
    record = sample(model, CANVAS, plan, START.expand(16, -1), guidance=Guidance(2.0, schedule), generator=4)
    exact = []
    for rank in plan.rank.tolist():
        before = [sum(0 < other < k for other in rank) / 2 for k in sorted(set(rank) - {0})]
        exact.append(sum(1 + (share(schedule, visible) > 0) for visible in before))
    assert record.nfe.tolist() == exact
    assert model.forwarded == sum(exact)


def test_an_adaptive_sampler_counts_in_the_same_way() -> None:
    model, start = oracle.wrong(WORLD), START.expand(8, -1)
    sampler = sampler_of("confidence", steps=2)
    record = sample(model, CANVAS, sampler, start, guidance=2.0, generator=4)
    assert record.nfe.tolist() == [3] * 8  # digit after digit: nothing is visible before the first
    assert model.forwarded == 24


def test_guidance_changes_neither_ranks_nor_steps() -> None:
    plan = Plan.ancestral(CANVAS, Schedule.cosine(), 4, 200, 3, given=TEXT)
    start = START.expand(200, -1)
    plain = sample(WRONG, CANVAS, plan, start, generator=4, trace=True)
    for schedule in SCHEDULES:
        strong = sample(WRONG, CANVAS, plan, start, generator=4, trace=True, guidance=Guidance(9.0, schedule))
        assert torch.equal(strong.rank, plain.rank)
        assert torch.equal(strong.idle_steps, plain.idle_steps)
        assert plain.trace is not None
        assert strong.trace is not None
        assert torch.equal(strong.trace.y >= 0, plain.trace.y >= 0)  # the same digits are visible after every step


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_guided_samples_have_the_distribution_of_the_guided_logits(schedule: str) -> None:
    """Carry-over comes after guidance: the two digits of the image drawn one after the other."""
    batch, scale = 6000, 1.5
    plan = Plan.ordered(CANVAS, batch, 5, by="raster", given=TEXT)
    record = sample(WRONG, CANVAS, plan, START.expand(batch, -1), generator=6, guidance=Guidance(scale, schedule))
    digits, probs = CANVAS.span("image").codec.digits, torch.ones(5, dtype=torch.float64)
    for step in range(2):
        weight = scale * share(schedule, step / 2)
        for code in range(5):
            y = START.clone()
            y[4 : 4 + step] = digits[code, :step]
            with_text, without = row(WRONG, y[None])[0], row(WRONG, torch.where(TEXT, -1, y)[None])[0]
            logits = with_text + weight * (with_text - without)
            possible = (digits[:, :step] == digits[code, :step]).all(-1)
            p = logits.masked_fill(~possible, -torch.inf).softmax(0)
            probs[code] *= p[(digits[:, : step + 1] == digits[code, : step + 1]).all(-1)].sum()
    codes = CANVAS.span("image").codec.decode(CANVAS.view(record.y, "image"))[:, 0]
    oracle.assert_distribution(oracle.counts_of(codes, 5), probs)


def test_the_guided_distribution_is_normalised_over_the_codes_there_are() -> None:
    """Two tokens, the first given: p' ∝ p(b | a)^(1+w) p(b)^(-w) from the joint distribution itself, whose cells
    without a code stay empty."""
    codec = oracle.pair_world().canvas.spans[0].codec  # three codes on a 2 x 2 grid
    world = oracle.make_world([Span("a", 1, codec), Span("b", 1, codec)], seed=3)
    joint, a, scale, batch = world.p.view(3, 3), 1, 1.5, 6000
    probs = (joint[a] / joint[a].sum()) ** (1 + scale) * joint.sum(0) ** -scale
    probs = probs / probs.sum()
    start = torch.cat([codec.digits[a], torch.tensor([-1, -1])]).expand(batch, -1)
    guidance = Guidance(scale, "constant")
    run = begin(oracle.perfect(world), world.canvas, Plan.token_synchronous(world.canvas, batch, 1, given=start >= 0),
                start, generator=2, guidance=guidance)  # fmt: skip
    first = {name: value[:1] for name, value in run.cond.items()}
    hidden = run.denoiser.hidden_at(run.y[:1], run.canvas, first, torch.tensor([[False, True]]))
    logits = run.denoiser.logits(hidden[:, 1], world.canvas.span("b"))
    grid = codec.to_grid(logits.detach()).flatten().softmax(0)
    assert torch.allclose(grid[codec.cell], probs, atol=1e-12)
    assert float(grid[codec.cell].sum()) == pytest.approx(1, abs=1e-12)
    while run.step():
        pass
    drawn = codec.decode(world.canvas.view(run.y, "b"))[:, 0]  # raises if a code that does not exist was drawn
    oracle.assert_distribution(oracle.counts_of(drawn, 3), probs)


def test_guided_streams_do_not_depend_on_the_batch() -> None:
    plan = Plan.first_hitting(CANVAS, 6, 7)
    label = {"label": torch.tensor([0, 1, 0, 1, 1, 0])}
    whole = sample(ByLabel(), CANVAS, plan, guidance=2.0, generator=8, cond=label)
    part = sample(
        ByLabel(), CANVAS, Plan(plan.rank[:2], 6), guidance=2.0, generator=8, cond={"label": label["label"][:2]}
    )
    assert torch.equal(part.y, whole.y[:2])
    assert torch.equal(part.nfe, whole.nfe[:2])


def test_a_guided_run_is_taken_up_where_it_was_left() -> None:
    plan = Plan.first_hitting(CANVAS, 6, 7)

    def request() -> dict:
        return {"cond": {"label": torch.tensor([0, 1, 0, 1, 1, 0])}, "guidance": Guidance(2.0, "interval:0.3:0.8")}

    run = begin(ByLabel(), CANVAS, plan, generator=8, **request())
    for _ in range(3):
        run.step()
    rest = sample(ByLabel(), CANVAS, plan, generator=1, state=run.state(), **request())
    whole = sample(ByLabel(), CANVAS, plan, generator=8, **request())
    assert torch.equal(rest.y, whole.y)
    assert torch.equal(rest.nfe, whole.nfe)


@pytest.mark.parametrize(
    "schedule",
    ["exponential", "interval", "interval:0.5:0.5", "interval:0.8:0.2", "interval:0:2", "interval:a:b", "linear:2",
     "power_cosine:0", "power_cosine:-1", "power_cosine:nan"],
)  # fmt: skip
def test_schedules_that_do_not_exist(schedule: str) -> None:
    with pytest.raises(
        ValueError, match=f"no guidance schedule '{schedule}'; there are constant, linear, power_cosine"
    ):
        Guidance(1.0, schedule)


def test_refusals() -> None:
    for scale in (-2.0, float("nan"), float("inf"), {"image": -2.0}, torch.tensor([0.0, -2.0, 0.0])):
        with pytest.raises(ValueError, match="guidance must be a finite number >= -1, got"):
            Guidance(scale)
    plan, start = Plan.first_hitting(CANVAS, 2, 0, given=TEXT), START.expand(2, -1)
    with pytest.raises(ValueError, match="no span 'picture' on this canvas"):
        sample(WRONG, CANVAS, plan, start, guidance=Guidance({"picture": 1.0}))
    with pytest.raises(ValueError, match=r"guidance has shape \(2,\), the canvas 3 tokens"):
        sample(WRONG, CANVAS, plan, start, guidance=Guidance(torch.ones(2)))
    with pytest.raises(ValueError, match="nothing to guide by"):
        sample(WRONG, CANVAS, Plan.first_hitting(CANVAS, 2, 0), guidance=1.0)


def test_the_wrapped_denoiser_keeps_the_protocol() -> None:
    guided = Guided(WRONG, Guidance(1.0))
    cond = guided.condition(CANVAS, (~TEXT).long().expand(2, -1), None)
    hidden = guided(START.expand(2, -1), CANVAS, cond)
    assert hidden.shape[:2] == (2, CANVAS.num_tokens)
    span: Span = CANVAS.span("text")
    assert guided.logits(hidden[:, 0], span).shape == (2, span.codec.num_codes)
