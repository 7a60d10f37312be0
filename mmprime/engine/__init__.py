"""The method of mmprime: codecs, canvas, masking processes, plans, likelihoods, sampling. Needs torch only.

Convention: t = 0 is clean, t = 1 is masked; α(t) is the chance that a sub-token is visible; a masked sub-token is -1.
"""

from .canvas import Canvas, Span
from .codec import MASK_ID, Codec
from .denoiser import BaseDenoiser, Denoiser, Wrapper, completed
from .exact import ExactLikelihood, exact_nelbo
from .guidance import Guidance, Guided
from .heads import HEADS, ChainHead, DigitQuery, FactoredHead, Head, NonFiniteLogits, SoftmaxHead, head_of
from .learned_powers import learned_powers_loss
from .likelihood import joint_loss, nelbo, plan_nats, planned_nelbo
from .mask_rate import masked_share
from .masking import MASKINGS, Masking, corrupt, masking_of, partial_states, transition_matrix
from .noise import DigitNoise
from .order import Order, halton_order
from .particles import Steering, steer
from .plan import ABSENT, Plan, random_order
from .rng import generator_of, mix, seeded
from .rollout import Rollout
from .rows import Condition, Rows
from .samplers import SAMPLERS, Region, Sampler, default_sampler, sampler_of
from .sampling import Sample, Trace, begin, sample, stream
from .schedule import AlphaValue, LearnedPowers, Schedule
from .soft_targets import SoftTargets
from .tilting import CodeScores, Scorer, Tilted

__all__ = [
    "ABSENT", "HEADS", "MASKINGS", "MASK_ID", "SAMPLERS", "AlphaValue", "BaseDenoiser", "Canvas", "ChainHead",
    "CodeScores", "Codec", "Condition", "Denoiser", "DigitNoise", "DigitQuery", "ExactLikelihood", "FactoredHead",
    "Guidance", "Guided", "Head", "LearnedPowers", "Masking", "NonFiniteLogits", "Order", "Plan", "Region",
    "Rollout", "Rows", "Sample", "Sampler", "Schedule", "Scorer", "SoftTargets", "SoftmaxHead", "Span", "Steering",
    "Tilted", "Trace", "Wrapper", "begin", "completed", "corrupt", "default_sampler", "exact_nelbo", "generator_of",
    "halton_order", "head_of", "joint_loss", "learned_powers_loss", "masked_share", "masking_of", "mix", "nelbo",
    "partial_states", "plan_nats", "planned_nelbo", "random_order", "sample", "sampler_of", "seeded", "steer",
    "stream", "transition_matrix",
]  # fmt: skip
