"""Wrong digits among the visible ones: how they are drawn, what the loss counts of them, what a model learns by it."""

from __future__ import annotations

import itertools
import math

import digit_oracle
import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import (
    MASK_ID,
    Canvas,
    ChainHead,
    Codec,
    DigitNoise,
    FactoredHead,
    Head,
    Rows,
    SoftmaxHead,
    Span,
    generator_of,
    joint_loss,
)
from mmprime.engine.heads import Request, Tokens

PAIR = digit_oracle.product_world()  # two tokens of a bit and a trit
TRIPLE = Canvas([Span("image", 500, Codec.product((2, 3, 1)))])
HEADS = [FactoredHead(), ChainHead(), ChainHead(rounds=2)]


def named(head: Head) -> str:
    return f"{head.name}{getattr(head, 'rounds', None) or ''}"


# ------------------------------------------------------------------------------------------------- what is drawn


def test_a_replaced_digit_has_any_other_value_alike_at_a_rate_of_its_example() -> None:
    noise = DigitNoise(0.4)
    y = torch.ones(400, 1500, dtype=torch.int64).masked_fill(TRIPLE.digit_of == 2, 0)
    where = noise.reaches(TRIPLE) & (torch.arange(1500) % 4 > 0)
    found = noise.apply(TRIPLE, y, where.expand(400, -1), generator_of(1))
    changed = found != y
    assert not bool(changed[:, ~where].any())
    assert not bool(changed[:, TRIPLE.digit_of == 2].any())  # its only value is 0
    rate = changed[:, where].double().mean(-1)
    assert float(rate.min()) < 0.02
    assert 0.38 < float(rate.max()) < 0.46
    oracle.assert_mean(rate, 0.2)
    trits = found[:, where & (TRIPLE.digit_of == 1)]
    oracle.assert_mean((trits[trits != 1] == 2).double(), 0.5)
    assert bool((found[:, TRIPLE.digit_of == 0] <= 1).all())
    fine = DigitNoise(1.0, (1,)).apply(TRIPLE, y, DigitNoise(1.0, (1,)).reaches(TRIPLE).expand(400, -1), None)
    assert (fine != y).any(0).tolist() == (TRIPLE.digit_of == 1).tolist()


def test_what_noise_cannot_be() -> None:
    for rate in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=rf"rate of noise lies in \(0, 1\], got {rate}"):
            DigitNoise(rate)
    with pytest.raises(ValueError, match="digit level 3 is none of 0 to 2"):
        DigitNoise(0.1, (3,)).check(TRIPLE)
    holes = Canvas([Span("image", 4, Codec.base(3, 2))])
    with pytest.raises(ValueError, match=r"span 'image' has 3 codes among 4 combinations.*product is 3, or no noise"):
        joint_loss(oracle.random_table(holes), holes, torch.zeros(2, 8, dtype=torch.int64), noise=DigitNoise(0.1))


# ------------------------------------------------------------------------------------------------- what is counted


@pytest.mark.parametrize(
    ("masking", "head"), [("independent", FactoredHead()), *(("token_synchronous", head) for head in HEADS)], ids=str
)
def test_the_loss_counts_masked_digits_and_true_values_of_visible_ones(masking: str, head: Head) -> None:
    """All states of two tokens, all ways to be wrong in their fine digits: E over r of Π r^k (1-r)^(n-k) 2^-k; by whole
    tokens the masked digits are chained. (By digits, what a chain may know of its own step is random.)"""
    model, y0, rate = digit_oracle.DigitTable(PAIR.canvas, head), PAIR.y[7].tolist(), 0.5
    units = [(0, 1), (2, 3)] if masking == "token_synchronous" else [(0,), (1,), (2,), (3,)]
    grid = torch.linspace(0, rate, 2001, dtype=torch.float64)
    expected = 0.0
    for count in range(1, len(units) + 1):
        for chosen in itertools.combinations(units, count):
            masked = {n for unit in chosen for n in unit}
            fine = [n for n in (1, 3) if n not in masked]
            state_chance = 1 / (len(units) * math.comb(len(units), count))
            for values in itertools.product(range(3), repeat=len(fine)):
                y = [-1 if n in masked else d for n, d in enumerate(y0)]
                for n, value in zip(fine, values):
                    y[n] = value
                wrong = sum(y[n] != y0[n] for n in fine)
                chance = float((grid**wrong * (1 - grid) ** (len(fine) - wrong)).mean()) / 2**wrong
                nats = len(units) / count * masked_nats(model, y, y0, masked)
                nats += sum(visible_nats(model, y, n, y0[n]) for n in fine)
                expected += state_chance * chance * nats
    rows, noise = PAIR.y[7:8].expand(20000, -1), DigitNoise(rate, (1,))
    found = joint_loss(model, PAIR.canvas, rows, masking=masking, generator=generator_of(2), noise=noise)
    oracle.assert_mean(found.double(), expected, floor=1e-3)


