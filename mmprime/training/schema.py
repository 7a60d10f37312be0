"""The typed config of a run, one dataclass a section; a YAML of ``configs/`` fills it and nothing else fits in.

``SCHEMAS`` maps the ``task:`` of a config to its dataclass. Field metadata: ``choices`` lists the words a string may
be; ``path`` marks a file or folder that must exist when it is set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


def _path() -> Any:
    return field(default="", metadata={"path": True})


@dataclass
class RunConfig:
    """Where and how a run lives."""

    dir: str = MISSING  # checkpoints, log, samples and the exported model go here
    seed: int = 0
    resume: str = _choice(
        "auto", "never", "must"
    )  # never: refuse a run.dir that holds a run; must: refuse an empty one
    # keys or sections of what a run learns from that a resume may change, e.g. [data.path]
    allow_changes: list[str] = field(default_factory=list)
    device: str = "auto"  # auto: cuda if there is one, else cpu
    threads: int = 0  # CPU threads; 0 leaves torch's choice. Bitwise resume needs the same number
    precision: str = _choice("auto", "fp32", "bf16")  # auto: bf16 on CUDA, fp32 on CPU
    deterministic: bool = False  # CUDA: deterministic kernels, so that resume is bitwise there too
    compile: bool = False  # torch.compile the model


@dataclass
class TrainConfig:
    """The optimization. A step = ``accumulate`` micro-batches of ``batch`` examples, over all processes together."""

    steps: int = 1000
    batch: int = 64
    accumulate: int = 1
    optimizer: str = _choice("adamw", "muon")  # muon: for the trunk's matrices; adamw for the rest
    lr: float = 1e-3
    lr_scale: dict[str, float] = field(default_factory=dict)  # by parameter group, e.g. {discriminator: 0.5}
    warmup: int = 100
    final_lr_ratio: float = 0.1
    weight_decay: float = 0.05  # on matrices only
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    grad_clip: float = 1.0  # norm by parameter group; 0 = off
    ema: float = 0.999  # 0 = newest weights
    log_every: int = 20
    validate_every: int = 500  # 0 = never; otherwise also before the first step and after the last
    samples_every: int = 500  # 0 = never; otherwise also after the last step
    save_every: int = 500  # 0 = only at the end, when stopped, and at a new best
    keep_last: int = 2  # checkpoints kept beside the best


@dataclass
class DataConfig:
    """Examples held in memory."""

    kind: str = _choice("codes", "text")  # packed image codes (with captions, labels) | plain text
    path: str = _path()
    path_env: str = ""  # an environment variable that names data.path; unset: see `fallback`
    train_split: str = "train"
    validation: list[str] = field(default_factory=lambda: ["val_vendor"])
    validate_examples: int = 256  # of each validation split, a fixed random subset
    text_tokenizer: str = _path()
    image_tokenizer: str = _path()  # only to draw samples and for code-book clusters
    text_length: int = 0  # tokens of the text span; codes: 0 = no text span; text: length of a row
    labels: bool = False  # condition on class labels
    grid: list[int] = field(default_factory=list)  # expected image grid; checked against the data where given
    num_codes: int = 0  # expected code-book size; checked likewise
    num_classes: int = 0  # expected number of classes; checked likewise


@dataclass
class CodecConfig:
    """How a token of one span is written in digits."""

    kind: str = _choice("clustered", "base", "shuffled", "mixed_radix", "stored")
    path: str = _path()  # stored: a file of tools/prepare.py codec; it knows its digits and radices
    digits: int = 2
    radices: list[int] = field(default_factory=list)  # empty: clustered takes about (C/8, 8), base the smallest b
    source: str = _choice("ppmi", "codebook")  # vectors to cluster: neighbour statistics | image code book
    dim: int = 32  # width of the PPMI vectors
    seed: int = 0


@dataclass
class ModelConfig:
    """The denoiser; a zero or empty value leaves the preset's."""

    preset: str = "tiny"
    width: int = 0
    depth: int = 0
    heads: int = 0
    dropout: float = 0.0
    mask_rate: bool = False  # also tell the model how much is hidden
    attention: str = _choice("auto", "sdpa", "xformers", "reference")
    checkpointing: bool = False  # recompute activations: less memory, more time
    digit_embedding: str = _choice("sum", "concat")  # of the digits of a token: their sum | side by side, mixed
    token_embedding: bool = True  # also embed a token as a whole once all its digits are visible
    init: str = _path()  # start from the weights of this model folder, whose codec may be another
    codec: dict[str, CodecConfig] = field(default_factory=dict)  # by span: text, image


