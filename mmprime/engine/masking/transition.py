"""The forward process on digits: masking, and its transition matrix over partial states.

    q(y_t,n | y_0,n) = α(t) [y_t,n = y_0,n] + (1 - α(t)) [y_t,n = masked]
    Q(s → t) per digit: visible stays with α_t / α_s, masked stays masked;  Q(s → u) = Q(s → t) Q(t → u)

Source: Chao et al., arXiv 2505.18495, eqs. 4-5.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ..codec import MASK_ID, Codec
from ..schedule import Schedule

_MAX_STATES = 1 << 20


def corrupt(y0: Tensor, t: float | Tensor, schedule: Schedule, generator: torch.Generator | None = None) -> Tensor:
    """Mask each sub-token of y0 (B, N) on its own with chance 1 - α(t); t is a number or (B,), in [0, 1].

    Raises ValueError on a time outside [0, 1].
    """
    time = torch.as_tensor(t, dtype=torch.float64)
    if not bool(((time >= 0) & (time <= 1)).all()):
        raise ValueError(f"times must lie in [0, 1], got [{float(time.min())}, {float(time.max())}]")
    alpha = schedule.alpha(time.reshape(-1, 1) if time.ndim else time)
    u = torch.rand(y0.shape, generator=generator, dtype=torch.float64)
    return torch.where((u < alpha).to(y0.device), y0, MASK_ID)


def partial_states(codec: Codec) -> Tensor:
    """All states (states, S) of one token that agree with at least one code, masked = `MASK_ID`.

    Raises ValueError on more than 2^20 of them.
    """
    count = math.prod(b + 1 for b in codec.radices)
    if count > _MAX_STATES:
        raise ValueError(f"radices {codec.radices} make {count} partial states, at most {_MAX_STATES} can be listed")
    states = torch.tensor(list(itertools.product(*[range(-1, b) for b in codec.radices])))
    if not codec.has_table:
        return states
    agrees = (states[:, None] < 0) | (states[:, None] == codec.digits[None])
    return states[agrees.all(-1).any(-1)]


def transition_matrix(codec: Codec, alpha_s: float, alpha_t: float) -> Tensor:
    """Q(s → t) over `partial_states(codec)`: (states, states) float64, row = state at s, column = state at t.

    Rows sum to one. Raises ValueError unless 0 <= α_t <= α_s <= 1 and α_s > 0.
    """
    if not 0 <= alpha_t <= alpha_s <= 1 or alpha_s == 0:
        raise ValueError(f"need 0 <= alpha_t <= alpha_s <= 1 and alpha_s > 0, got {alpha_s} and {alpha_t}")
    stay = alpha_t / alpha_s
    states = partial_states(codec)
    now, then = states[:, None], states[None]
    digit = torch.where(now < 0, (then < 0).double(), stay * (then == now).double() + (1 - stay) * (then < 0).double())
    return digit.prod(-1)
