"""The heads that draw digits, against tables of conditionals that agree with no joint distribution."""

from __future__ import annotations

import itertools
import math
from typing import Any

import digit_oracle
import oracle
import oracle_walk
import pytest
import torch

from mmprime.engine import (
    MASK_ID,
    MASKINGS,
    Canvas,
    ChainHead,
    Codec,
    FactoredHead,
    Guidance,
    Head,
    NonFiniteLogits,
    Plan,
    Schedule,
    Span,
    begin,
    exact_nelbo,
    generator_of,
    head_of,
    joint_loss,
    nelbo,
    sample,
)
from mmprime.engine.guidance import Guided
from mmprime.engine.heads import DigitQuery, SoftmaxHead, Tokens

PAIR = digit_oracle.product_world()  # two tokens of a bit and a trit
TRIPLE = digit_oracle.product_world(1, (2, 3, 2))
HEADS = [FactoredHead(), ChainHead(), ChainHead(rounds=2)]
WORLDS = [PAIR, TRIPLE]
HEADS_OF = [(head, world) for head in HEADS for world in WORLDS if head != ChainHead(rounds=2) or world is not PAIR]


def named(value: object) -> str:
    if isinstance(value, oracle.World):
        return "pair" if value is PAIR else "triple"
    return f"{value.name}{getattr(value, 'rounds', None) or ''}" if isinstance(value, Head) else str(value)


@pytest.mark.parametrize(("head", "world"), HEADS_OF, ids=named)
@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("steps", [None, 1, 2, 3])
def test_exact_values_are_those_of_a_walk_over_states(
    head: Head, world: oracle.World, masking: str, steps: int | None
) -> None:
    model = digit_oracle.DigitTable(world.canvas, head)
    value = exact_nelbo(model, world.canvas, world.y, steps, masking)
    log_p = digit_oracle.log_reveal
    nll, bound = oracle_walk.likelihood_of(model, world.canvas, world.y, masking, steps=steps, log_p=log_p)
    assert torch.allclose(value.nll, nll, atol=1e-9)
    assert torch.allclose(value.bound, bound, atol=1e-9)
    assert float((-value.nll).exp().sum()) == pytest.approx(1, abs=1e-9)  # a distribution over all configurations
    assert bool((value.bound > value.nll - 1e-9).all())


@pytest.mark.parametrize(("head", "world"), HEADS_OF, ids=named)
@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("steps", [None, 2])
def test_estimates_have_the_exact_bound_as_their_mean(
    head: Head, world: oracle.World, masking: str, steps: int | None
) -> None:
    model = digit_oracle.DigitTable(world.canvas, head)
    rows = world.y[5:6].expand(4000, -1)
    exact = exact_nelbo(model, world.canvas, rows[:1], steps, masking).bound
    found = nelbo(model, world.canvas, rows, steps, masking, generator=generator_of(3))
    oracle.assert_mean(found.double(), float(exact))


@pytest.mark.parametrize(("head", "world"), HEADS_OF, ids=named)
@pytest.mark.parametrize("masking", MASKINGS)
def test_plans_draw_the_distribution_they_score(head: Head, world: oracle.World, masking: str) -> None:
    model = digit_oracle.DigitTable(world.canvas, head)
    plan = Plan.ancestral(world.canvas, Schedule.linear(), 2, 4000, 5, masking=masking)
    found = sample(model, world.canvas, plan, generator=6)
    want = oracle.mixture(model, world, plan.rank, digit_oracle.log_reveal)
    oracle.assert_distribution(oracle.counts_of(world.index(found.y), len(world.y)), want)


def test_a_chain_of_one_joint_distribution_is_the_softmax() -> None:
    """Conditionals of one distribution of codes chain to it, in every set of digits."""
    table = oracle.random_table(PAIR.canvas)

    class Chained(digit_oracle.DigitTable):
        def __call__(self, y, canvas, cond=None):
            return table(y, canvas)

        def digit_logits(self, hidden, span, query: DigitQuery):
            grid = span.codec.to_grid(table.logits(hidden, span))[query.token]
            out = torch.full((len(grid), 3), -torch.inf, dtype=torch.float64)
            for row, (level, known) in enumerate(zip(query.level.tolist(), query.known.tolist())):
                part = grid[row]
                for axis, digit in enumerate(known):
                    if digit >= 0 and axis != level:
                        part = part.index_select(axis, torch.tensor([digit]))
                values = part.logsumexp([axis for axis in range(2) if axis != level])
                out[row, : len(values)] = values
            return out

    chained = Chained(PAIR.canvas, ChainHead())
    for masking, steps in itertools.product(MASKINGS, (None, 1, 2)):
        one = exact_nelbo(chained, PAIR.canvas, PAIR.y, steps, masking)
        two = exact_nelbo(table, PAIR.canvas, PAIR.y, steps, masking)
        assert torch.allclose(one.bound, two.bound.detach(), atol=1e-9)
        assert torch.allclose(one.nll, two.nll.detach(), atol=1e-9)


