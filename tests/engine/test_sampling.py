"""Samples meet the exact distribution for every plan, for a denoiser that is wrong too."""

from __future__ import annotations

import math

import oracle
import oracle_walk
import pytest
import torch
from engine_world import count_plan

from mmprime.engine import MASKINGS, Canvas, Codec, Plan, Schedule, Span, nelbo, sample
from mmprime.engine.rng import categorical, generators, uniforms

WORLD = oracle.mixed_world()
CANVAS = WORLD.canvas
PERFECT, WRONG = oracle.perfect(WORLD), oracle.wrong(WORLD)
BATCH = 4000
REGIONS = [CANVAS.mask("image"), CANVAS.mask(digits=[1])]
SINGLETONS = {
    "first_hitting": lambda: Plan.first_hitting(CANVAS, BATCH, 1),
    "nested": lambda: Plan.nested(CANVAS, BATCH, 2),
    "token_synchronous": lambda: Plan.token_synchronous(CANVAS, BATCH, 3),
    "digit": lambda: Plan.ordered(CANVAS, BATCH, 4, by="digit"),
    "raster": lambda: Plan.ordered(CANVAS, BATCH, 5, by="raster"),
    "regions": lambda: Plan.ordered(CANVAS, BATCH, 6, by=REGIONS),
    "halton": lambda: Plan.halton(CANVAS, BATCH, 7),
}
BY_TIME = {
    f"{name}-{steps}": lambda masking=name, steps=steps: Plan.ancestral(
        CANVAS, Schedule.cosine(), steps, BATCH, 8 + steps, masking=masking
    )
    for name in MASKINGS
    for steps in (1, 2, 4)
}


def drawn(record: object) -> torch.Tensor:
    return oracle.counts_of(WORLD.index(record.y), len(WORLD.p))


@pytest.mark.parametrize("name", SINGLETONS)
def test_singleton_plans_of_the_perfect_denoiser_sample_the_data(name: str) -> None:
    oracle.assert_distribution(drawn(sample(PERFECT, CANVAS, SINGLETONS[name](), generator=20)), WORLD.p)


@pytest.mark.parametrize("name", [*SINGLETONS, *BY_TIME])
def test_every_plan_samples_the_distribution_it_scores(name: str) -> None:
    """Given the plans drawn, the distribution of a sample is the mean over plans of p(x | plan), by the oracle."""
    plan = {**SINGLETONS, **BY_TIME}[name]()
    oracle.assert_distribution(
        drawn(sample(WRONG, CANVAS, plan, generator=21)), oracle.mixture(WRONG, WORLD, plan.rank)
    )


@pytest.mark.parametrize("masking", MASKINGS)
def test_ancestral_samples_meet_the_exact_likelihood(masking: str) -> None:
    """Sampler and likelihood agree on p(x) at the same T: exp(-nll) of the oracle's walk over states."""
    for steps in (2, 3):
        plan = Plan.ancestral(CANVAS, Schedule.linear(), steps, BATCH, 30, masking=masking)
        nll, _ = oracle_walk.likelihood_of(WRONG, CANVAS, WORLD.y, masking, steps=steps)
        oracle.assert_distribution(drawn(sample(WRONG, CANVAS, plan, generator=31)), (-nll).exp())


def test_fixed_budgets_sample_what_they_should() -> None:
    for options in ({"per_step": 2}, {"steps": 3, "pace": Schedule.cosine()}, {"steps": 2, "masking": "nested"}):
        plan = count_plan(CANVAS, BATCH, 40, **options)
        oracle.assert_distribution(
            drawn(sample(WRONG, CANVAS, plan, generator=41)), oracle.mixture(WRONG, WORLD, plan.rank)
        )


def test_given_values_stay_and_condition_the_rest() -> None:
    given = torch.tensor([False, True, False, False, True, False])
    values = WORLD.y[13]
    agree = (WORLD.y[:, given] == values[given]).all(-1)
    probs = torch.where(agree, WORLD.p, 0.0) / WORLD.p[agree].sum()
    plan = Plan.first_hitting(CANVAS, BATCH, 50, given=given)
    record = sample(PERFECT, CANVAS, plan, given=torch.where(given, values, -1).expand(BATCH, -1), generator=51)
    assert (record.y[:, given] == values[given]).all()
    oracle.assert_distribution(drawn(record), probs)


