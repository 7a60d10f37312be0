"""Valid likelihood bounds of a denoiser, for any masking process, and the joint training loss.

    -log p(x) <= E_plan[-log p(x | plan)],    log p(x | plan) = Σ_k Σ_i log p(y^{i, S_k} | y_{<k})          (NELBO)

Continuous time (one reveal a step): E over states of Σ_reveals rate · -log p(reveal | state); with independent digits
this is Σ_masked w(t) · -log p(y_n | y_t). Finite T: T times one random step of a plan of T steps, summed over what that
step may reveal, which is the same bound from the same forward pass with less variance (Rao-Blackwell).

The *joint* loss, Σ_tokens w(t) · -log p(x^i | y_t), counts a token's whole code each time any of its digits is masked
at the rate of one reveal; for S > 1 it is NOT a bound (one token of two equal fair bits: 0.347 < ln 2). It is a proper
training loss: its minimiser has the right token posteriors. Never print it as a likelihood.

Sources: Chao et al., arXiv 2505.18495 and its errata note; Sahoo et al., arXiv 2406.07524; Nie et al. (LLaDA),
arXiv 2502.09992 (count estimator).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from .canvas import Canvas
from .codec import MASK_ID
from .denoiser import Condition, Denoiser, completed, digits_apart, reveal_nats, visible_nats
from .exact import exact_nelbo
from .mask_rate import masked_share
from .masking import Masking, Reveals, TokenMasking, mask_by_count, masking_of
from .noise import DigitNoise
from .order import Order
from .plan import Plan
from .rng import generators, strata
from .rows import Rows
from .samplers.base import Planned, Start
from .soft_targets import SoftTargets


class Nelbo:
    """Unbiased estimates of the negative evidence lower bound, in nats per example. Use the instance `nelbo`.

    An example to which the denoiser gives no chance has +inf nats, wherever an estimate meets it; none is NaN.
    """

    exact = staticmethod(exact_nelbo)

    def __call__(
        self,
        denoiser: Denoiser,
        canvas: Canvas,
        y0: Tensor | Rows,
        steps: int | None = None,
        masking: str | Masking = "independent",
        given: Tensor | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """y0 (B, N), or rows with masks and conditions of their own -> (B,) nats, differentiable.

        steps: None is continuous time; T is the exact bound of T-step sampling on a uniform time grid. given: (N,) or
        (B, N) bool. samples: draws averaged for each example, stratified. In continuous time masked units are counted
        (any one schedule gives that same bound), or times are drawn where the masking says so or its regions differ.
        Raises ValueError on logits that are NaN, +inf or all -inf, masked sub-tokens in y0 that are scored, an unknown
        masking, samples < 1 or steps < 1.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if steps is not None and steps < 1:
            raise ValueError(f"a plan needs at least one step, got {steps}")
        rows, process = Rows.of(canvas, y0, given), masking_of(masking)
        process.check(canvas)
        offset = strata(len(rows), 1, generator, rows.y.device)
        total = torch.zeros(len(rows), dtype=torch.float32, device=rows.y.device)
        for sample in range(samples):
            order = _random_order(canvas, rows, process, generator)
            u = (sample + offset) / samples
            if steps is None:
                state = process.state_by_count if process.counts else process.state_by_time
                masked, rate = state(canvas, order, u)
                y_t = _state(rows.y, order, masked)
                nats = _weighed(
                    denoiser, canvas, y_t, process.next_reveals(canvas, rows.y, y_t, masked, rate), rows.cond
                )
            else:
                nats = steps * _one_step(denoiser, canvas, rows, order, process, u, steps)
            total = total + nats
        return total / samples


nelbo = Nelbo()


