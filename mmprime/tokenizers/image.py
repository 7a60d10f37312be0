"""An image as a map of codes: ``codes = Q(E(image))``, ``image ≈ D(codes)`` (VQ-VAE, arXiv 1711.00937)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from mmprime.codecs.weights import NoInit, check_fit, check_hash, header, read_weights
from mmprime.io import read_json, sha256, whole_folder

from .config import ImageTokenizerConfig
from .image_net import Decoder, Encoder
from .quantizers import Quantizer, StoredVQ, build_quantizer, stored_quantizer

_FORMAT = 1


class Reconstruction(NamedTuple):
    """What the forward pass of a tokenizer returns."""

    reconstruction: Tensor  # (B, 3, H, W), not clamped
    codes: Tensor  # (B, h, w) int64
    aux_loss: Tensor  # scalar: the quantizer's own loss


class ImageTokenizer(nn.Module):
    """Images (B, 3, H, W) float in [0, 1] to codes (B, h, w) int64 in [0, C), and back.

    Raises:
        ValueError: if the numbers of ``config`` do not fit together.
    """

    def __init__(self, config: ImageTokenizerConfig, quantizer: Quantizer | None = None) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = quantizer or build_quantizer(config)
        self.decoder = Decoder(config)

    def train(self, mode: bool = True) -> ImageTokenizer:
        """A code book that was loaded is trained on from here."""
        if mode and isinstance(self.quantizer, StoredVQ):
            self.quantizer = self.quantizer.learner()
        return super().train(mode)

    @property
    def num_codes(self) -> int:
        """C, the size of the code book."""
        return self.quantizer.num_codes

    @property
    def radices(self) -> tuple[int, ...]:
        """Bases of the digits a code has by construction (FSQ, LFQ), most significant first; () for a code book."""
        return self.quantizer.radices

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.config.image_size

    @property
    def downsample(self) -> int:
        """Pixels a side of one code."""
        return self.config.downsample

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the code map."""
        return self.config.grid

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode, quantize, decode; in training mode also collects what ``quantizer.update()`` learns from (VQ)."""
        self._check_images(images)
        centred = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        quantized = self.quantizer(self.encoder(centred))
        return Reconstruction(self._to_image(quantized.vectors), quantized.codes, quantized.loss)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, h, w) of ``images``; never moves the code book, whatever the mode.

        Raises:
            ValueError: if the images are not float (B, 3, image_size, image_size) within [0, 1].
        """
        self._check_images(images)
        if images.numel() and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"images must lie in [0, 1], not [{images.min():.3g}, {images.max():.3g}]; divide by 255?")
        vectors = self.encoder((2 * images - 1).contiguous(memory_format=torch.channels_last))
        was_training = self.quantizer.training
        try:
            return self.quantizer.eval()(vectors).codes
        finally:
            self.quantizer.train(was_training)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, 3, h · downsample, w · downsample) in [0, 1] of ``codes`` (B, h, w); any codes will do.

        Raises:
            ValueError: if a code lies outside [0, C) or ``codes`` is not an integer (B, h, w).
        """
        if codes.dim() != 3 or codes.is_floating_point():
            raise ValueError(f"codes must be integers (B, h, w), not {codes.dtype} {tuple(codes.shape)}")
        if codes.numel() and not (codes.min() >= 0 and codes.max() < self.num_codes):
            low, high = int(codes.min()), int(codes.max())
            raise ValueError(f"codes span [{low}, {high}] but must lie in [0, {self.num_codes})")
        return self._to_image(self.quantizer.vectors_of(codes.long())).clamp(0, 1)

    @torch.no_grad()
    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Like ``decode``, from vectors (B, h, w, d) that need not be those of one code: mixtures of codes.

        Raises:
            ValueError: if ``vectors`` is not (B, h, w, d) of the code book's width.
        """
        width = self.codebook_vectors().shape[-1]
        if vectors.dim() != 4 or vectors.shape[-1] != width:
            raise ValueError(f"vectors must be (B, h, w, {width}), not {tuple(vectors.shape)}")
        return self._to_image(rearrange(vectors, "b h w d -> b d h w")).clamp(0, 1)

    def codebook_vectors(self) -> Tensor:
        """(C, d): the vector the decoder sees for each code."""
        return self.quantizer.codebook().detach().clone()

    def save(self, directory: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write ``model.safetensors``, floats stored as ``dtype``, and ``config.json``, which holds its hash.

        Raises:
            ValueError: if a weight is not finite as ``dtype``.
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
                "kind": "image_tokenizer",
                "config": self.config.as_dict(),
                "weights_sha256": sha256(weights),
            }
            (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> ImageTokenizer:
        """The tokenizer saved in ``directory``, in float32 and eval mode.

        Raises:
            ValueError: if a file is absent or damaged; naming weights that are absent, unknown, of another shape, no
                floats or not finite. Shapes are compared with the file's header before memory is taken.
        """
        from safetensors import SafetensorError, safe_open

        directory = Path(directory)
        for name in ("config.json", "model.safetensors"):
            if not (directory / name).is_file():
                raise ValueError(f"{directory} is no image tokenizer: it has no {name}")
        weights = directory / "model.safetensors"
        config, expected = _read_config(directory / "config.json")
        if expected is not None:
            check_hash(weights, expected)
        try:
            with safe_open(weights, "pt") as file:
                _check_sizes(directory / "config.json", config, weights, file)
                model = cls(config, stored_quantizer(config))
                state = model._essential_state()
                for name, value in read_weights(weights, state, file).items():
                    state[name].copy_(value)
        except SafetensorError as error:
            raise ValueError(f"{weights}: not a safetensors file: {error}") from error
        model.quantizer.restore_transient()
        return model.eval()

    def fingerprint(self) -> str:
        """Hash of config and weights: equal for tokenizers that make the same codes."""
        digest = hashlib.sha256(json.dumps(self.config.as_dict(), sort_keys=True).encode())
        for name, value in sorted(self._essential_state().items()):
            digest.update(name.encode())
            digest.update(value.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _to_image(self, vectors: Tensor) -> Tensor:
        return (self.decoder(vectors.contiguous(memory_format=torch.channels_last)) + 1) / 2

    def _check_images(self, images: Tensor) -> None:
        expected = (3, self.image_size, self.image_size)
        if images.dim() != 4 or images.shape[1:] != expected or not images.is_floating_point():
            raise ValueError(f"images must be float (B, {', '.join(map(str, expected))}), not {_describe(images)}")

    def _essential_state(self) -> dict[str, Tensor]:
        transient = {f"quantizer.{name}" for name in self.quantizer.transient}
        return {name: value for name, value in self.state_dict().items() if name not in transient}


def _check_sizes(source: Path, config: ImageTokenizerConfig, weights: Path, file: Any) -> None:
    """Compare a config with the header of a file of weights, by a tokenizer that is shapes only."""
    try:
        with torch.device("meta"), NoInit():
            expected = ImageTokenizer(config, stored_quantizer(config))._essential_state()
    except (RuntimeError, TypeError, OverflowError) as error:  # of torch, on sizes beyond 64 bits
        what = str(error).partition("\n")[0][:200]
        raise ValueError(f"{source}: the sizes of the tokenizer are out of range: {what}") from error
    check_fit(weights, expected, header(file))


def _read_config(path: Path) -> tuple[ImageTokenizerConfig, str | None]:
    """The config, and the hash of the weights where it is recorded. Raises ValueError naming the file."""
    content = read_json(path)
    if not isinstance(content.get("config"), dict):
        raise ValueError(f"{path}: not the config of an image tokenizer")
    if content.get("kind") != "image_tokenizer" or content.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: kind {content.get('kind')!r}, format {content.get('format')!r}; "
            f"expected 'image_tokenizer', format {_FORMAT}"
        )
    return ImageTokenizerConfig.from_dict(content["config"], str(path)), content.get("weights_sha256")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
