"""The method of mmprime: codecs, canvas, schedules, plans, likelihoods, sampling. Needs torch only.

Convention: t = 0 is clean, t = 1 is masked; α(t) is the chance that a sub-token is visible; a hidden sub-token is -1.
"""

from mmprime.codecs.cooccurrence import ppmi_vectors

from .canvas import Canvas, Span
from .codec import MASK_ID, Codec
from .denoiser import Condition, Denoiser, NonFiniteLogits
from .exact import ExactLikelihood
from .guidance import Guidance, Guided
from .heads.softmax import log_mass
from .likelihood import joint_loss, nelbo, plan_nats
from .masking.order import LAWS
from .masking.transition import corrupt, partial_states, transition_matrix
from .particles import steer
from .plan import ABSENT, Plan, halton_order
from .policy import Policy
from .rng import generator_of, mix, seeded
from .rollout import Run
from .samplers.regions import Region
from .sampling import Sample, Trace, begin, sample, stream
from .schedule import AlphaValue, Schedule
from .tilting import CodeScores, Scorer, Tilted

__all__ = [
    "ABSENT", "LAWS", "MASK_ID", "AlphaValue", "Canvas", "CodeScores", "Codec", "Condition", "Denoiser",
    "ExactLikelihood", "Guidance", "Guided", "NonFiniteLogits", "Plan", "Policy", "Region", "Run", "Sample",
    "Schedule", "Scorer", "Span", "Tilted", "Trace", "begin", "corrupt", "generator_of", "halton_order", "joint_loss",
    "log_mass", "mix", "nelbo", "partial_states", "plan_nats", "ppmi_vectors", "sample", "seeded", "steer", "stream",
    "transition_matrix",
]  # fmt: skip