class JointOptions(TypedDict, total=False):
    """Options of the joint loss: of its states, and what it counts beside masked digits.

    independent_spans: each span is masked by a time of its own, as for models that must also see one modality whole
    while the other is still masked. mask_power p masks the share 1 - (1 - u)^p, u uniform: p > 1 trains more on nearly
    masked states, where a condition matters most; the optimum is the same for every p, since what is masked never
    depends on the data. mask_rate: another distribution of that share (`masked_share`). noise: some visible digits that
    are not given are wrong, and the loss also counts -log p of the true value of each that may be, replaced or not,
    once: counted at the replaced alone, the optimum would hold every visible value to be wrong. soft_targets: σ of some
    spans, whose masked digits are counted by `SoftTargets`.
    """

    independent_spans: bool
    mask_power: float
    mask_rate: str
    noise: DigitNoise | None
    soft_targets: Mapping[str, float]


def joint_loss(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor | Rows,
    given: Tensor | None = None,
    generator: torch.Generator | None = None,
    masking: str | Masking = "independent",
    **options: Unpack[JointOptions],
) -> Tensor:
    """The joint training loss (B,): Σ over tokens with something masked of (n/m) · -log p(all its masked digits | y_t).

    Not a bound for S > 1, and none for any S with noise or soft targets. Of the masking's schedule only the order of
    reveals matters: the m sub-tokens that it reveals last are masked, and a token weighs n/m (any positive weight is
    proper; w(t) would have infinite variance). A head that chains digits is trained on all the sets of known digits it
    may meet: where the masking reveals any subset, a digit sees each earlier masked one with a chance of its token, 0
    for half of them and uniform for the others; else all. options: see `JointOptions`. Raises ValueError on a
    mask_power <= 0, a mask_rate that there is not, noise or soft targets that do not fit, and as `nelbo`.
    """
    noise = options.get("noise")
    rows, process = Rows.of(canvas, y0, given), masking_of(masking)
    process.check(canvas)
    groups = [canvas.mask(s.name) for s in canvas.spans] if options.get("independent_spans") else [canvas.mask()]
    order = _random_order(canvas, rows, process, generator)
    if process.schedule is not None:
        order = order.in_time(process.schedule)
    u = strata(len(rows), len(groups), generator, rows.y.device)
    share = masked_share(u, options.get("mask_rate", ""), options.get("mask_power", 1.0))
    masked, weight = mask_by_count(order, share, groups)
    y_t = torch.where(masked | rows.absent, MASK_ID, rows.y)
    chains = any(completed(denoiser).head(span).chains for span in canvas.spans)
    known = _any_subset(canvas, rows, generator) if chains and process.any_subset else None
    visible, hidden = torch.zeros_like(masked), None
    if noise is not None:
        noise.check(canvas)
        visible = rows.free & ~masked & noise.reaches(canvas).to(masked.device)
        y_t = noise.apply(canvas, y_t, visible, generator)
        hidden = denoiser(y_t, canvas, rows.cond)
    whole = TokenMasking().next_reveals(canvas, rows.y, y_t, masked, weight)
    counted: Denoiser = denoiser
    if soft := options.get("soft_targets"):
        counted = SoftTargets(denoiser, soft)
        counted.check(canvas)
    loss = _weighed(counted, canvas, y_t, whole, rows.cond, known, hidden)
    return loss if hidden is None else loss + visible_nats(denoiser, canvas, y_t, rows.y, visible, hidden)


