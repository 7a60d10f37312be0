"""The typed config of a run, one dataclass a section; a YAML of ``configs/`` fills it and nothing else fits in.

``SCHEMAS`` maps the ``task:`` of a config to its dataclass. What a value may be is declared with its field and checked
by ``config_checks.py``: the words of a string, the interval of a number, a path that must exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


def _number(default: float | str, interval: str, note: str = "", words: tuple[str, ...] = ()) -> Any:
    """A number in ``interval``, or one of ``words``."""
    metadata = {"range": interval} | ({"note": note} if note else {}) | ({"words": words} if words else {})
    return field(default=default, metadata=metadata)


def _each(interval: str, lengths: tuple[int, ...] = ()) -> dict[str, Any]:
    """Metadata of a list or mapping of numbers in ``interval``; a list of one of ``lengths``."""
    return {"range": interval, "lengths": lengths}


def _path(hub: bool = False) -> Any:
    return field(default="", metadata={"path": True, "hub": hub})


@dataclass
class RunConfig:
    """Where and how a run lives."""

    dir: str = MISSING  # checkpoints, log, samples and the exported model go here
    seed: int = _number(0, "[0, 2^64)")
    resume: str = _choice(
        "auto", "never", "must"
    )  # never: refuse a run.dir that holds a run; must: refuse an empty one
    # keys or sections of what a run learns from that a resume may change, e.g. [data.path]
    allow_changes: list[str] = field(default_factory=list)
    device: str = "auto"  # auto: cuda if there is one, else cpu
    threads: int | str = _number("auto", "[1, 1024]", words=("auto",))  # of the CPU; see threads.py
    precision: str = _choice("auto", "fp32", "bf16")  # auto: bf16 on CUDA, fp32 on CPU
    deterministic: bool = False  # CUDA: deterministic kernels, so that resume is bitwise there too
    compile: bool = False  # torch.compile the model
    parallel: str = _choice("ddp", "fsdp")  # of several processes: each holds all weights | they are shared out
    replicas: int = _number(1, "[1, 65536]")  # fsdp: groups of processes that hold all weights among them
    time_limit: float = _number(0.0, "[0, 1e6]", "0 = none")  # minutes from the start to saving and exit code 75


@dataclass
class TrainConfig:
    """The optimization. A step = ``accumulate`` micro-batches of ``batch`` examples, over all processes together."""

    steps: int = _number(1000, "[1, 1e9]")
    batch: int = _number(64, "[1, 1e6]")
    accumulate: int = _number(1, "[1, 1e6]")
    optimizer: str = _choice("adamw", "muon")  # muon: for the trunk's matrices; adamw for the rest
    lr: float = _number(1e-3, "(0, 100]")
    lr_scale: dict[str, float] = field(
        default_factory=dict, metadata=_each("[0, 1e6]")
    )  # by parameter group, e.g. {discriminator: 0.5}
    warmup: int = _number(100, "[0, 1e9]")
    final_lr_ratio: float = _number(0.1, "[0, 1]")
    weight_decay: float = _number(0.05, "[0, 100]")  # on matrices only
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99], metadata=_each("[0, 1)", (2,)))
    grad_clip: float = _number(1.0, "[0, 1e9]", "0 = off")  # norm by parameter group
    ema: float = _number(0.999, "[0, 1)", "0 = newest weights")
    log_every: int = _number(20, "[1, 1e9]")
    validate_every: int = _number(500, "[0, 1e9]", "0 = never")  # also before the first step and after the last
    samples_every: int = _number(500, "[0, 1e9]", "0 = never")  # also after the last step
    save_every: int = _number(500, "[0, 1e9]", "0 = only at the end")  # also when stopped and at a new best
    keep_last: int = _number(2, "[1, 1e6]")  # checkpoints kept beside the best


@dataclass
class DataConfig:
    """The examples, in memory or streamed."""

    kind: str = _choice("codes", "text")  # packed image codes (with captions, labels) | plain text
    path: str = _path()
    path_env: str = ""  # an environment variable that names data.path; unset: see `fallback`
    # text: datasets whose train_split is trained on as well; what is held out is that of data.path
    also: list[str] = field(default_factory=list, metadata={"path": True})
    train_split: str = "train"
    validation: list[str] | None = None  # null: every split but train_split; []: none
    validate_examples: int = _number(256, "[2, 1e9]")  # of each validation split, a fixed random subset
    text_tokenizer: str = _path(hub=True)  # a folder, or a name on the hub; empty: that of model.init
    image_tokenizer: str = _path(hub=True)  # likewise; only to draw samples and for code-book clusters
    features: str = _path()  # of the training pictures, by mmprime prepare features; for objective.align
    text_length: int = _number(0, "[0, 1e6]")  # tokens of the text span; codes: 0 = no text span; text: length of a row
    phrasings: bool = False  # a caption that is given is worded as people write it (mmprime.data.phrasings)
    # condition on class labels; vendors: on who drew an image, of those in train_split
    labels: bool | str = field(default=False, metadata={"choices": (False, True, "vendors")})
    grid: list[int] = field(
        default_factory=list, metadata=_each("[1, 4096]", (0, 2))
    )  # expected image grid; checked against the data where given
    num_codes: int = _number(0, "[0, 1e9]")  # expected code-book size; checked likewise
    num_classes: int = _number(0, "[0, 1e9]")  # expected number of classes; checked likewise
    # read train_split from its shards as steps need it; auto: where it would take more than 1 GB of memory
    stream: bool | str = field(default="auto", metadata={"choices": ("auto", True, False)})
    buffer: int = _number(16384, "[2, 1e9]")  # stream: examples held, over all processes; half of them are shuffled
    workers: int = _number(2, "[1, 256]")  # stream: threads of a process that read, and that decode
    retries: int = _number(3, "[0, 100]")  # stream: of a fetch from a URL that fails or brings something else
    skip_shards: int = _number(0, "[0, 1e9]", "0 = stop")  # stream: shards a process may leave out that cannot be read


@dataclass
class CodecConfig:
    """How a token of one span is written in digits."""

    kind: str = _choice("clustered", "base", "shuffled", "mixed_radix", "product", "stored")  # product: data of digits
    path: str = _path()  # stored: a file of tools/prepare.py codec; it knows its digits and radices
    digits: int = _number(2, "[1, 64]")
    radices: list[int] = field(
        default_factory=list, metadata=_each("[2, 1e9]")
    )  # empty: clustered takes about (C/8, 8), base the smallest b
    source: str = _choice("ppmi", "codebook")  # vectors to cluster: neighbour statistics | image code book
    dim: int = _number(32, "[1, 65536]")  # width of the PPMI vectors
    seed: int = _number(0, "[0, 2^64)")


@dataclass
class ModelConfig:
    """The denoiser; a zero or empty value leaves the preset's."""

    preset: str = "tiny"
    width: int = _number(0, "[0, 65536]")
    depth: int = _number(0, "[0, 1024]")
    heads: int = _number(0, "[0, 1024]")
    dropout: float = _number(0.0, "[0, 1)")
    mask_rate: bool = False  # also tell the model how much is masked
    conditioning: str = _choice(
        "adaln_zero", "added"
    )  # of labels: modulates every block | added to each token of the input
    attention: str = _choice("auto", "sdpa", "xformers", "reference")
    # activations that are computed anew in the backward pass: all inside a block | all but products and attention
    checkpointing: str = _choice("none", "full", "selective")
    digit_embedding: str = _choice(
        "sum", "concat", "linear"
    )  # of the digits of a token: their sum | side by side, mixed
    # | of ordinal digits, a linear map of their values
    patch: int = _number(1, "[1, 256]", "1 = a token is one")  # p x p tokens of a grid are one position of the trunk
    head: str = _choice("auto", "softmax", "factored", "chain")  # auto: factored for product codes, else softmax
    span_heads: dict[str, str] = field(default_factory=dict)  # of some spans, instead of `head`
    head_rounds: int = _number(0, "[0, 64]", "0 = one round a digit")  # of a chain
    head_width: int = _number(0, "[0, 65536]", "0 = that of the trunk")  # of the network inside a chain
    token_embedding: bool = True  # also embed a token as a whole once all its digits are visible
    init: str = ""  # start from the weights of this model, a folder or a name on the hub; its digits may be others
    train: str = _choice("all", "head", "lora")  # of the weights of `init`: all | the heads | low-rank adapters alone
    lora_rank: int = _number(8, "[1, 65536]")
    lora_alpha: float = _number(16.0, "(0, 1e6]")  # adapters are scaled by lora_alpha / lora_rank
    codec: dict[str, CodecConfig] = field(default_factory=dict)  # by span: text, image


