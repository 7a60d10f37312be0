"""Image tokenizers that others have trained: a VQ autoencoder of `vq_net` with one code book.

    code = argmin_c |z - e_c|       z = quant_conv(E(a x + b)),  x in [0, 1] -> `input_range`
    normalise: z and e on the unit sphere, at look-up too (LlamaGen, arXiv 2406.06525)

A masked code counts as the mean of the code book.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprime.codecs.weights import NoInit, check_fit, header

from .base import ImageTokenizerBase, fill, open_weights, read_tokenizer_config, require_kind
from .vq_net import VQDecoder, VQEncoder

_AT_ONCE = 1 << 24  # distances


@dataclass(frozen=True)
class VQAutoencoderConfig:
    """widths: channels of each level, finest first; blocks: residual ones of a level; latent: channels between encoder
    and quant_conv; attention: in the middle, at the coarsest level; input_range: what black and white are to the
    network. Raises ValueError on numbers that do not fit together."""

    image_size: int
    widths: tuple[int, ...]
    blocks: int
    latent: int
    num_codes: int
    code_dim: int
    attention: tuple[bool, bool] = (False, False)
    normalise: bool = False
    input_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        numbers = (self.image_size, self.blocks, self.latent, self.num_codes, self.code_dim, *self.widths)
        if not self.widths or not all(type(number) is int and 1 <= number <= 1 << 22 for number in numbers):
            raise ValueError(f"sizes must be whole numbers from 1 to {1 << 22}: {dataclasses.asdict(self)}")
        if odd := [width for width in self.widths if width % 32]:
            raise ValueError(f"widths={list(self.widths)}: {odd[0]} is no multiple of 32, the groups of a norm")
        if self.image_size % self.downsample:
            raise ValueError(f"image_size={self.image_size} is no multiple of {self.downsample}, the pixels of a code")
        if tuple(self.input_range) not in ((0, 1), (-1, 1)):
            raise ValueError(f"input_range={self.input_range}: there are (0, 1) and (-1, 1)")

    @property
    def downsample(self) -> int:
        """Pixels a side of one code."""
        return 1 << (len(self.widths) - 1)


class VQAutoencoder(ImageTokenizerBase):
    """Made by `mmprime.tokenizers.layouts.read_layout` or :meth:`load`."""

    kind = "vq_autoencoder"

    def __init__(self, config: VQAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VQEncoder(config.widths, config.blocks, config.latent, config.attention)
        self.quant_conv = nn.Conv2d(config.latent, config.code_dim, 1)
        self.codebook = nn.Parameter(torch.empty(config.num_codes, config.code_dim))
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.latent, 1)
        self.decoder = VQDecoder(config.widths, config.blocks, config.latent, config.attention)

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

    @property
    def num_codes(self) -> int:
        return self.config.num_codes

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def downsample(self) -> int:
        return self.config.downsample

    def codebook_vectors(self) -> Tensor:
        """(C, d), on the unit sphere where the tokenizer normalises."""
        book = self.codebook.detach()
        return F.normalize(book, dim=-1) if self.config.normalise else book.clone()

    @torch.no_grad()
    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Like `decode`, of vectors (B, h, w, d), which may be mixtures."""
        return self._decode(vectors).clamp(0, 1)

    def _digits(self, images: Tensor) -> Tensor:
        low, high = self.config.input_range
        z = self.quant_conv(self.encoder(images * (high - low) + low)).permute(0, 2, 3, 1)
        z = F.normalize(z, dim=-1) if self.config.normalise else z
        book, flat = self.codebook_vectors(), z.flatten(0, 2)
        parts = flat.split(max(1, _AT_ONCE // len(book)))
        nearest = torch.cat([torch.cdist(part, book).argmin(-1) for part in parts])
        return nearest.view(*z.shape[:3], 1)

    def _images(self, digits: Tensor) -> Tensor:
        book, codes = self.codebook_vectors(), digits[..., 0]
        vectors = torch.where(codes[..., None] < 0, book.mean(0), book[codes.clamp(min=0)])
        return self._decode(vectors)

    def _decode(self, vectors: Tensor) -> Tensor:
        low, high = self.config.input_range
        return (self.decoder(self.post_quant_conv(vectors.permute(0, 3, 1, 2))) - low) / (high - low)

    def _settings(self) -> dict[str, Any]:
        values = dataclasses.asdict(self.config)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def empty(config: VQAutoencoderConfig) -> VQAutoencoder:
    """The network of a config with weights that are shapes only."""
    with torch.device("meta"), NoInit():
        return VQAutoencoder(config)
