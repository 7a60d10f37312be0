"""What every image tokenizer offers: a picture as a map of tokens, each a number of digits, and back.

    digits (B, h, w, S),   0 <= digits[..., j] < b_j;   code = mixed radix of the digits, most significant first

A masked digit (-1) decodes to the mean of what it may be. A tokenizer with a learned code book has one digit, the code.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmprime.codecs.weights import check_fit, check_hash, header, read_weights
from mmprime.engine import MASK_ID, Codec
from mmprime.io import read_json, sha256, whole_folder

_FORMAT = 1


class ImageTokenizerBase(nn.Module):
    """Square pictures (B, 3, H, W) float in [0, 1] to digits (B, h, w, S) int64 or codes (B, h, w) int64, and back.

    A subclass has `_digits`, `_images`, `_settings`, and a `config` with the properties below or these themselves.
    """

    kind = ""
    config: Any
    radices: tuple[int, ...] = ()
    """Bases of the digits that a token has by construction, most significant first; () for a learned code book."""

    @property
    def num_codes(self) -> int:
        """C, the number of different tokens."""
        return math.prod(self.radices) if self.radices else int(self.config.num_codes)

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return int(self.config.image_size)

    @property
    def downsample(self) -> int:
        """Pixels a side of one token."""
        return int(self.config.downsample)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the map of tokens."""
        return self.image_size // self.downsample, self.image_size // self.downsample

    def codec(self) -> Codec:
        """All combinations of the digits that `encode_digits` gives; one digit of C values for a code book."""
        return Codec.product(self.radices or (self.num_codes,))

    def fingerprint(self) -> str:
        """Hash of config and weights: equal for tokenizers that make the same codes."""
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        for name, value in sorted(self._essential_state().items()):
            digest.update(name.encode())
            digest.update(value.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def encode_digits(self, images: Tensor) -> Tensor:
        """Digits (B, h, w, S) of `images`.

        Raises:
            ValueError: if the images are not float (B, 3, image_size, image_size) within [0, 1].
        """
        self._check_images(images)
        if images.numel() and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"images must lie in [0, 1], not [{images.min():.3g}, {images.max():.3g}]; divide by 255?")
        return self._digits(images)

    @torch.no_grad()
    def decode_digits(self, digits: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of `digits` (B, h, w, S); those that are -1 (masked) count as their mean.

        Raises:
            ValueError: if `digits` are not integers (B, h, w, S), or one is neither -1 nor below its radix.
        """
        bounds = self.radices or (self.num_codes,)
        if digits.dim() != 4 or digits.is_floating_point() or digits.shape[-1] != len(bounds):
            raise ValueError(f"digits must be integers (B, h, w, {len(bounds)}), not {_describe(digits)}")
        digits = digits.long()
        odd = ((digits < MASK_ID) | (digits >= torch.tensor(bounds, device=digits.device))).any(-1)
        if odd.any():
            raise ValueError(
                f"digits {digits[odd][0].tolist()} must lie below {list(bounds)}, or be {MASK_ID} (masked)"
            )
        return self._images(digits).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, h, w) of `images`.

        Raises:
            ValueError: as `encode_digits`, and where there are more than 2^62 codes.
        """
        return self.codec().decode(self.encode_digits(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of `codes` (B, h, w); any codes will do.

        Raises:
            ValueError: if a code lies outside [0, C) or `codes` is not an integer (B, h, w); more than 2^62 codes.
        """
        if codes.dim() != 3 or codes.is_floating_point():
            raise ValueError(f"codes must be integers (B, h, w), not {codes.dtype} {tuple(codes.shape)}")
        if codes.numel() and not (codes.min() >= 0 and codes.max() < self.num_codes):
            low, high = int(codes.min()), int(codes.max())
            raise ValueError(f"codes span [{low}, {high}] but must lie in [0, {self.num_codes})")
        return self.decode_digits(self.codec().encode(codes))

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Images of codes (B, h, w), as `decode`, or of digits (B, h, w, S), as `decode_digits`."""
        return self.decode_digits(tokens) if tokens.dim() == 4 else self.decode(tokens)

    def codebook_vectors(self) -> Tensor:
        """(C, d): the vector of every code. Raises ValueError where there is no such table, or it is too large."""
        raise ValueError(f"a tokenizer of kind {self.kind!r} has digits {list(self.radices)} and no code book")

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Like `decode`, of vectors (B, h, w, d), which may be mixtures. Raises ValueError where codes have none."""
        raise ValueError(f"a tokenizer of kind {self.kind!r} has digits {list(self.radices)} and no vectors")

    def save(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write `model.safetensors`, floats stored as `dtype`, and `config.json`, which holds its hash.

        Raises:
            ValueError: if a weight is not finite as `dtype`.
        """
        from safetensors.torch import save_file

        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in self._essential_state().items()}
        for name, value in state.items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"{directory}: tokenizer weights {name!r} are not finite as {dtype}; nothing is written"
                )
        with whole_folder(directory) as folder:
            weights = folder / "model.safetensors"
            save_file({name: value.contiguous() for name, value in state.items()}, weights)
            content = {
                "format": _FORMAT,
                "kind": self.kind,
                "config": self._settings(),
                "weights_sha256": sha256(weights),
            }
            (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")

    def _digits(self, images: Tensor) -> Tensor:
        """Checked images -> digits (B, h, w, S)."""
        raise NotImplementedError

    def _images(self, digits: Tensor) -> Tensor:
        """Checked digits (B, h, w, S), -1 where masked -> images (B, 3, H, W), not clamped."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """The config as plain values."""
        raise NotImplementedError

    def _essential_state(self) -> dict[str, Tensor]:
        """The tensors that are saved."""
        return dict(self.state_dict())

    def _check_images(self, images: Tensor) -> None:
        expected = (3, self.image_size, self.image_size)
        if images.dim() != 4 or images.shape[1:] != expected or not images.is_floating_point():
            raise ValueError(f"images must be float (B, {', '.join(map(str, expected))}), not {_describe(images)}")


def read_tokenizer_config(directory: str | Path) -> dict[str, Any]:
    """The checked content of config.json of an image tokenizer of any kind.

    Raises ValueError naming the file that is absent, or the entry that does not fit.
    """
    for name in ("config.json", "model.safetensors"):
        if not (Path(directory) / name).is_file():
            raise ValueError(f"{directory} is no image tokenizer: it has no {name}")
    path = Path(directory) / "config.json"
    content = read_json(path)
    if not isinstance(content.get("config"), dict):
        raise ValueError(f"{path}: not the config of an image tokenizer")
    return content


def require_kind(directory: str | Path, content: dict[str, Any], *kinds: str) -> None:
    """Raises ValueError unless config.json says one of these kinds, in the format that is read."""
    if content.get("kind") not in kinds or content.get("format") != _FORMAT:
        raise ValueError(
            f"{Path(directory) / 'config.json'}: kind {content.get('kind')!r}, format {content.get('format')!r}; "
            f"expected {' or '.join(map(repr, kinds))}, format {_FORMAT}"
        )


@contextmanager
def open_weights(directory: str | Path, content: dict[str, Any]) -> Iterator[Any]:
    """The open safetensors file of a tokenizer, its hash checked. Raises ValueError naming the file."""
    from safetensors import SafetensorError, safe_open

    weights = Path(directory) / "model.safetensors"
    if content.get("weights_sha256") is not None:
        check_hash(weights, content["weights_sha256"])
    try:
        with safe_open(weights, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{weights}: not a safetensors file: {error}") from error


def fill(weights: Path, expected: dict[str, Tensor], file: Any) -> None:
    """Copy the tensors of an open file into `expected`, once names, shapes and kinds of its header fit."""
    check_fit(weights, expected, header(file))
    for name, value in read_weights(weights, expected, file).items():
        expected[name].copy_(value)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
