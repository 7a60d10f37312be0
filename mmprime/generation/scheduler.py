"""A sampler of the engine behind the interface that diffusers has for schedulers of discrete tokens.

    scheduler = DiscreteScheduler(mask_token_id=8255, num_codes=8192, sampler="p2")
    scheduler.set_timesteps(16)
    for t in scheduler.timesteps:                                     # 1, 15/16, ..., 1/16: the time before the step
        logits = transformer(sample)                                  # (B, L, C), or (B, C, h, w)
        sample = scheduler.step(logits, t, sample).prev_sample        # (B, L), or (B, h, w); masked: mask_token_id

With a codec of several digits a sample holds digits, (B, L, S) or (B, h, w, S), -1 where masked, and tokens pass
through states that are known in part. What is known at the first step stays as it is. The network is the pipeline's:
guidance, and whatever it wants to change between two steps, are its own. diffusers is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mmprime.engine import MASK_ID, Canvas, Codec, Condition, Rollout, Sampler, Span, begin, sampler_of, seeded
from mmprime.engine.denoiser import BaseDenoiser
from mmprime.engine.samplers import with_steps

from .pipeline import seeds_of
from .sampling import steps_of

_ROW = "row"


@dataclass(frozen=True)
class DiscreteSchedulerOutput:
    """prev_sample: after the step; pred_original_sample: the most likely code wherever one is still masked. `output[0]`
    is the former."""

    prev_sample: Tensor
    pred_original_sample: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return (self.prev_sample, self.pred_original_sample)[index]


class DiscreteScheduler:
    """sampler: a name or an object; codec: of the tokens, one digit of `num_codes` codes by default. temperature,
    top_p: as in `SamplingConfig`. Raises ValueError on a sampler that decides its number of steps itself."""

    order, init_noise_sigma = 1, 1.0

    def __init__(
        self,
        mask_token_id: int = MASK_ID,
        num_codes: int | None = None,
        sampler: Sampler | str = "confidence",
        codec: Codec | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        if (codec is None) == (num_codes is None):
            raise ValueError("give num_codes, or a codec of several digits")
        self.codec = codec or Codec.product((num_codes or 0,))
        if self.codec.num_digits > 1 and mask_token_id != MASK_ID:
            raise ValueError(f"mask_token_id={mask_token_id}: a masked digit is {MASK_ID}")
        if 0 <= mask_token_id < self.codec.num_codes:
            raise ValueError(f"mask_token_id={mask_token_id} is one of the {self.codec.num_codes} codes")
        self.sampler = sampler_of(sampler) if isinstance(sampler, str) else sampler
        if steps_of(with_steps(self.sampler, 2)) != 2:
            raise ValueError(f"sampler {self.sampler.name!r} decides its number of steps itself; diffusers sets it")
        self.temperature, self.top_p = temperature, top_p
        self.config = SimpleNamespace(mask_token_id=mask_token_id, num_codes=self.codec.num_codes)
        self.timesteps = torch.zeros(0)
        self._rollout: Rollout | None = None
        self._next = 0

    def set_timesteps(
        self, num_inference_steps: int, temperature: Any = None, device: torch.device | str | None = None
    ) -> None:
        """Times 1, (K - 1)/K, ..., 1/K. temperature: of the noise in the choice of `AmusedScheduler`, whose pipelines
        pass it; samplers here have options for that, and it changes nothing. Raises ValueError on K < 1."""
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps={num_inference_steps}: a run has at least 1 step")
        self.timesteps = torch.arange(num_inference_steps, 0, -1, device=device) / num_inference_steps
        self._rollout = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample: tokens are not scaled."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        starting_mask_ratio: float | Tensor = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DiscreteSchedulerOutput | tuple[Tensor, Tensor]:
        """One step of the sampler, by logits (B, L, C) or (B, C, h, w) of the sample as it stands.

        A time that does not follow the one before begins anew, for the steps that are left. generator: of such a
        beginning. starting_mask_ratio is `AmusedScheduler`'s; what is masked at the beginning is counted here. Raises
        ValueError on a time that is none of `timesteps`, on shapes that do not fit, and where something stays masked
        after the last step.
        """
        index = self._index(timestep)
        digits = self._digits(sample)
        logits = self._logits(model_output, digits)
        if self._rollout is None or index != self._next or self._rollout.y.shape != digits.flatten(1).shape:
            self._rollout = self._begin(digits, len(self.timesteps) - index, generator)
        rollout, self._next = self._rollout, index + 1
        _network(rollout).answer = logits
        rollout.y = digits.flatten(1).clone()
        rollout.step()
        after = rollout.y.view_as(digits)
        if self._next == len(self.timesteps) and bool((after < 0).any()):
            count = int((after < 0).sum())
            raise ValueError(f"{count} digits are masked after the last step of {self.sampler.name!r}; take more steps")
        guess = self._codes(self._likeliest(logits, after), sample)
        out = DiscreteSchedulerOutput(self._codes(after, sample), guess)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)

    def add_noise(self, sample: Tensor, timesteps: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The sample with each token (or digit) masked with probability `timesteps`."""
        where = sample.device if generator is None else generator.device
        drawn = torch.rand(sample.shape, generator=generator, device=where).to(sample.device)
        return sample.masked_fill(drawn < torch.as_tensor(timesteps).to(drawn), self.config.mask_token_id)

    # ---------------------------------------------------------------- parts

    def _index(self, timestep: float | Tensor) -> int:
        fits = (self.timesteps - float(timestep)).abs() < 1e-5
        if not bool(fits.any()):
            known = f"{len(self.timesteps)} times from 1 on" if len(self.timesteps) else "none: call set_timesteps"
            raise ValueError(f"timestep {float(timestep):g} is none of timesteps ({known})")
        return int(fits.nonzero()[0])

    def _begin(self, digits: Tensor, steps: int, generator: Any) -> Rollout:
        canvas = Canvas([Span("tokens", digits.shape[1], self.codec)])
        rows = torch.arange(len(digits), device=digits.device)
        streams = seeded(*seeds_of(generator, len(digits)))
        return begin(
            _Answered(), canvas, with_steps(self.sampler, steps), digits.flatten(1), streams,
            temperature=self.temperature, top_p=self.top_p, cond={_ROW: rows},
        )  # fmt: skip

    def _digits(self, sample: Tensor) -> Tensor:
        """(B, L, S), -1 where masked."""
        if self.codec.num_digits > 1:
            if sample.ndim not in (3, 4) or sample.shape[-1] != self.codec.num_digits:
                raise ValueError(f"a sample is (B, L, {self.codec.num_digits}) digits, this one {tuple(sample.shape)}")
            return sample.flatten(1, -2)
        flat = sample.flatten(1)
        known = flat != self.config.mask_token_id
        if bool((known & ((flat < 0) | (flat >= self.codec.num_codes))).any()):
            span = f"[{int(flat[known].min())}, {int(flat[known].max())}]"
            raise ValueError(f"codes span {span}, but lie in [0, {self.codec.num_codes}) or are masked")
        return torch.where(known, flat, MASK_ID)[..., None]

    def _codes(self, digits: Tensor, like: Tensor) -> Tensor:
        if self.codec.num_digits == 1:
            digits = torch.where(digits < 0, self.config.mask_token_id, digits)
        return digits.view_as(like)

    def _logits(self, output: Tensor, digits: Tensor) -> Tensor:
        flat = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output
        wanted = (*digits.shape[:2], self.codec.num_codes)
        if flat.shape != wanted:
            raise ValueError(f"logits are {tuple(output.shape)}; {wanted} (batch, tokens, codes) is needed")
        return flat

    def _likeliest(self, logits: Tensor, digits: Tensor) -> Tensor:
        """The digits (B, L, S) completed by those of the code of the highest logit that agrees with them."""
        table = self.codec.encode(torch.arange(self.codec.num_codes, device=logits.device))
        agree = torch.ones_like(logits, dtype=torch.bool)
        for level in range(self.codec.num_digits):
            visible = digits[..., level, None]
            agree &= (visible < 0) | (visible == table[:, level])
        return table[logits.masked_fill(~agree, -torch.inf).argmax(-1)]


class _Answered(BaseDenoiser):
    """A denoiser whose logits are given beforehand, for each row."""

    answer: Tensor

    def __call__(self, y: Tensor, canvas: Canvas, cond: Condition | None = None) -> Tensor:
        assert cond is not None
        return self.answer[cond[_ROW]]

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return hidden


def _network(rollout: Rollout) -> _Answered:
    assert isinstance(rollout.denoiser, _Answered)
    return rollout.denoiser
