"""One digit a token (S = 1) is plain masked diffusion: equal to the textbook written here on its own."""

from __future__ import annotations

import math

import oracle
import torch
from torch import Tensor

from mmprime.engine import MASKINGS, Canvas, Codec, Plan, Schedule, Span, exact_nelbo, joint_loss, nelbo, sample

WORLD = oracle.plain_world()
CANVAS, WRONG = WORLD.canvas, oracle.wrong(WORLD)
Y = WORLD.y[::3]

# ------------------------------------------------------------- an independent masked diffusion model, from here ...


def mdm_log_probs(table: Tensor, x: Tensor) -> Tensor:
    """(B, 3) tokens in {-1, 0, 1, 2} -> (B, 3, 3) log-probabilities."""
    return table[((x + 1) * torch.tensor([16, 4, 1])).sum(-1)].log_softmax(-1)


def mdm_bound(table: Tensor, x: Tensor) -> Tensor:
    """∫ dt/t Σ_masked -log p = Σ over non-empty masked sets M of (|M|-1)! (3-|M|)! / 3! Σ_{i in M} -log p(x_i)."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for bits in range(1, 8):
        masked = torch.tensor([bits >> i & 1 for i in range(3)], dtype=torch.bool)
        m = int(masked.sum())
        logs = mdm_log_probs(table, x.masked_fill(masked, -1)).gather(-1, x[..., None])[..., 0]
        total -= math.factorial(m - 1) * math.factorial(3 - m) / 6 * logs[:, masked].sum(-1)
    return total


def mdm_step_distribution(table: Tensor, steps: int) -> Tensor:
    """(27,) how samples of a T-step ancestral sampler with a linear schedule are distributed, by pushing chances on."""
    states = torch.cartesian_prod(*[torch.arange(-1, 3)] * 3)
    chance = (states == -1).all(-1).double()
    for k in range(steps):
        reveal, moved = 1 / (steps - k), torch.zeros_like(chance)
        log_p = mdm_log_probs(table, states)
        for a in chance.nonzero()[:, 0].tolist():
            move = torch.ones(len(states), dtype=torch.float64)
            for i in range(3):
                if states[a, i] >= 0:
                    move *= states[:, i] == states[a, i]
                else:
                    revealed = reveal * log_p[a, i].exp()[states[:, i].clamp(min=0)]
                    move *= torch.where(states[:, i] < 0, 1 - reveal, revealed)
            moved += chance[a] * move
        chance = moved
    return chance[(states >= 0).all(-1)]


# ------------------------------------------------------------------------------------------------ ... to here


def test_bound_of_every_masking() -> None:
    exact = mdm_bound(WRONG.table.detach(), Y)
    for masking in MASKINGS:
        assert torch.allclose(exact_nelbo(WRONG, CANVAS, Y, masking=masking).bound, exact, atol=1e-9)
        nats = nelbo(WRONG, CANVAS, Y.repeat(2000, 1), masking=masking, generator=torch.Generator().manual_seed(1))
        oracle.assert_mean(nats.detach().view(2000, -1).mean(1), float(exact.mean()))


def test_the_joint_loss_is_the_same_number() -> None:
    exact = float(mdm_bound(WRONG.table.detach(), Y).mean())
    loss = joint_loss(WRONG, CANVAS, Y.repeat(2000, 1), generator=torch.Generator().manual_seed(2)).detach()
    oracle.assert_mean(loss.view(2000, -1).mean(1), exact)


def test_maskings_draw_the_same_plans() -> None:
    plans = [Plan.ancestral(CANVAS, Schedule.cosine(), 4, 20, 3, masking=masking).rank for masking in MASKINGS]
    assert all(torch.equal(plans[0], plan) for plan in plans[1:])


def test_ancestral_sampling_and_likelihood_at_finite_steps() -> None:
    for steps in (1, 2, 3):
        probs = mdm_step_distribution(WRONG.table.detach(), steps)
        assert torch.allclose(exact_nelbo(WRONG, CANVAS, WORLD.y, steps).nll.neg().exp(), probs, atol=1e-9)
        plan = Plan.ancestral(CANVAS, Schedule.linear(), steps, 6000, 4)
        y = sample(WRONG, CANVAS, plan, generator=5).y
        oracle.assert_distribution(oracle.counts_of(WORLD.index(y), 27), probs)


def test_uniform_logits_cost_ln_c_a_token() -> None:
    """A denoiser that knows nothing: exactly L ln C nats, one digit or many, holes or none, every masking and T."""
    for codec in (Codec.base(6, 1), Codec.base(6, 2), Codec.base(6, 3)):
        canvas = Canvas([Span("text", 4, codec)])
        flat = oracle.random_table(canvas)
        flat.table.data.zero_()
        y = canvas.pack({"text": torch.arange(4)[None] + torch.tensor([[0], [2]])})
        whole = [
            nelbo(flat, canvas, y.repeat(500, 1), masking=masking, steps=steps)
            for masking in MASKINGS
            for steps in (None, 3)
        ]
        for nats in whole:
            oracle.assert_mean(nats.detach(), 4 * math.log(6))