def test_absent_subtokens_stay_masked_and_the_rest_has_its_marginal() -> None:
    absent = CANVAS.mask("image")
    plan = count_plan(CANVAS, BATCH, 52, "nested", absent=absent)
    record = sample(PERFECT, CANVAS, plan, generator=53)
    assert (record.y[:, absent] == -1).all()
    text = CANVAS.spans[0].codec.decode(CANVAS.view(record.y, "text"))
    oracle.assert_distribution(oracle.counts_of(text[:, 0] * 3 + text[:, 1], 9), WORLD.p.view(9, 5).sum(1))


# ---------------------------------------------------------------------------------------------- economy, streams


def test_idle_steps_are_not_computed_and_compacting_changes_no_digit() -> None:
    plan = Plan.ancestral(CANVAS, Schedule.linear(), 40, 64, 60)
    last = plan.rank.amax(-1)
    idle = last - plan.steps_used.sum(-1)  # of the steps up to an example's last reveal
    assert (last < 40).any()
    denoiser = oracle.wrong(WORLD)
    record = sample(denoiser, CANVAS, plan, generator=61)
    assert torch.equal(record.idle_steps, idle)
    assert torch.equal(record.nfe, last - idle)
    assert denoiser.forwarded == int(record.nfe.sum())  # examples really passed through the network
    packed = sample(denoiser, CANVAS, plan.compact(), generator=61)
    assert torch.equal(packed.y, record.y)
    assert torch.equal(packed.nfe, record.nfe)
    assert (packed.idle_steps == 0).all()  # whatever the longest of the batch


def test_only_tokens_with_something_to_reveal_reach_the_head() -> None:
    denoiser = oracle.wrong(WORLD)
    plan = Plan.nested(CANVAS, 10, 62)
    sample(denoiser, CANVAS, plan, generator=63)
    assert denoiser.head_tokens == 10 * CANVAS.num_subtokens  # one sub-token a step: one token a step


def test_a_sample_depends_on_its_own_stream_only() -> None:
    plan = Plan.ancestral(CANVAS, Schedule.cosine(), 5, 8, 64)
    whole = sample(WRONG, CANVAS, plan, generator=65).y
    part = sample(WRONG, CANVAS, Plan(plan.rank[:3], 5), generator=65).y
    assert torch.equal(part, whole[:3])
    seeds = lambda order: [torch.Generator().manual_seed(100 + s) for s in order]  # noqa: E731
    order = [4, 0, 7, 2, 1, 6, 3, 5]
    straight = sample(WRONG, CANVAS, plan, generator=seeds(range(8))).y
    shuffled = sample(WRONG, CANVAS, Plan(plan.rank[order], 5), generator=seeds(order)).y
    assert torch.equal(shuffled, straight[order])
    again = sample(WRONG, CANVAS, plan, generator=torch.Generator().manual_seed(1)).y
    assert torch.equal(again, sample(WRONG, CANVAS, plan, generator=torch.Generator().manual_seed(1)).y)


def test_plan_and_sample_streams_of_one_seed_differ() -> None:
    """With one seed for both, the values would otherwise be tied to the order."""
    plan = Plan.first_hitting(CANVAS, BATCH, 66)
    oracle.assert_distribution(drawn(sample(PERFECT, CANVAS, plan, generator=66)), WORLD.p)


# --------------------------------------------------------------------------------------- one token, temperature


