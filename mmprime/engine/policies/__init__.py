"""Policies, one a file: paper, formula, code."""

from .blocks import Blocks
from .confidence import Confidence
from .entropy import Entropy
from .entropy_bounded import EntropyBounded
from .entropy_budget import EntropyBudget
from .klass import Klass
from .margin import Margin
from .moment import Moment
from .p2 import PathPlanning
from .remdm import ReMDM
from .threshold import Threshold

__all__ = [
    "Blocks",
    "Confidence",
    "Entropy",
    "EntropyBounded",
    "EntropyBudget",
    "Klass",
    "Margin",
    "Moment",
    "PathPlanning",
    "ReMDM",
    "Threshold",
]
