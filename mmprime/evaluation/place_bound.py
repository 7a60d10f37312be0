"""The NELBO under place powers as a smooth function of the powers, from states that are scored once.

Masks are independent and a digit place has one schedule α_g(t) = 1 - t^{p_g}, so at time t a state with hidden set A,
h_g of the n_g free digits of group g among it, has the chance

    P_t(A; p) = Π_g t^{p_g h_g} (1 - t^{p_g})^{n_g - h_g}                      it depends on A by the counts h alone
    L(p) = Σ_A Σ_e V_e(A) ∫ P_t(A; p) c_e(t; p) dμ(t)                          V_e: nats, which do not know p
    continuous   e: a digit of group g is revealed;                c = p_g / t;                              dμ = dt
    T steps      e: S of a token's hidden H is revealed;   c = Π_{g in S} r_g Π_{g in H-S} (1 - r_g);   μ counts steps
                 r_g = 1 - (t_{k+1} / t_k)^{p_g},  t_k = 1 - (k-1)/T

The network is asked for V only. So states drawn at one p0, with chance q(A), give an unbiased estimate of L at *every*
p, Σ_e V_e ∫ P c dμ / q, with the exact gradient of that estimate; at p = p0 this is the score-function estimator of
GenMD4 (Shi et al., arXiv 2406.04329, section 6) with the time integrated out. Time integrals are sums over the
logistic z = ln t/(1-t), in which the trapezoid rule converges faster than any power of its step.

Control variate: every free digit is revealed once, so a price β_g + Σ_i γ_gi h_i / n_i for each digit of group g that
is revealed has a mean that is known for each p (no state is needed). Prices are fitted to the other half of the batch.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmprime.engine import MASK_ID, Canvas, Condition, Denoiser
from mmprime.engine.denoiser import reveal_nats

from .tasks import Task

MOST_DIGITS = 4  # of finite T: 3^S - 2^S kinds of events
_SURE = -1e-30  # for ln 1, so that ln(1 - t^p) stays finite
_NEVER = -1e4  # for ln 0


@dataclass(frozen=True)
class States:
    """hidden (B, G): hidden digits by group; nats, count (B, E): summed nats and number of the events of each kind;
    log_q (B,): log chance with which the state was proposed. All float64."""

    hidden: Tensor
    nats: Tensor
    count: Tensor
    log_q: Tensor


class PlaceBound:
    """L(p) of a task on a canvas, continuous (steps None) or at T steps; see the module's head.

    num_places S: digits of the spans with more than one; powers are (S,) float64 > 0. Groups are the S places and,
    where spans of one digit are scored, one for these with power 1. sizes (G,): free digits of each group.
    Raises ValueError where no digit of a token with several is scored, where spans have different numbers of digits, at
    more than 4 digits for finite T, and on steps < 1.
    """

    def __init__(self, canvas: Canvas, task: Task, steps: int | None = None) -> None:
        digits = {span.codec.num_digits for span in canvas.spans} - {1}
        if len(digits) != 1:
            raise ValueError(f"place powers need spans of one number of digits > 1, got {sorted(digits) or [1]}")
        self.canvas, self.task, self.steps = canvas, task, steps
        self.num_places = digits.pop()
        if steps is not None and steps < 1:
            raise ValueError(f"a plan needs at least one step, got {steps}")
        if steps is not None and self.num_places > MOST_DIGITS:
            raise ValueError(
                f"{self.num_places} digits a token have too many kinds of events at T = {steps}, at most {MOST_DIGITS} "
                "digits; leave the steps out for continuous time"
            )
        self.free = ~(task.given | task.absent)
        alone = torch.tensor([span.codec.num_digits == 1 for span in canvas.spans])[canvas.span_of]
        self.group = torch.where(alone, self.num_places, canvas.digit_of)
        self.has_single = bool((alone & self.free).any())
        self.sizes = torch.bincount(self.group[self.free], minlength=self.num_places + self.has_single).double()
        if not self.sizes[: self.num_places].any():
            raise ValueError(f"task {task.name!r} scores no token with more than one digit; choose another")
        self.events = self._events()
        self.log_t, self.log_measure = self._times()

    # ---------------------------------------------------------------- kinds of events, times

    def _events(self) -> list[tuple[frozenset[int], frozenset[int]]]:
        """(hidden groups of the token, groups that are revealed); in continuous time the first is left empty."""
        if self.steps is None:
            return [(frozenset(), frozenset([g])) for g in range(len(self.sizes))]
        places = range(self.num_places)
        subsets = [frozenset(c) for size in places for c in itertools.combinations(places, size + 1)]
        pairs = [(hidden, shown) for hidden in subsets for shown in subsets if shown <= hidden]
        single = frozenset([self.num_places])
        return pairs + ([(single, single)] if self.has_single else [])

    def _times(self) -> tuple[Tensor, Tensor]:
        """ln t and ln dμ (K,) of the quadrature, or of the times before each step."""
        if self.steps is not None:
            t = 1 - torch.arange(self.steps, dtype=torch.float64) / self.steps
            return t.log().clamp(max=_SURE), torch.zeros_like(t)
        width = min(0.1, 1 / math.sqrt(float(self.sizes.sum())))  # no wider than what digits tell about ln t/(1-t)
        z = torch.arange(-36.0, 44.0, width, dtype=torch.float64)
        log_t, log_rest = (-torch.nn.functional.softplus(sign * z) for sign in (-1, 1))
        return log_t, log_t + log_rest + math.log(width)

    # ---------------------------------------------------------------- what depends on the powers

    def rates(self, powers: Tensor) -> Tensor:
        """powers (S,) -> (G,) of the groups."""
        return torch.cat([powers, powers.new_ones(1)]) if self.has_single else powers

    def _scaled(self, powers: Tensor) -> Tensor:
        """Rates (G,), in continuous time, where L knows ratios only, with the slowest at 1: there the quadrature is
        good."""
        rates = self.rates(powers)
        return rates if self.steps is not None else rates / rates.detach().min()

    def _log_chance(self, hidden: Tensor, rates: Tensor) -> Tensor:
        """ln P_t(A; p): hidden (B, G) -> (B, K)."""
        log_hidden = rates[:, None] * self.log_t
        return hidden @ log_hidden + (self.sizes - hidden) @ (-torch.expm1(log_hidden)).log()

    def _reveal(self, rates: Tensor) -> Tensor:
        """(G, K): the rate p/t, or the chance r to be revealed in the step."""
        if self.steps is None:
            return rates[:, None] * (-self.log_t).exp()
        following = torch.cat([self.log_t[1:], self.log_t.new_full((1,), _NEVER)])
        return -torch.expm1(rates[:, None] * (following - self.log_t))

    def _coefficients(self, reveal: Tensor) -> Tensor:
        """c_e (E, K)."""
        rows = []
        for hidden, shown in self.events:
            row = torch.ones_like(reveal[0])
            for g in hidden | shown:
                row = row * (reveal[g] if g in shown else 1 - reveal[g])
            rows.append(row)
        return torch.stack(rows)

    def prices(self, states: States) -> Tensor:
        """(B, F): what `estimate` takes. Raises ValueError on fewer than 4 states."""
        return _cross_fit(self._priced(states), states.nats)

    def estimate(self, states: States, powers: Tensor, prices: Tensor | None = None) -> Tensor:
        """(B,) unbiased estimates of L(powers) in nats, differentiable in the powers (S,), to any order.

        prices: of the control variate of the module's head, by `prices`; None does without.
        """
        rates = self._scaled(powers)
        reveal = self._reveal(rates)
        weight = (self._log_chance(states.hidden, rates) + self.log_measure - states.log_q[:, None]).exp()
        weight = weight @ self._coefficients(reveal).T  # (B, E)
        if prices is None:
            return (weight * states.nats).sum(-1)
        rest = states.nats - (self._priced(states) * prices[:, None]).sum(-1)
        return (weight * rest).sum(-1) + prices @ self._mean_priced(rates, reveal)

    def _priced(self, states: States) -> Tensor:
        """(B, E, F): for each kind of event the digits revealed of each group, times 1 and each h_i / n_i."""
        shown = torch.tensor([[float(g in s) for g in range(len(self.sizes))] for _, s in self.events]).double()
        number = states.count[..., None] * shown
        share = states.hidden / self.sizes.clamp(min=1)
        basis = torch.cat([torch.ones_like(share[:, :1]), share], -1)
        return (number[..., None] * basis[:, None, None]).flatten(2)

    def _mean_priced(self, rates: Tensor, reveal: Tensor) -> Tensor:
        """(F,): the mean of `_priced` summed over states and events; the digit that is revealed is hidden, and all
        others are independent of it."""
        hidden = (rates[:, None] * self.log_t).exp()  # (G, K) chance of a digit to be hidden
        flow = self.sizes[:, None] * hidden * reveal * self.log_measure.exp()
        itself = torch.eye(len(rates), dtype=rates.dtype)[..., None] / self.sizes.clamp(min=1)[:, None]
        share = hidden + itself * (1 - hidden)  # (G of the digit, G of the share, K)
        return torch.cat([flow.sum(-1)[:, None], (flow[:, None] * share).sum(-1)], -1).flatten()

    # ---------------------------------------------------------------- states

    @torch.no_grad()
    def draw(
        self,
        denoiser: Denoiser,
        y0: Tensor,
        powers: Tensor,
        generator: torch.Generator,
        cond: Condition | None = None,
    ) -> States:
        """One state for each row of y0 (B, N) under the powers (S,), scored. Its time is that at which a digit drawn at
        random is revealed (stratified), so that no group is rarely half hidden however far the powers are apart; at
        finite T a step drawn at random."""
        rates = self._scaled(powers)
        start = torch.rand(1, generator=generator, dtype=torch.float64)
        u = (start + torch.randperm(len(y0), generator=generator) / max(1, len(y0))) % 1.0
        whose = torch.multinomial(self.sizes, len(y0), replacement=True, generator=generator)
        t = (1 - u) ** (1 / rates[whose]) if self.steps is None else 1 - (u * self.steps).floor() / self.steps
        chance = t[:, None] ** rates[self.group.clamp(max=len(rates) - 1)]
        hidden = self.free & (torch.rand(y0.shape, generator=generator, dtype=torch.float64) < chance)
        counts, nats, number = self.score(denoiser, y0, hidden, cond)
        return States(counts, nats, number, self.log_proposal(counts, powers))

    def log_proposal(self, hidden: Tensor, powers: Tensor) -> Tensor:
        """ln of the chance (B,) with which `draw` draws under the powers (S,) a state with these counts (B, G)."""
        rates = self._scaled(powers)
        if self.steps is None:  # the density Σ_g n_g/N p_g t^{p_g - 1} of reveal times
            share = (self.sizes / self.sizes.sum() * rates).log()[:, None]
            log_density = (share + (rates[:, None] - 1) * self.log_t).logsumexp(0)
        else:
            log_density = torch.full_like(self.log_t, -math.log(self.steps))
        return (self._log_chance(hidden, rates) + self.log_measure + log_density).logsumexp(-1)

    def score(
        self, denoiser: Denoiser, y0: Tensor, hidden: Tensor, cond: Condition | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y0 (B, N), hidden (B, N) of the free -> counts (B, G), nats (B, E), number (B, E). One forward pass."""
        away = hidden.to(y0.device)
        y_t = torch.where(away | self.task.absent.to(y0.device), MASK_ID, y0)
        group = self.group.to(y0.device)
        shown = list(dict.fromkeys(shown for _, shown in self.events))
        masks = [away & torch.isin(group, torch.tensor(sorted(s), device=y0.device)) for s in shown]
        after = torch.stack([torch.where(mask, y0, y_t) for mask in masks])
        nats = reveal_nats(denoiser, self.canvas, y_t, after, cond).double().cpu()  # (A, B, L)
        bits = torch.zeros(len(y0), self.canvas.num_tokens, dtype=torch.int64)  # of the hidden groups of each token
        bits.index_add_(1, self.canvas.token_of, hidden.cpu().long() * 2**self.group)
        values, numbers = [], []
        for kind, revealed in self.events:
            wanted = sum(2**g for g in kind or revealed)
            inside = (bits & wanted if self.steps is None else bits) == wanted
            values.append(nats[shown.index(revealed)].masked_fill(~inside, 0.0).sum(-1))
            numbers.append(inside.sum(-1).double())
        counts = torch.stack([(hidden.cpu() & (self.group == g)).sum(-1) for g in range(len(self.sizes))], -1)
        return counts.double(), torch.stack(values, -1), torch.stack(numbers, -1)


def _cross_fit(features: Tensor, target: Tensor) -> Tensor:
    """features (B, E, F), target (B, E) -> coefficients (B, F) of least squares on the half that a row is not in.

    Raises ValueError on fewer than 4 rows.
    """
    if len(features) < 4:
        raise ValueError(f"prices are fitted on the other half of at least 4 states, got {len(features)}")
    half = torch.arange(len(features)) % 2
    fits = []
    for own in (0, 1):
        rows, aim = features[half != own].flatten(0, 1), target[half != own].flatten()
        gram = rows.T @ rows
        ridge = 1e-6 * gram.diagonal().mean().clamp(min=1e-6) * torch.eye(len(gram), dtype=gram.dtype)
        fits.append(torch.linalg.solve(gram + ridge, rows.T @ aim))
    return torch.stack(fits)[half]