class OneToken:
    """A fixed distribution over the codes of one token."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.row = logits

    def __call__(self, y: torch.Tensor, canvas: Canvas, cond: object = None) -> torch.Tensor:
        return self.row.expand(len(y), 1, -1)

    def logits(self, hidden: torch.Tensor, span: Span) -> torch.Tensor:
        return hidden


LOGITS = torch.tensor([0.3, 1.2, -0.7, 0.9, 0.0], dtype=torch.float64)
TOKEN = Canvas([Span("text", 1, Codec.from_table(torch.tensor([[1, 1], [0, 2], [1, 0], [0, 0], [2, 1]]), (3, 3)))])


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [1.0, 0.85, 0.5, 0.05])
def test_temperature_and_nucleus_on_one_token(temperature: float, top_p: float) -> None:
    plan = Plan.token_synchronous(TOKEN, BATCH, 70)
    record = sample(OneToken(LOGITS), TOKEN, plan, temperature=temperature, top_p=top_p, generator=71, trace=True)
    p = (LOGITS / temperature).softmax(0)
    kept, mass = [], 0.0
    for code in p.argsort(descending=True).tolist():
        if mass < top_p:
            kept.append(code)
            mass += float(p[code])
    probs = torch.zeros_like(p)
    probs[kept] = p[kept] / mass
    codes = TOKEN.unpack(record.y)["text"][:, 0]
    counts = oracle.counts_of(codes, 5)
    if len(kept) == 1:
        assert counts[kept[0]] == BATCH
    else:
        oracle.assert_distribution(counts, probs)
    entropy = -float(torch.special.xlogy(probs, probs).sum())
    assert record.trace is not None
    assert torch.allclose(record.trace.entropy, torch.full((BATCH, 2), entropy, dtype=torch.float64))
    assert torch.allclose(record.trace.confidence, probs[codes, None].expand(-1, 2))


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, [3]), (0.6, [0, 3]), (0.75, [0, 3]), (0.76, [0, 1, 3])])
def test_a_nucleus_is_cut_exactly_and_of_equal_codes_the_first_stay(top_p: float, kept: list[int]) -> None:
    """Shares 1/4, 1/8, 1/8, 1/2: a set of exactly top_p is enough; of the two eighths the first comes in."""
    canvas = Canvas([Span("text", 1, Codec.base(4, 1))])
    logits = torch.tensor([0.25, 0.125, 0.125, 0.5], dtype=torch.float64).log()
    plan = Plan.first_hitting(canvas, 400, 76)
    y = sample(OneToken(logits), canvas, plan, top_p=top_p, generator=77).y[:, 0]
    assert y.unique().tolist() == kept


def test_temperature_zero_is_greedy() -> None:
    plan = Plan.token_synchronous(TOKEN, 50, 72)
    assert (TOKEN.unpack(sample(OneToken(LOGITS), TOKEN, plan, temperature=0, generator=73).y)["text"] == 1).all()


def test_rare_codes_are_as_frequent_as_they_should_be() -> None:
    """One code against 2^14 others that share a quarter of the mass."""
    size = 1 << 14
    canvas = Canvas([Span("text", 1, Codec.base(size, 1))])
    logits = torch.full((size,), -math.log(3.0 * size), dtype=torch.float64)
    logits[0] = 0.0
    plan = Plan.first_hitting(canvas, 600, 74)
    y = sample(OneToken(logits), canvas, plan, generator=75).y[:, 0]
    rare = float((y > 0).double().mean())
    assert abs(rare - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 600)
    assert abs(float(y[y > 0].double().mean()) / size - 0.5) < 4.5 / math.sqrt(12 * 150)


def test_uniforms_are_finer_than_float32() -> None:
    u = uniforms(generators(3, 4), 500)
    assert u.dtype == torch.float64
    assert ((u * 2**24).frac() > 0).float().mean() > 0.99
    weights = torch.tensor([[0.0, 1e-300, 0.0, 2.0, 0.0]], dtype=torch.float64).expand(3, 5)
    edges = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert categorical(weights, edges).tolist() == [1, 3, 3]  # never an entry of weight zero


# ------------------------------------------------------------------------------------------------------ trace


def test_trace_holds_every_state_and_the_exact_confidence() -> None:
    plan = Plan.ancestral(CANVAS, Schedule.linear(), 4, 12, 80)
    seen = []
    record = sample(WRONG, CANVAS, plan, generator=81, trace=True, on_step=lambda k, y: seen.append((k, y.clone())))
    trace = record.trace
    assert trace is not None
    assert trace.y.shape == (4, 12, 6)
    for k, y in seen:
        assert torch.equal(y, torch.where(plan.rank <= k, record.y, -1))
        assert torch.equal(trace.y[k - 1], y)
    for b in range(12):
        for n in range(6):
            token, k = int(CANVAS.token_of[n]), int(plan.rank[b, n])
            digits = (CANVAS.token_of == token).nonzero()[:, 0]
            span = CANVAS.spans[int(CANVAS.span_of[n])]
            before = torch.where(plan.rank[b] < k, record.y[b], -1)
            row = WRONG.table[oracle.state_number(before[None], WRONG.radix)[0], token].detach()
            logits = row[: span.codec.num_codes]
            agree = ((before[digits] < 0) | (before[digits] == span.codec.digits)).all(-1)
            p = logits.masked_fill(~agree, -math.inf).softmax(0)
            assert float(trace.entropy[b, n]) == pytest.approx(-float(torch.special.xlogy(p, p).sum()), abs=1e-9)
            # the whole code drawn agrees with the digits visible after the step and has this probability
            after = torch.where(plan.rank[b] <= k, record.y[b], -1)[digits]
            possible = p[((after < 0) | (after == span.codec.digits)).all(-1)]
            assert float((possible - trace.confidence[b, n]).abs().min()) < 1e-9


def test_without_trace_nothing_is_kept_and_given_positions_have_none() -> None:
    given = CANVAS.mask("text")
    plan = Plan.first_hitting(CANVAS, 3, 82, given=given)
    start = torch.where(given, WORLD.y[:3], -1)
    assert sample(WRONG, CANVAS, plan, start, generator=83).trace is None
    trace = sample(WRONG, CANVAS, plan, start, generator=83, trace=True).trace
    assert trace is not None
    assert trace.confidence[:, given].isnan().all()
    assert trace.confidence[:, ~given].isfinite().all()


# --------------------------------------------------------------------------------------------------- refusals


def test_refusals() -> None:
    plan = Plan.first_hitting(CANVAS, 2, 0, given=CANVAS.mask("text"))
    start = torch.where(CANVAS.mask("text"), WORLD.y[:2], -1)
    for temperature in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"temperature .*{temperature}"):
            sample(WRONG, CANVAS, plan, start, temperature=temperature)
    for top_p in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"top_p .*{top_p}"):
            sample(WRONG, CANVAS, plan, start, top_p=top_p)
    with pytest.raises(ValueError, match="given value -1 but rank 0"):
        sample(WRONG, CANVAS, plan)
    with pytest.raises(ValueError, match="sub-token 4 of example 0: given value 2 but rank"):
        sample(WRONG, CANVAS, plan, torch.where(torch.arange(6) == 4, 2, start))
    with pytest.raises(ValueError, match=r"\(1, 6\)"):
        sample(WRONG, CANVAS, plan, start[:1])
    with pytest.raises(ValueError, match="digit 2 at sub-token 1 of example 0"):
        sample(WRONG, CANVAS, plan, torch.where(torch.arange(6) == 1, 2, start))
    with pytest.raises(ValueError, match=r"expected 6 .*\(2, 4\)"):
        sample(WRONG, CANVAS, Plan(torch.ones(2, 4, dtype=torch.int64), 1))
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        sample(WRONG, CANVAS, plan, start, generator=[torch.Generator()])


def test_sampling_builds_no_graph() -> None:
    trace = sample(WRONG, CANVAS, Plan.first_hitting(CANVAS, 2, 0), generator=0, trace=True).trace
    assert trace is not None
    assert not trace.entropy.requires_grad
    assert nelbo(WRONG, CANVAS, WORLD.y).requires_grad


def test_visible_digits_that_no_code_has_are_refused() -> None:
    canvas = Canvas([Span("a", 1, Codec.base(5, 3))])  # radices 2, 2, 2; codes 0..4: 1 1 ? does not exist
    plan = Plan.first_hitting(canvas, 1, 0, given=torch.tensor([True, True, False]))
    with pytest.raises(ValueError, match=r"no code agrees with the visible digits \[1, 1, -1\]"):
        sample(oracle.random_table(canvas), canvas, plan, given=torch.tensor([[1, 1, -1]]))