@dataclass
class ObjectiveConfig:
    """What is minimised; see the engine's ``joint_loss`` and ``nelbo``."""

    kind: str = _choice("joint", "marginal", "finite")  # marginal: continuous NELBO; finite: NELBO at `steps`
    masking: str = _choice("nested", "independent", "token_synchronous", "coarse_first")  # trained on, scored, sampled
    mixture: dict[str, float] = field(
        default_factory=dict, metadata=_each("[0, 1]")
    )  # maskings trained on, by share, instead of masking
    start_masking: str = ""  # trained on alone for the first `start_share` of train.steps; empty: none
    start_share: float = _number(0.0, "[0, 1]")
    blend: dict[str, float] = field(
        default_factory=dict, metadata=_each("[0, 1]")
    )  # instead of kind: what is minimised, by share
    level_powers: list[float] = field(
        default_factory=list, metadata=_each("(0, 1000]")
    )  # masking independent: α = 1 - t^p by digit level; empty: one
    learned_steps: int = _number(0, "[0, 1e6]")  # the level powers are learned for sampling in so many steps; 0: fixed
    steps: int = _number(16, "[1, 1e6]")
    mask_power: float = _number(1.0, "(0, 1000]")  # joint: p > 1 trains more on nearly masked states
    # joint: instead of mask_power, arccos or truncated_normal[:MEAN:STD:LOW] (1:0.1:0.5) for the share that is masked
    mask_rate: str = ""
    soft_targets: dict[str, float] = field(
        default_factory=dict, metadata=_each("(0, 100]")
    )  # joint: by span of ordinal digits, σ in steps of a digit of the mass that goes to neighbours of the true value
    noise: float = _number(0.0, "[0, 1]", "0 = none")  # joint: up to this share of the visible digits is wrong
    align: float = _number(0.0, "[0, 1e6]", "0 = none")  # weight of middle features against data.features; needs codes
    align_share: float = _number(0.4, "(0, 1]")  # of train.steps that have it, the first ones
    noise_levels: list[int] = field(default_factory=list, metadata=_each("[0, 64)"))  # that may be wrong; empty: all


