"""The architecture of an image tokenizer as plain values: the section ``tokenizer`` of a config, and config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

QUANTIZERS = ("vq", "fsq", "lfq", "bsq", "rvq", "gvq")
MAX_SIDE = 8192  # pixels
MAX_BLOCKS = 256  # residual blocks of one resolution
MAX_CODES = 2**24  # vq: the vectors of all codes are in memory
MAX_BITS = 256  # of a code that is made of digits
MAX_LEVELS = 65536


def _choice(default: str, choices: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"choices": choices})


def _number(default: float, interval: str) -> Any:
    return field(default=default, metadata={"range": interval})


def _each(interval: str) -> dict[str, Any]:
    return {"range": interval}


@dataclass
class ImageTokenizerConfig:
    """An image of ``image_size``² pixels becomes ``(image_size / downsample)``² codes.

    Lists run from the finest resolution (``image_size / patch``) to that of the codes; each entry halves it.
    """

    image_size: int = _number(64, f"[1, {MAX_SIDE}]")
    downsample: int = _number(8, "[1, 1024]")
    patch: int = _number(4, "[1, 256]")  # the stem takes patch × patch pixels as channels, the head gives them back
    widths: list[int] = field(default_factory=lambda: [96, 160], metadata=_each("[8, 8192]"))
    encoder_blocks: list[int] = field(default_factory=lambda: [1, 2], metadata=_each(f"[0, {MAX_BLOCKS}]"))
    decoder_blocks: list[int] = field(default_factory=lambda: [3, 2], metadata=_each(f"[0, {MAX_BLOCKS}]"))
    quantizer: str = _choice("vq", QUANTIZERS)
    num_codes: int = _number(512, f"[2, {2**MAX_BITS}]")  # vq: at most 2^24
    code_dim: int = _number(24, "[2, 8192]")  # vq, rvq, gvq: width of a code vector
    cosine: bool = False  # vq, gvq: compare directions only
    decay: float = _number(0.98, "[0, 1)")  # vq, rvq, gvq: of the moving averages that make the code book
    revive_below: float = _number(
        1.0, "[0, 1e6]"
    )  # vq, rvq, gvq: a code hit fewer times a step gets a vector of the step
    commitment: float = _number(0.25, "[0, 1e6]")  # all but fsq: pull of the encoder towards its code
    levels: list[int] = field(
        default_factory=list, metadata=_each(f"[2, {MAX_LEVELS}]")
    )  # fsq: values of each dimension; rvq, gvq: size of each code book; their product is num_codes
    entropy: float = _number(0.02, "[0, 1e6]")  # lfq, bsq: weight of the entropy term that spreads the codes

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the code map."""
        return self.image_size // self.downsample, self.image_size // self.downsample

    @property
    def latent_dim(self) -> int:
        """Channels between encoder and decoder."""
        if self.quantizer == "fsq":
            return len(self.levels)
        return self.num_codes.bit_length() - 1 if self.quantizer in ("lfq", "bsq") else self.code_dim

    def check(self) -> None:
        """Raise ValueError, quoting the values, unless the numbers fit together."""
        if self.quantizer not in QUANTIZERS:
            raise ValueError(f"tokenizer.quantizer={self.quantizer!r} is unknown; choose from {', '.join(QUANTIZERS)}")
        depths = {len(self.widths), len(self.encoder_blocks), len(self.decoder_blocks)}
        if len(depths) != 1 or not self.widths:
            raise ValueError(
                f"tokenizer.widths={list(self.widths)}, encoder_blocks={list(self.encoder_blocks)} and "
                f"decoder_blocks={list(self.decoder_blocks)} must have the same length, at least 1"
            )
        if not 1 <= self.image_size <= MAX_SIDE:
            raise ValueError(f"tokenizer.image_size={self.image_size} must lie in [1, {MAX_SIDE}]")
        for name, blocks in (("encoder_blocks", self.encoder_blocks), ("decoder_blocks", self.decoder_blocks)):
            if not all(0 <= count <= MAX_BLOCKS for count in blocks):
                raise ValueError(f"tokenizer.{name}={list(blocks)}: each must lie in [0, {MAX_BLOCKS}]")
        if self.patch * 2 ** (len(self.widths) - 1) != self.downsample:
            raise ValueError(
                f"tokenizer.downsample={self.downsample} must be patch · 2^(len(widths) - 1) = "
                f"{self.patch * 2 ** (len(self.widths) - 1)} for patch={self.patch}, widths={list(self.widths)}"
            )
        if self.image_size % self.downsample or self.image_size < self.downsample:
            raise ValueError(
                f"tokenizer.image_size={self.image_size} must be a multiple of downsample={self.downsample}"
            )
        odd = [width for width in self.widths if width < 8 or width % 8]
        if odd:
            raise ValueError(f"tokenizer.widths={list(self.widths)}: {odd[0]} is not a positive multiple of 8")
        most = MAX_CODES if self.quantizer == "vq" else 2**MAX_BITS
        if not 2 <= self.num_codes <= most:
            more = "; more codes by quantizer=fsq, bsq or rvq" if self.num_codes > most == MAX_CODES else ""
            raise ValueError(f"tokenizer.num_codes={self.num_codes} must lie in [2, {most}]{more}")
        self._check_codes()

    def _check_codes(self) -> None:
        """What each quantizer asks of the numbers of codes."""
        kind, levels = self.quantizer, list(self.levels)
        least = {"fsq": 3, "rvq": 2, "gvq": 2}.get(kind)
        if least is not None and (
            not levels or any(v < least or v > MAX_LEVELS for v in levels) or math.prod(levels) != self.num_codes
        ):
            raise ValueError(
                f"tokenizer.num_codes={self.num_codes} must be the product of levels={levels}, each in "
                f"[{least}, {MAX_LEVELS}], for quantizer={kind}"
            )
        if kind in ("lfq", "bsq") and self.num_codes & (self.num_codes - 1):
            raise ValueError(f"tokenizer.num_codes={self.num_codes} must be a power of two for quantizer={kind}")
        if kind in ("vq", "rvq", "gvq") and self.code_dim < 2:
            raise ValueError(f"tokenizer.code_dim={self.code_dim} must be at least 2")
        if kind == "gvq" and self.code_dim % len(levels):
            raise ValueError(
                f"tokenizer.code_dim={self.code_dim} must be a multiple of {len(levels)}, one part a level"
            )
        if kind == "rvq" and self.cosine:
            raise ValueError("tokenizer.cosine=true is for vq and gvq: a residual of directions means nothing")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, source: str) -> ImageTokenizerConfig:
        """The config of ``values``; raises ValueError naming ``source`` and the keys that do not fit."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{source}: a tokenizer's config is a table of keys, not {str(values)[:60]!r}")
        known = {entry.name for entry in dataclasses.fields(cls)}
        for problem, names in (("unknown", set(values) - known), ("missing", known - set(values))):
            if names:
                raise ValueError(f"{source}: {problem} tokenizer keys {', '.join(sorted(names))}")
        for key in ("widths", "encoder_blocks", "decoder_blocks", "levels"):
            if not isinstance(values[key], list) or any(type(each) is not int for each in values[key]):
                raise ValueError(f"{source}: {key}={str(values[key])[:60]} must be a list of whole numbers")
        if "${" in str(values):
            raise ValueError(f"{source}: values are written out, without ${{...}}")
        try:
            config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), dict(values)))
        except (OmegaConfBaseException, TypeError) as error:  # TypeError: a mapping where a list belongs
            raise ValueError(f"{source}: {str(error).splitlines()[0]}") from error
        assert isinstance(config, cls)
        config.check()
        return config
