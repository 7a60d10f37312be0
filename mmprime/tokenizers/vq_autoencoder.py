"""Image tokenizers that others have trained: an autoencoder of `vq_net` with a code book, bits or levels.

    z = quant_conv(E(a x + b)),  x in [0, 1] -> `input_range`

    vq      code = argmin_c |z - e_c|; normalise: z and e on the unit sphere, at look-up too   (LlamaGen, 2406.06525)
    dot     code = argmax_c z·e_c   (IBQ, arXiv 2412.02692)
    lfq     bit j = [z_j > 0], which decodes as ±1   (MAGVIT-2, arXiv 2310.05737)
    fsq     level j = h + round((L - 1)(1 + 1e-3)/2 tanh(z_j + s) - o),  h = floor(L/2),  o = 1/2 where L is even,  s so
            that z_j = 0 gives h; decodes as (level - h) / h   (FSQ, arXiv 2309.15505)

Channel 0 is the least significant digit of bits and levels, as in the code numbers of those who trained them, so digits
run from the last channel to the first. A masked code counts as the mean of the code book, a masked digit as that of its
values.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprime.codecs.weights import NoInit, check_fit, header

from .base import ImageTokenizerBase, fill, open_weights, read_tokenizer_config, require_kind
from .quantizers.vq import look_up
from .vq_net import FAMILIES, NetConfig, VQDecoder, VQEncoder

_AT_ONCE = 1 << 24  # distances
_QUANTIZERS = ("vq", "dot", "lfq", "fsq")


@dataclass(frozen=True)
class VQAutoencoderConfig:
    """widths: channels of each level, finest first; blocks: residual ones of a level; latent: channels between encoder
    and quant_conv; attention: in the middle, at the coarsest level; input_range: what black and white are to the
    network; family: of `vq_net.FAMILIES`; levels: of lfq and fsq, values of each channel; stem: channels before the
    first level, 0: its own; halvings: levels that halve, -1: all but the coarsest. Raises ValueError on numbers that do
    not fit together."""

    image_size: int
    widths: tuple[int, ...]
    blocks: int
    latent: int
    num_codes: int
    code_dim: int
    attention: tuple[bool, bool] = (False, False)
    normalise: bool = False
    input_range: tuple[float, float] = (0.0, 1.0)
    family: str = "vqgan"
    quantizer: str = "vq"
    levels: tuple[int, ...] = ()
    stem: int = 0
    halvings: int = -1

    def __post_init__(self) -> None:
        numbers = (self.image_size, self.blocks, self.latent, self.num_codes, self.code_dim, *self.widths)
        if not self.widths or not all(type(number) is int and 1 <= number <= 1 << 22 for number in numbers):
            raise ValueError(f"sizes must be whole numbers from 1 to {1 << 22}: {dataclasses.asdict(self)}")
        if odd := [width for width in (*self.widths, self.stem) if type(width) is not int or width < 0 or width % 32]:
            raise ValueError(f"widths={list(self.widths)}: {odd[0]} is no multiple of 32, the groups of a norm")
        if self.family not in FAMILIES or self.quantizer not in _QUANTIZERS:
            known = f"there are {', '.join(FAMILIES)} and {', '.join(_QUANTIZERS)}"
            raise ValueError(f"family={self.family!r}, quantizer={self.quantizer!r}; {known}")
        if type(self.halvings) is not int or not -1 <= self.halvings < len(self.widths):
            raise ValueError(f"halvings={self.halvings} of {len(self.widths)} levels")
        self._check_digits()
        if self.image_size % self.downsample:
            raise ValueError(f"image_size={self.image_size} is no multiple of {self.downsample}, the pixels of a code")
        if self.family == "magvit2" and self.image_size == self.downsample:
            raise ValueError(f"image_size={self.image_size} is one code, and magvit2 needs the spread of several")
        if tuple(self.input_range) not in ((0, 1), (-1, 1)):
            raise ValueError(f"input_range={self.input_range}: there are (0, 1) and (-1, 1)")

    def _check_digits(self) -> None:
        made_of_digits = self.quantizer in ("lfq", "fsq")
        least = (2,) * len(self.levels) if self.quantizer == "lfq" else self.levels
        if made_of_digits != bool(self.levels) or not all(type(n) is int and n >= 2 for n in self.levels):
            raise ValueError(f"quantizer={self.quantizer!r} with levels={list(self.levels)}: lfq and fsq need them")
        if made_of_digits and (
            len(self.levels) != self.code_dim or math.prod(self.levels) != self.num_codes or tuple(least) != self.levels
        ):
            raise ValueError(f"levels={list(self.levels)}: not {self.num_codes} codes of {self.code_dim} channels")
        if not FAMILIES[self.family].projected and self.latent != self.code_dim:
            raise ValueError(f"latent={self.latent} and code_dim={self.code_dim} are one in family {self.family}")

    @property
    def downsample(self) -> int:
        """Pixels a side of one code."""
        return FAMILIES[self.family].haar << self.net.halvings

    @property
    def net(self) -> NetConfig:
        """Of encoder and decoder."""
        halvings = len(self.widths) - 1 if self.halvings < 0 else self.halvings
        family, stem = FAMILIES[self.family], self.stem or self.widths[0]
        return NetConfig(family, stem, self.widths, self.blocks, self.latent, self.attention, halvings)


class VQAutoencoder(ImageTokenizerBase):
    """Made by `mmprime.tokenizers.layouts.read_layout` or :meth:`load`."""

    kind = "vq_autoencoder"
    config: VQAutoencoderConfig

    def __init__(self, config: VQAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.radices = config.levels[::-1]
        projected = config.net.family.projected
        self.encoder = VQEncoder(config.net)
        self.quant_conv = nn.Conv2d(config.latent, config.code_dim, 1) if projected else nn.Identity()
        if not self.radices:
            self.codebook = nn.Parameter(torch.empty(config.num_codes, config.code_dim))
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent, 1) if projected else nn.Identity()
        self.decoder = VQDecoder(config.net)

    @classmethod
    def load(cls, directory: str | Path) -> VQAutoencoder:
        """The tokenizer saved in `directory`. Raises ValueError if a file is absent or damaged, or does not fit."""
        content = read_tokenizer_config(directory)
        require_kind(directory, content, cls.kind)
        try:
            values: dict[str, Any] = content["config"]
            lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
            config = VQAutoencoderConfig(**{**values, **lists})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{Path(directory) / 'config.json'}: {error}") from error
        weights = Path(directory) / "model.safetensors"
        with open_weights(directory, content) as file:
            check_fit(weights, empty(config).state_dict(), header(file))
            tokenizer = empty(config).to_empty(device="cpu")
            with torch.no_grad():
                fill(weights, tokenizer._essential_state(), file)
        return tokenizer.eval()

    def codebook_vectors(self) -> Tensor:
        """(C, d), on the unit sphere where the tokenizer normalises. Raises ValueError for bits and levels."""
        if self.radices:
            return super().codebook_vectors()
        book = self.codebook.detach()
        return F.normalize(book, dim=-1) if self.config.normalise else book.clone()

    @torch.no_grad()
    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Like `decode`, of vectors (B, h, w, d), which may be mixtures."""
        return self._decode(vectors).clamp(0, 1)

    def _digits(self, images: Tensor) -> Tensor:
        low, high = self.config.input_range
        z = self.quant_conv(self.encoder(images * (high - low) + low)).permute(0, 2, 3, 1)
        if self.radices:
            return self._levels(z).long().flip(-1)
        z = F.normalize(z, dim=-1) if self.config.normalise else z
        book, flat = self.codebook_vectors(), z.flatten(0, 2)
        parts = flat.split(max(1, _AT_ONCE // len(book)))
        dot = self.config.quantizer == "dot"
        nearest = [(part @ book.T).argmax(-1) if dot else torch.cdist(part, book).argmin(-1) for part in parts]
        return torch.cat(nearest).view(*z.shape[:3], 1)

    def _levels(self, z: Tensor) -> Tensor:
        """Bits or levels of vectors (B, h, w, d), channel by channel."""
        if self.config.quantizer == "lfq":
            return z > 0
        count = torch.tensor(self.config.levels, device=z.device)
        half_width, offset = (count - 1) * (1 + 1e-3) / 2, torch.where(count % 2 == 0, 0.5, 0.0)
        bounded = (z + (offset / half_width).atanh()).tanh() * half_width - offset
        return bounded.round() + count // 2

    def _images(self, digits: Tensor) -> Tensor:
        if not self.radices:
            return self._decode(look_up(self.codebook_vectors(), digits[..., 0]))
        count = torch.tensor(self.config.levels, device=digits.device)
        levels = digits.flip(-1)
        values = torch.where(levels < 0, (count - 1) / 2, levels)
        if self.config.quantizer == "lfq":
            return self._decode((2 * values - 1).to(self.decoder.conv_in.weight.dtype))
        return self._decode(((values - count // 2) / (count // 2)).to(self.decoder.conv_in.weight.dtype))

    def _decode(self, vectors: Tensor) -> Tensor:
        low, high = self.config.input_range
        return (self.decoder(self.post_quant_conv(vectors.permute(0, 3, 1, 2))) - low) / (high - low)

    def _settings(self) -> dict[str, Any]:
        """Entries after input_range only where they are not the default, so that a fingerprint stays."""
        names = [entry.name for entry in dataclasses.fields(self.config)]
        optional = names[names.index("input_range") + 1 :]
        values = dataclasses.asdict(self.config)
        usual = {entry.name: entry.default for entry in dataclasses.fields(self.config)}
        kept = {key: value for key, value in values.items() if key not in optional or value != usual[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


def empty(config: VQAutoencoderConfig) -> VQAutoencoder:
    """The network of a config with weights that are shapes only."""
    with torch.device("meta"), NoInit():
        return VQAutoencoder(config)
