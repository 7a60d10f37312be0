"""The forward process: transition matrix, Bayes posterior, rates of corruption."""

from __future__ import annotations

import oracle
import pytest
import torch

from mmprime.engine import Canvas, Codec, Plan, Schedule, Span, corrupt, partial_states, transition_matrix

CODECS = {
    "plain": Codec.base(4, 1),
    "binary": Codec.base(8, 3),
    "holes": Codec.mixed_radix((3, 2), 5),
    "sparse": Codec.from_table(torch.tensor([[0, 0, 1], [1, 2, 0], [1, 0, 1]])),
}


@pytest.mark.parametrize("name", CODECS)
def test_states_are_those_some_code_agrees_with(name: str) -> None:
    codec = CODECS[name]
    seen = {
        tuple(int(d) if keep >> j & 1 else -1 for j, d in enumerate(row))
        for row in codec.digits
        for keep in range(2**codec.num_digits)
    }
    assert {tuple(state) for state in partial_states(codec).tolist()} == seen
    assert len(partial_states(codec)) == len(seen)


@pytest.mark.parametrize("name", CODECS)
def test_rows_sum_to_one_and_matrices_compose(name: str) -> None:
    codec = CODECS[name]
    whole, first, second = (transition_matrix(codec, *pair) for pair in ((0.9, 0.2), (0.9, 0.5), (0.5, 0.2)))
    for matrix in (whole, first, second, transition_matrix(codec, 1.0, 0.0)):
        assert (matrix >= 0).all()
        assert torch.allclose(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64), atol=1e-12)
    assert torch.allclose(first @ second, whole, atol=1e-12)
    assert torch.equal(transition_matrix(codec, 0.7, 0.7), torch.eye(len(whole), dtype=torch.float64))


def test_entries_by_hand() -> None:
    """A visible digit stays with α_t/α_s, a masked one stays masked, a digit never changes."""
    codec = CODECS["binary"]
    states = [tuple(s) for s in partial_states(codec).tolist()]
    q = transition_matrix(codec, 0.8, 0.2)
    at = lambda a, b: float(q[states.index(a), states.index(b)])  # noqa: E731
    assert at((0, 1, 1), (0, 1, 1)) == pytest.approx(0.25**3)
    assert at((0, 1, 1), (0, -1, 1)) == pytest.approx(0.25**2 * 0.75)
    assert at((0, -1, 1), (-1, -1, -1)) == pytest.approx(0.75**2)
    assert at((0, -1, 1), (0, 1, 1)) == 0
    assert at((0, 1, 1), (1, 1, 1)) == 0


def test_transition_refusals() -> None:
    for alphas in ((0.2, 0.5), (0.0, 0.0), (1.2, 0.5), (0.5, -0.1)):
        with pytest.raises(ValueError, match=str(alphas[1])):
            transition_matrix(CODECS["plain"], *alphas)


@pytest.mark.parametrize("name", ["plain", "binary", "sparse"])
def test_states_of_ancestral_plans_follow_bayes(name: str) -> None:
    """Pairs of states (y_t, y_s), s < t, that an ancestral plan passes through, against Q: chi-square at 1e-4.

    By Bayes q(y_s | y_t, y_0) = Q(0 → s) Q(s → t) / Q(0 → t), so the joint distribution is
    Q(0 → s)[y_0, y_s] · Q(s → t)[y_s, y_t].
    """
    codec = CODECS[name]
    canvas, steps, batch = Canvas([Span("text", 1, codec)]), 5, 8000
    y0 = codec.digits[1]
    for schedule in (Schedule.linear(), Schedule.cosine()):
        rank = Plan.ancestral(canvas, schedule, steps, batch, 3).rank
        alpha = [float(schedule.alpha(torch.tensor(1 - k / steps, dtype=torch.float64))) for k in (2, 4)]
        y_t, y_s = (torch.where(rank <= k, y0, -1) for k in (2, 4))
        states = partial_states(codec)
        number = [(y[:, None] == states).all(-1).long().argmax(-1) for y in (y_s, y_t)]
        counts = oracle.counts_of(number[0] * len(states) + number[1], len(states) ** 2)
        start = (states == y0).all(-1).long().argmax()
        joint = transition_matrix(codec, 1.0, alpha[1])[start, :, None] * transition_matrix(codec, alpha[1], alpha[0])
        oracle.assert_distribution(counts, joint.flatten())


@pytest.mark.parametrize("name", ["binary", "holes"])
def test_the_bayes_posterior_reveals_at_the_rate_of_the_plan(name: str) -> None:
    """q(y_s | y_t, y_0) by Bayes from the matrices = each masked digit revealed with (α_s - α_t) / (1 - α_t)."""
    codec, alpha_s, alpha_t = CODECS[name], 0.7, 0.3
    states = partial_states(codec)
    to_s, s_to_t, to_t = (
        transition_matrix(codec, *pair) for pair in ((1.0, alpha_s), (alpha_s, alpha_t), (1.0, alpha_t))
    )
    reveal = (alpha_s - alpha_t) / (1 - alpha_t)
    for start in [int((states == row).all(-1).long().argmax()) for row in codec.digits]:
        y0 = states[start]
        for t in (to_t[start] > 0).nonzero()[:, 0].tolist():
            bayes = to_s[start] * s_to_t[:, t] / to_t[start, t]
            visible, masked = (states >= 0), states[t] < 0
            chance = torch.where(visible, reveal, 1 - reveal).double()
            chance = torch.where(masked, chance, visible.double()).prod(-1)
            legal = ((states == -1) | (states == y0)).all(-1)
            assert torch.allclose(bayes, torch.where(legal, chance, 0.0), atol=1e-12)


def test_corrupt_masks_at_the_rate_of_the_schedule() -> None:
    canvas = oracle.mixed_world().canvas
    schedule = Schedule.regions({"text": Schedule.cosine(), "image": Schedule.polynomial(3.0)}, canvas)
    y0 = oracle.mixed_world().y[7].repeat(20000, 1)
    for t in (0.3, 0.8):
        y_t = corrupt(y0, t, schedule, torch.Generator().manual_seed(4))
        masked = y_t < 0
        assert torch.equal(y_t[~masked], y0[~masked])
        alpha = schedule.alpha(torch.tensor(t, dtype=torch.float64))
        error = (alpha * (1 - alpha) / len(y0)).sqrt()
        assert ((masked.double().mean(0) - (1 - alpha)).abs() < 4.5 * error).all()
        patterns = oracle.counts_of((masked.long() * 2 ** torch.arange(6)).sum(-1), 64)
        bits = (torch.arange(64)[:, None] >> torch.arange(6)) & 1
        oracle.assert_distribution(
            patterns, torch.where(bits == 1, 1 - alpha, alpha).prod(-1)
        )  # positions are independent


def test_corrupt_by_example_and_at_the_ends() -> None:
    y0 = oracle.mixed_world().y[:4]
    t = torch.tensor([0.0, 1.0, 0.0, 1.0])
    y_t = corrupt(y0, t, Schedule.linear(), torch.Generator().manual_seed(4))
    assert torch.equal(y_t[0::2], y0[0::2])
    assert (y_t[1::2] == -1).all()
    again = [corrupt(y0, 0.5, Schedule.cosine(), torch.Generator().manual_seed(9)) for _ in range(2)]
    assert torch.equal(*again)
    for time in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=str(time)):
            corrupt(y0, time, Schedule.linear())