def test_the_factored_head_pays_the_total_correlation_of_a_token() -> None:
    """Two equal fair bits: apart ln 2 in continuous time, 1.5 ln 2 at T = 2; as a whole token 2 ln 2 always."""
    codes, y = torch.arange(4)[:, None], torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    world = oracle.World(
        Canvas([Span("image", 1, Codec.product((2, 2)))]), codes, y, torch.tensor([0.5, 0.0, 0.0, 0.5]).double()
    )
    model = digit_oracle.DigitTable(world.canvas, FactoredHead())
    table = torch.zeros(9, 1, 2, 1, 2, dtype=torch.float64)
    for state in itertools.product((-1, 0, 1), repeat=2):
        number = oracle.state_number(torch.tensor([state]), [2, 2])[0]
        for level in range(2):
            if state[1 - level] >= 0:
                table[number, 0, level, 0, 1 - state[1 - level]] = -60.0
    model.table = table.expand(-1, -1, -1, 9, -1)
    bound = {
        (masking, steps): float(exact_nelbo(model, world.canvas, y[:1], steps, masking).bound)
        for masking in ("independent", "token_synchronous")
        for steps in (None, 2)
    }
    ln2 = math.log(2)
    assert bound["independent", None] == pytest.approx(ln2)
    assert bound["independent", 2] == pytest.approx(1.5 * ln2)
    assert bound["token_synchronous", None] == bound["token_synchronous", 2] == pytest.approx(2 * ln2)


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_the_joint_loss_of_digits_is_a_bound_where_none_depends_on_another(head: Head) -> None:
    """Factored: the loss of any masking by sub-tokens is the continuous bound; whole tokens: of any head."""
    model = digit_oracle.DigitTable(PAIR.canvas, head)
    rows = PAIR.y[7:8].expand(6000, -1)
    for masking in ["token_synchronous", *(["independent"] if not head.chains else [])]:
        exact = float(exact_nelbo(model, PAIR.canvas, rows[:1], None, masking).bound)
        loss = joint_loss(model, PAIR.canvas, rows, masking=masking, generator=generator_of(4))
        oracle.assert_mean(loss.double(), exact)


def test_a_chain_is_trained_on_every_set_of_known_digits() -> None:
    known: set[tuple[int, tuple[bool, ...]]] = set()  # of each digit asked for: what the network may look at,
    of_step: set[tuple[int, tuple[bool, ...]]] = set()  # and which of that is masked for the trunk

    class Watched(digit_oracle.DigitTable):
        def __call__(self, y, canvas, cond=None):
            self.visible = y[(y < 0).any(-1)]
            return super().__call__(y, canvas, cond)

        def digit_logits(self, hidden, span, query):
            looked_at, level = query.known >= 0, query.level.tolist()
            known.update(zip(level, map(tuple, looked_at.tolist())))
            of_step.update(zip(level, map(tuple, (looked_at & (self.visible[query.token] < 0)).tolist())))
            return super().digit_logits(hidden, span, query)

    model = Watched(TRIPLE.canvas, ChainHead())
    rows = TRIPLE.y[:1].expand(500, -1)
    joint_loss(model, TRIPLE.canvas, rows, masking="token_synchronous", generator=generator_of(1))
    assert known == of_step == {(level, tuple(j < level for j in range(3))) for level in range(3)}
    joint_loss(model, TRIPLE.canvas, rows, masking="independent", generator=generator_of(1))
    sets = list(itertools.product((False, True), repeat=3))
    assert known == {(j, each) for j in range(3) for each in sets if not each[j]}
    assert of_step == {(j, each) for j in range(3) for each in sets if not any(each[j:])}