def planned_nelbo(
    denoiser: Denoiser,
    canvas: Canvas,
    y0: Tensor | Rows,
    sampler: Planned,
    given: Tensor | None = None,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimates of the bound of sampling by just this planned sampler, (B,) nats, from one step of one of its plans.

    A step that reveals c of the n sub-tokens is drawn with chance c/n (stratified) and its nats count n/c times. The
    rest as `nelbo`.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    rows = Rows.of(canvas, y0, given)
    offset = strata(len(rows), 1, generator, rows.y.device)[:, 0]
    total = torch.zeros(len(rows), dtype=torch.float32, device=rows.y.device)
    for sample in range(samples):
        streams = generators(generator, len(rows))
        plan = sampler.plan(Start(canvas, rows.given.cpu(), rows.absent.cpu(), streams))
        rank = plan.rank.to(rows.y.device)
        last = rank.sort(-1, descending=True).values  # what is given or absent comes after the free ones
        count = (rank > 0).sum(-1)
        step = last.gather(1, ((sample + offset) / samples * count).long()[:, None])[:, 0]
        share = (rank == step[:, None]).sum(-1)
        total = total + count / share * _step_nats(denoiser, canvas, rows.y, rank, step, rows.cond)
    return total / samples


def plan_nats(denoiser: Denoiser, canvas: Canvas, y0: Tensor, plan: Plan, cond: Condition | None = None) -> Tensor:
    """-log p(x | plan) in nats, (B,), exactly: every step of the plan with the true values forced in."""
    total = torch.zeros(len(y0), dtype=torch.float32, device=y0.device)
    rank = plan.rank.to(y0.device)
    for k in range(1, plan.num_steps + 1):
        total = total + _step_nats(denoiser, canvas, y0, rank, torch.full_like(rank[:, 0], k), cond)
    return total


def _one_step(
    denoiser: Denoiser, canvas: Canvas, rows: Rows, order: Order, process: Masking, u: Tensor, steps: int
) -> Tensor:
    """-log p (B,) of what the step chosen by u reveals, averaged over all that it may reveal where they are few."""
    rank, step = Plan.by_time(order, process.grid, steps).rank, 1 + (u[:, 0] * steps).long()
    masked = order.free & (rank >= step[:, None])
    y_t = _state(rows.y, order, masked)
    reveals = process.step_reveals(
        canvas, rows.y, y_t, masked, process.step_chance(canvas, step, steps), digits_apart(denoiser, canvas)
    )
    if reveals is None:
        return _step_nats(denoiser, canvas, rows.y, rank, step, rows.cond)
    return _weighed(denoiser, canvas, y_t, reveals, rows.cond)


def _state(y0: Tensor, order: Order, masked: Tensor) -> Tensor:
    """y0 with `MASK_ID` where it is masked or absent, (B, N)."""
    return torch.where(masked | (order.key == torch.inf), MASK_ID, y0)


def _any_subset(canvas: Canvas, rows: Rows, generator: torch.Generator | None) -> Tensor:
    """(B, N): digits that others of their token may see, each with the chance that its token draws."""
    shape = len(rows), canvas.num_tokens
    chance = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1).clamp(min=0)
    u = torch.rand(rows.y.shape, generator=generator, dtype=torch.float64)
    return (u < chance[:, canvas.token_of]).to(rows.y.device)


def _weighed(
    denoiser: Denoiser,
    canvas: Canvas,
    y_t: Tensor,
    reveals: Reveals,
    cond: Condition | None,
    known: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """Σ_reveals weight · -log p, (B,); a reveal of weight 0 counts nothing, even where p is 0."""
    nats = reveal_nats(denoiser, canvas, y_t, reveals.after, cond, known, hidden)
    weight = reveals.weight.to(nats.dtype)
    return (nats.masked_fill(weight == 0, 0.0) * weight).sum((0, 2))


def _step_nats(
    denoiser: Denoiser, canvas: Canvas, y0: Tensor, rank: Tensor, step: Tensor, cond: Condition | None
) -> Tensor:
    """-log p of what step (B,) of the plan reveals, (B,)."""
    before = torch.where((rank >= 0) & (rank < step[:, None]), y0, MASK_ID)
    after = torch.where((rank >= 0) & (rank <= step[:, None]), y0, MASK_ID)
    return reveal_nats(denoiser, canvas, before, after[None], cond).sum((0, 2))


def _random_order(canvas: Canvas, rows: Rows, process: Masking, generator: torch.Generator | None) -> Order:
    u = torch.rand(rows.y.shape, generator=generator, dtype=torch.float64).to(rows.y.device)
    return process.order(canvas, u, rows.given, rows.absent)
