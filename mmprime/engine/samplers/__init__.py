"""Policies, one a file: paper, formula, code."""

from .blocks import Blocks
from .confidence import Confidence
from .corrector import Corrector
from .entropy import Entropy
from .entropy_bounded import EntropyBounded
from .entropy_budget import EntropyBudget
from .klass import Klass
from .margin import Margin
from .mixture import Mixture
from .moment import Moment
from .p2 import PathPlanning
from .remdm import ReMDM
from .threshold import Threshold

__all__ = [
    "Blocks",
    "Confidence",
    "Corrector",
    "Entropy",
    "EntropyBounded",
    "EntropyBudget",
    "Klass",
    "Margin",
    "Mixture",
    "Moment",
    "PathPlanning",
    "ReMDM",
    "Threshold",
]