@dataclass
class ObjectiveConfig:
    """What is minimised; see the engine's ``joint_loss`` and ``nelbo``."""

    kind: str = _choice("joint", "marginal", "finite")  # marginal: continuous NELBO; finite: NELBO at `steps`
    law: str = _choice("nested", "independent", "token_synchronous", "coarse_first")  # judged, sampled, trained on
    mixture: dict[str, float] = field(default_factory=dict)  # instead of law: laws trained on, by share
    start_law: str = ""  # trained on alone for the first `start_share` of train.steps; empty: none
    start_share: float = 0.0
    blend: dict[str, float] = field(default_factory=dict)  # instead of kind: what is minimised, by share
    place_powers: list[float] = field(default_factory=list)  # law independent: α = 1 - t^p by digit place; empty: one
    steps: int = 16
    mask_power: float = 1.0  # joint: p > 1 trains more on nearly hidden states


@dataclass
class ConditionsConfig:
    """Shares of the training examples by what is given; the rest (to 1) is the joint of all spans."""

    text_given: float = 0.0
    text_absent: float = 0.0  # image alone, text hidden for ever: the other branch of guidance
    image_given: float = 0.0
    image_absent: float = 0.0
    independent_times: bool = True  # each span of a joint example has its own time
    label_dropout: float = 0.1  # class labels replaced by "no class"


@dataclass
class SamplesConfig:
    """The samples written during training."""

    count: int = 16
    steps: int = 16
    temperature: float = 1.0
    guidance: float = 0.0  # 0 = none


@dataclass
class ToyConfig:
    """A known joint table over a few tokens: random, or read from a picture."""

    tokens: int = 3
    codes: int = 4
    sharpness: float = 2.0  # standard deviation of the log probabilities of the random table
    picture: str = _path()  # grey level is density; codes x codes pixels, tokens = 2 (row, column)
    draws: int = 0  # to estimate what has too many plans to enumerate; 0: exact values only


@dataclass
class TokenizerLossConfig:
    """Weights of the tokenizer's losses; 0 switches one off."""

    l1: float = 1.0
    l2: float = 0.0
    perceptual: float = 0.0
    perceptual_model: str = "tf_efficientnet_lite0"  # a timm architecture
    perceptual_weights: str = _path()  # a file of its weights
    adversarial: float = 0.0
    adversarial_start: int = 0  # first step of the adversary
    quantizer: float = 1.0  # the quantizer's own loss (commitment, entropy)


@dataclass
class Config:
    """Common to all tasks."""

    task: str = MISSING
    run: RunConfig = field(default_factory=RunConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class DiffusionConfig(Config):
    """task: diffusion."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    fallback: dict[str, Any] = field(default_factory=dict)  # overrides used when data.path_env is not set


@dataclass
class ToyRunConfig(Config):
    """task: toy."""

    toy: ToyConfig = field(default_factory=ToyConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


@dataclass
class TokenizerRunConfig(Config):
    """task: tokenizer. The section ``tokenizer`` is ``mmprime.tokenizers.ImageTokenizerConfig``."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: Any = None
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)


SCHEMAS: dict[str, type[Config]] = {
    "diffusion": DiffusionConfig,
    "toy": ToyRunConfig,
    "tokenizer": TokenizerRunConfig,
}