def test_only_the_digits_of_a_step_are_asked_for() -> None:
    """A plan of singletons asks for one digit a step, whatever else is masked."""
    model = digit_oracle.DigitTable(TRIPLE.canvas, ChainHead())
    sample(model, TRIPLE.canvas, Plan.first_hitting(TRIPLE.canvas, 10, 3), generator=1)
    assert model.asked == 30


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_temperature_and_nucleus_act_on_each_digit(head: Head) -> None:
    """One token of a bit and a trit at once: greedy, tempered by level, and the nucleus of each digit."""
    world = digit_oracle.product_world(1)
    model, y = digit_oracle.DigitTable(world.canvas, head), (-1, -1)
    plan = Plan(torch.ones(6000, 2, dtype=torch.int64), 1)
    first = model.chances(y, 0, y, 0)

    def second(bit: int, power: float = 1.0) -> torch.Tensor:
        return model.chances(y, 0, (bit, -1) if head.chains else y, 1, power)

    greedy = sample(model, world.canvas, Plan(plan.rank[:1], 1), generator=1, temperature=0.0).y[0].tolist()
    assert greedy == [int(first.argmax()), int(second(int(first.argmax())).argmax())]
    hot = sample(model, world.canvas, plan, generator=1, temperature=torch.tensor([1.0, 2.0]).double()).y
    want = torch.cat([first[b] * second(b, 0.5) for b in range(2)])
    oracle.assert_distribution(oracle.counts_of(world.index(hot), 6), want)
    top_p = float(first.max()) - 1e-6  # keeps the likelier bit only
    kept = sample(model, world.canvas, plan, generator=2, top_p=top_p).y
    assert bool((kept[:, 0] == first.argmax()).all())


def test_a_trace_has_the_probability_and_entropy_of_each_digit() -> None:
    world = digit_oracle.product_world(1)
    model = digit_oracle.DigitTable(world.canvas, ChainHead())
    found = sample(model, world.canvas, Plan(torch.ones(1, 2, dtype=torch.int64), 1), generator=3, trace=True)
    bit, trit = found.y[0].tolist()
    first, second = model.chances((-1, -1), 0, (-1, -1), 0), model.chances((-1, -1), 0, (bit, -1), 1)
    assert found.trace is not None
    assert found.trace.confidence[0].tolist() == pytest.approx([float(first[bit]), float(second[trit])])
    nats = [-float(torch.special.xlogy(p, p).sum()) for p in (first, second)]
    assert found.trace.entropy[0].tolist() == pytest.approx(nats)


@pytest.mark.parametrize("head", HEADS, ids=named)
@pytest.mark.parametrize("scale", [-1.0, 0.7])
def test_guidance_acts_on_each_digit(head: Head, scale: float) -> None:
    """ℓ_c + w (ℓ_c - ℓ_u) digit by digit; scale -1 is the unconditional branch."""
    canvas = Canvas([Span("text", 1, Codec.product((2, 3))), Span("image", 1, Codec.product((2, 3)))])

    class Two(digit_oracle.DigitTable):
        def __call__(self, y, canvas, cond=None):
            return self.table[oracle.state_number(y, [2, 3] * 2)].flatten(2)

    world = digit_oracle.product_world()
    model = Two(world.canvas, head)
    guided = Guided(model, Guidance(scale, "constant"))
    rank = torch.tensor([[0, 0, 1, 1]])
    y = torch.tensor([[1, 2, -1, -1]])
    hidden = guided(y, canvas, guided.condition(canvas, rank, None))[:, 1]
    query = DigitQuery(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([[-1, -1], [1, -1]]))
    span = canvas.spans[1]
    found = guided.digit_logits(hidden, span, query)
    with_text = model.digit_logits(model(y, canvas)[:, 1], span, query)
    without = model.digit_logits(model(torch.full_like(y, MASK_ID), canvas)[:, 1], span, query)
    want = with_text + scale * (with_text - without)
    assert torch.allclose(found[torch.isfinite(want)], want[torch.isfinite(want)])
    assert bool(torch.isneginf(found[0, 2]))