@dataclass
class ConditionsConfig:
    """Shares of the training examples by what is given; the rest (to 1) is the joint of all spans."""

    text_given: float = _number(0.0, "[0, 1]")
    text_absent: float = _number(0.0, "[0, 1]")  # image alone, text masked for ever: the other branch of guidance
    image_given: float = _number(0.0, "[0, 1]")
    image_absent: float = _number(0.0, "[0, 1]")
    independent_times: bool = True  # each span of a joint example has its own time
    label_dropout: float = _number(0.1, "[0, 1]")  # class labels replaced by "no class"


@dataclass
class SamplesConfig:
    """How to sample: during training, and by default with the exported model."""

    count: int = _number(16, "[1, 1e5]")  # samples written during training
    sampler: str = ""  # empty: in the order of objective.masking
    options: dict[str, Any] = field(default_factory=dict)  # of the sampler
    spans: dict[str, str] = field(default_factory=dict)  # another sampler for a span, in words: {text: remdm eta=0.3}
    steps: int = _number(16, "[1, 1e6]")
    temperature: float = _number(1.0, "[0, 1e3]", "0 = greedy")
    guidance: float = _number(0.0, "[0, 1e3]", "0 = none")
    guidance_schedule: str = "linear"  # constant, linear, power_cosine[:POWER] or interval:LO:HI; see Guidance


@dataclass
class ToyConfig:
    """A known joint table over a few tokens: random, or read from a picture."""

    tokens: int = _number(3, "[1, 64]")
    codes: int = _number(4, "[2, 65536]")
    sharpness: float = _number(2.0, "[0, 100]")  # standard deviation of the log probabilities of the random table
    picture: str = _path()  # grey level is density; codes x codes pixels, tokens = 2 (row, column)
    samples: int = _number(0, "[0, 1e8]")  # to estimate what has too many plans to enumerate; 0: exact values only


@dataclass
class TokenizerLossConfig:
    """Weights of the tokenizer's losses, 0 switches one off, and what is done to its images and digits on the way."""

    l1: float = _number(1.0, "[0, 1e6]")
    l2: float = _number(0.0, "[0, 1e6]")
    perceptual: float = _number(0.0, "[0, 1e6]")
    perceptual_model: str = "tf_efficientnet_lite0"  # a timm architecture
    perceptual_weights: str = _path()  # a file of its weights
    adversarial: float = _number(0.0, "[0, 1e6]")
    adversarial_start: int = _number(0, "[0, 1e9]")  # first step of the adversary
    quantizer: float = _number(1.0, "[0, 1e6]")  # the quantizer's own loss (commitment, entropy)
    quantize_from: int = _number(0, "[0, 1e9]")  # first step that quantizes; those before learn continuous vectors
    wrong_digits: float = _number(0.0, "[0, 1]")  # fsq, lfq, bsq: most of an image's digits moved to the next value
    flip: bool = False  # half of the training images mirrored
    shift: int = _number(0, "[0, 1024]")  # pixels a training image is moved by at most, its border repeated


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