def masked_nats(model: digit_oracle.DigitTable, y: list[int], y0: list[int], masked: set[int]) -> float:
    aim = torch.tensor([[y0[n] if n in masked else y[n] for n in range(4)]])
    visible = frozenset(range(4)) - frozenset(masked)
    return -float(digit_oracle.log_reveal(model, PAIR.canvas, aim, visible, frozenset(masked)))


def visible_nats(model: digit_oracle.DigitTable, y: list[int], n: int, true: int) -> float:
    """Of one visible digit by the state as it is, the other digit of its token known."""
    token, level = divmod(n, 2)
    known = [MASK_ID if j == level else y[2 * token + j] for j in range(2)]
    return -math.log(float(model.chances(tuple(y), token, tuple(known), level)[true]))


def test_given_digits_are_neither_wrong_nor_counted() -> None:
    given = torch.tensor([True, True, False, False])

    class Watched(digit_oracle.DigitTable):
        def __call__(self, y, canvas, cond=None):
            seen.append(y[:, given])
            return super().__call__(y, canvas, cond)

    seen: list[Tensor] = []
    model = Watched(PAIR.canvas, FactoredHead())
    rows = Rows.of(PAIR.canvas, PAIR.y[20:21].expand(500, -1), given)
    joint_loss(model, PAIR.canvas, rows, generator=generator_of(1), noise=DigitNoise(1.0))
    assert bool((seen[0] == PAIR.y[20, given]).all())
    assert len(seen) == 1  # one pass, for both parts of the loss
    assert model.asked == 500 * 2  # of each example its two free digits, masked or not


def test_without_noise_the_loss_and_its_random_numbers_are_the_same_to_the_bit() -> None:
    model, loss = oracle.random_table(PAIR.canvas), []
    streams = generator_of(3), generator_of(3)
    loss.append(joint_loss(model, PAIR.canvas, PAIR.y, generator=streams[0]))
    loss.append(joint_loss(model, PAIR.canvas, PAIR.y, generator=streams[1], noise=None))
    assert torch.equal(*loss)
    assert torch.equal(streams[0].get_state(), streams[1].get_state())


@pytest.mark.parametrize("head", [SoftmaxHead(), *HEADS], ids=named)
def test_a_visible_digit_is_predicted_by_the_others_of_its_token(head: Head) -> None:
    """The head is not told the digit itself, and knows the earlier and the later ones."""
    table = oracle.random_table(PAIR.canvas)
    model = table if isinstance(head, SoftmaxHead) else digit_oracle.DigitTable(PAIR.canvas, head)
    y = (1, 2, 0, MASK_ID)
    hidden = model(torch.tensor([y]), PAIR.canvas)[0]
    tokens = Tokens(PAIR.canvas.spans[0], hidden, torch.tensor(y).view(2, 2), torch.arange(2))
    asked = torch.tensor([[True, True], [True, False]])
    log_p = head.as_if_masked(model, tokens, asked)
    assert log_p.shape == (3, 3)
    for row, (token, level) in enumerate([(0, 0), (0, 1), (1, 0)]):
        known = [MASK_ID if j == level else y[2 * token + j] for j in range(2)]
        if isinstance(head, SoftmaxHead):
            codes = table.table[oracle.state_number(torch.tensor([y]), table.radix)[0], token].detach().exp()
            grid = codes[:6].view(2, 3)
            for j, digit in enumerate(known):
                grid = grid if digit < 0 else grid.index_select(j, torch.tensor([digit]))
            want = grid.sum(1 - level) / grid.sum()
        else:
            want = model.chances(y, token, tuple(known), level)[: (2, 3)[level]]
        assert torch.allclose(log_p[row, : len(want)].detach().exp(), want)
        assert bool((log_p[row, len(want) :] == -torch.inf).all())
    request = Request(asked & False, torch.zeros(2, head.num_uniforms(tokens.span)), unit="each", again=asked)
    unit = head.sample(model, tokens, request).unit
    assert unit is not None
    assert torch.equal(unit.probs[asked], log_p.double().exp())
    assert torch.equal(unit.value[asked], torch.tensor([1, 2, 0]))