def test_guidance_of_some_tokens_leaves_the_others_as_they_are() -> None:
    """Only the second token of the image is guided; digits are asked for in an order of their own."""
    codec = Codec.product((2, 3))
    canvas = Canvas([Span("text", 1, codec), Span("image", 2, codec)])

    class Three(digit_oracle.DigitTable):
        def __call__(self, y, canvas, cond=None):
            return self.table[oracle.state_number(y, [2, 3] * 3)].flatten(2)

    model = Three(digit_oracle.product_world(3).canvas, ChainHead())
    guided = Guided(model, Guidance(torch.tensor([0.0, 0.0, 2.0]), "constant"))
    y, span = torch.tensor([[1, 2, -1, -1, -1, -1]]), canvas.spans[1]
    hidden = guided(y, canvas, guided.condition(canvas, torch.tensor([[0, 0, 1, 1, 1, 1]]), None))[0, 1:]
    query = DigitQuery(torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1]), torch.tensor([[1, -1], [-1, -1], [0, -1]]))
    found = guided.digit_logits(hidden, span, query)
    with_text, without = (
        model.digit_logits(model(state, canvas)[0, 1:], span, query) for state in (y, torch.full_like(y, MASK_ID))
    )
    assert torch.equal(found[:2], with_text[:2])
    assert torch.allclose(found[2], with_text[2] + 2 * (with_text[2] - without[2]))


def test_the_factored_head_is_told_nothing_of_its_step() -> None:
    """Neither what else is revealed nor, in training, numbers drawn for what may be known."""

    class Watched(digit_oracle.DigitTable):
        def digit_logits(self, hidden, span, query):
            assert bool((query.known == MASK_ID).all())
            return super().digit_logits(hidden, span, query)

    model = Watched(TRIPLE.canvas, FactoredHead())
    sample(model, TRIPLE.canvas, Plan(torch.ones(20, 3, dtype=torch.int64), 1), generator=1)
    exact_nelbo(model, TRIPLE.canvas, TRIPLE.y, 1, "token_synchronous")
    ours, plain = generator_of(1), generator_of(1)
    joint_loss(digit_oracle.DigitTable(PAIR.canvas, FactoredHead()), PAIR.canvas, PAIR.y, generator=ours)
    joint_loss(oracle.random_table(PAIR.canvas), PAIR.canvas, PAIR.y, generator=plain)
    assert torch.equal(ours.get_state(), plain.get_state())


@pytest.mark.parametrize("head", [SoftmaxHead(), *HEADS], ids=named)
def test_what_contradicts_the_visible_is_impossible_and_revealing_nothing_is_free(head: Head) -> None:
    model: Any = oracle.random_table(PAIR.canvas)
    if not isinstance(head, SoftmaxHead):
        model = digit_oracle.DigitTable(PAIR.canvas, head)
    visible = torch.tensor([[1, -1]])
    tokens = Tokens(
        PAIR.canvas.spans[0], model(torch.tensor([[1, -1, -1, -1]]), PAIR.canvas)[0, :1], visible, visible[:, 0]
    )
    nothing, one, other = head.nats(model, tokens, torch.tensor([[[1, -1]], [[1, 2]], [[0, 2]]]))[:, 0].tolist()
    assert nothing == 0
    assert 0 < one < math.inf
    assert other == math.inf


def test_a_run_of_digits_is_saved_and_taken_up() -> None:
    from mmprime.engine import SAMPLERS, sampler_of

    for name in SAMPLERS:
        if name == "regions":
            continue
        model = digit_oracle.DigitTable(PAIR.canvas, ChainHead())
        whole = sample(model, PAIR.canvas, sampler_of(name), generator=4, batch=3).y
        run = begin(model, PAIR.canvas, sampler_of(name), generator=4, batch=3)
        run.step()
        state = run.state()
        again = begin(model, PAIR.canvas, sampler_of(name), generator=9, plan_generator=4, batch=3, state=state)
        while again.step():
            pass
        assert torch.equal(again.y, whole), name


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"68719476736 codes takes 274877906944 bytes.*'factored' or 'chain'"):
        SoftmaxHead().check(Span("image", 4, Codec.product((8,) * 12)))
    with pytest.raises(ValueError, match=r"of 4 only 3 are codes.*product is 3, or the head 'softmax'"):
        ChainHead().check(Span("text", 4, Codec.base(3, 2)))
    ChainHead().check(Span("text", 4, Codec.base(4, 2)))
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        ChainHead(0)
    with pytest.raises(ValueError, match=r"unknown head 'flow'; there are softmax, factored, chain"):
        head_of("flow")
    with pytest.raises(ValueError, match=r"rounds=2 is for the head 'chain', not 'factored'"):
        head_of("factored", 2)
    model = digit_oracle.DigitTable(PAIR.canvas, ChainHead())
    model.table = model.table.clone()
    model.table[0, 1, 1] = torch.nan
    with pytest.raises(NonFiniteLogits, match=r"span 'image', token 1, digit level 1: the largest logit is nan"):
        sample(model, PAIR.canvas, Plan(torch.ones(1, 4, dtype=torch.int64), 1), generator=1)
