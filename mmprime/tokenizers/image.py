"""An image as a map of codes: ``codes = Q(E(image))``, ``image ≈ D(codes)`` (VQ-VAE, arXiv 1711.00937)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from mmprime.codecs.weights import NoInit, check_fit, header
from mmprime.engine import Codec

from .base import ImageTokenizerBase, fill, open_weights, read_tokenizer_config, require_kind
from .config import ImageTokenizerConfig
from .image_net import Decoder, Encoder
from .quantizers import Quantizer, build_quantizer, stored_quantizer


class Reconstruction(NamedTuple):
    """What the forward pass of a tokenizer returns."""

    reconstruction: Tensor  # (B, 3, H, W), not clamped
    digits: Tensor  # (B, h, w, S) int64
    aux_loss: Tensor  # scalar: the quantizer's own loss
    bounds: tuple[int, ...]  # values of each digit

    @property
    def codes(self) -> Tensor:
        """(B, h, w) int64. Raises ValueError where there are more than 2^62."""
        return Codec.product(self.bounds).decode(self.digits)


class ImageTokenizer(ImageTokenizerBase):
    """A convolutional autoencoder with a quantizer between encoder and decoder.

    Raises:
        ValueError: if the numbers of ``config`` do not fit together.
    """

    kind = "image_tokenizer"

    def __init__(self, config: ImageTokenizerConfig, quantizer: Quantizer | None = None) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = quantizer or build_quantizer(config)
        self.decoder = Decoder(config)
        self.radices = () if config.quantizer == "vq" else self.quantizer.bounds

    def train(self, mode: bool = True) -> ImageTokenizer:
        """A code book that was loaded is trained on from here."""
        if mode:
            self.quantizer = self.quantizer.learner()
        return super().train(mode)

    @property
    def num_codes(self) -> int:
        """C, the size of the code book."""
        return self.quantizer.num_codes

    @property
    def image_size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.config.image_size

    @property
    def downsample(self) -> int:
        """Pixels a side of one code."""
        return self.config.downsample

    def forward(self, images: Tensor, wrong: Tensor | None = None) -> Reconstruction:
        """Encode, quantize, decode; in training mode also collects what ``quantizer.update()`` learns from (VQ).

        ``wrong`` (B,): the share of each image's digits that the decoder gets a value beside their own (FSQ, bits).
        """
        quantized = self.quantizer(self._encoded(images))
        vectors = quantized.vectors
        if wrong is not None:
            right = quantized.digits
            shift = self.quantizer.vectors_of(self.quantizer.near(right, wrong)) - self.quantizer.vectors_of(right)
            vectors = vectors + rearrange(shift, "b h w d -> b d h w")
        return Reconstruction(self._to_image(vectors), quantized.digits, quantized.loss, self.quantizer.bounds)

    def reconstruct_continuous(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), not clamped: decoded with nothing quantized, as training starts where quantisation is deferred
        (arXiv 2603.17052)."""
        return self._to_image(self.quantizer.continuous(self._encoded(images)))

    @torch.no_grad()
    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Like ``decode``, from vectors (B, h, w, d) that need not be those of one code: mixtures of codes.

        Raises:
            ValueError: if ``vectors`` is not (B, h, w, d) of the code book's width.
        """
        width = self.config.latent_dim
        if vectors.dim() != 4 or vectors.shape[-1] != width:
            raise ValueError(f"vectors must be (B, h, w, {width}), not {tuple(vectors.shape)}")
        return self._to_image(rearrange(vectors, "b h w d -> b d h w")).clamp(0, 1)

    def codebook_vectors(self) -> Tensor:
        """(C, d): the vector the decoder sees for each code. Raises ValueError where a table would be too large."""
        return self.quantizer.codebook().detach().clone()

    def save(self, directory: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """As of every image tokenizer, in half precision."""
        super().save(directory, dtype)

    @classmethod
    def load(cls, directory: str | Path) -> ImageTokenizer:
        """The tokenizer saved in ``directory``, in float32 and eval mode.

        Raises:
            ValueError: if a file is absent or damaged; naming weights that are absent, unknown, of another shape, no
                floats or not finite. Shapes are compared with the file's header before memory is taken.
        """
        directory = Path(directory)
        content = read_tokenizer_config(directory)
        require_kind(directory, content, cls.kind)
        config = ImageTokenizerConfig.from_dict(content["config"], str(directory / "config.json"))
        weights = directory / "model.safetensors"
        with open_weights(directory, content) as file:
            _check_sizes(directory / "config.json", config, weights, file)
            model = cls(config, stored_quantizer(config))
            fill(weights, model._essential_state(), file)
        model.quantizer.restore_transient()
        return model.eval()

    def _encoded(self, images: Tensor) -> Tensor:
        self._check_images(images)
        encoded: Tensor = self.encoder((2 * images - 1).contiguous(memory_format=torch.channels_last))
        return encoded

    def _digits(self, images: Tensor) -> Tensor:
        """Never moves the code book, whatever the mode."""
        vectors = self._encoded(images)
        was_training = self.quantizer.training
        try:
            return self.quantizer.eval()(vectors).digits
        finally:
            self.quantizer.train(was_training)

    def _images(self, digits: Tensor) -> Tensor:
        return self._to_image(rearrange(self.quantizer.vectors_of(digits), "b h w d -> b d h w"))

    def _settings(self) -> dict[str, Any]:
        return self.config.as_dict()

    def _to_image(self, vectors: Tensor) -> Tensor:
        return (self.decoder(vectors.contiguous(memory_format=torch.channels_last)) + 1) / 2

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
