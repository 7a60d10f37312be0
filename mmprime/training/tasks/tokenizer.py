"""Training of an image tokenizer: ``a1·|x̂-x| + a2·(x̂-x)² + perceptual + adversarial + quantizer's own loss``.

PSNR of an image is ``-10·log10(mean (x̂-x)²)`` for pixels in [0, 1]; a split reports the mean over its images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from mmprime.data import ImageDataset, read_index
from mmprime.generation.images import save_picture, sheet
from mmprime.io import sha256
from mmprime.tokenizers import ImageTokenizer
from mmprime.tokenizers.config import MAX_CODES
from mmprime.tokenizers.losses import PatchDiscriminator, PerceptualLoss, hinge_discriminator, hinge_generator
from mmprime.tokenizers.quantizers import usage

from ..config import ConfigError, data_folder, resolve
from ..corpus import dataset_fingerprint, validation_splits, without_validation
from ..schema import TokenizerLossConfig, TokenizerRunConfig
from ..streams import StreamedPictures, StreamPlan, notice
from ..task import LossTerm, Task

_BATCH = 128  # images at a time where no gradients are needed


class TokenizerTask(Task):
    """Images of ``config.data.path`` as uint8, in memory or streamed, a tokenizer, and an adversary if asked for.

    Raises:
        ValueError: if a split is absent or empty, the images have another size, a loss lacks its weights or all are 0.
    """

    name = "tokenizer"
    modules: nn.ModuleDict
    best_metric = "mse"
    reaches_all = True

    def __init__(self, config: TokenizerRunConfig, device: torch.device | str = "cpu") -> None:
        self.loss, self.device = config.loss, torch.device(device)
        if not (self.loss.l1 or self.loss.l2 or self.loss.perceptual):
            raise ConfigError("loss.l1, loss.l2 and loss.perceptual are all 0: nothing asks for the picture; set one")
        index, side = read_index(data_folder(config.data.path), "images"), config.tokenizer.image_size
        splits = validation_splits(config.data, index["splits"])
        self.tokenizer = ImageTokenizer(config.tokenizer)
        if self.loss.wrong_digits and not self.tokenizer.quantizer.ordinal:
            raise ConfigError(
                f"loss.wrong_digits={self.loss.wrong_digits} moves digits to the next value, but the codes of "
                f"tokenizer.quantizer={config.tokenizer.quantizer} have no order; use fsq, lfq or bsq"
            )
        plan = StreamPlan(config.data, index, config.train, config.run.seed)
        self.streamed = plan.wanted(3 * side**2)
        self.images = StreamedPictures(plan, side) if self.streamed else self._load(config, config.data.train_split)
        self.notices = [notice(plan, self.images.stream)] if isinstance(self.images, StreamedPictures) else []
        self.validation = {split: self._load(config, split) for split in splits}
        if not self.validation:
            without_validation(config.data, config.train)
        self.num_examples = len(self.images)
        self.modules = nn.ModuleDict({"tokenizer": self.tokenizer})
        if self.loss.adversarial:
            self.modules["discriminator"] = PatchDiscriminator()
        self.modules.to(self.device)
        self.perceptual = _perceptual(self.loss, self.device)
        self._fingerprint = {"data.path": dataset_fingerprint(config.data.path)}
        if self.perceptual is not None:
            self._fingerprint["loss.perceptual_weights"] = sha256(resolve(self.loss.perceptual_weights))[:16]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One optimizer for the tokenizer and, where there is an adversary, one for it."""
        return {name: list(module.parameters()) for name, module in self.modules.items()}

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Iterator[LossTerm]:
        """The tokenizer's loss on images ``indices`` (B,), then from ``adversarial_start`` on the adversary's.

        Code-book start and revival, and wrong digits, are drawn by torch's global generator, the rest by ``generator``.
        """
        images = self._pixels(augmented(self.images[indices], self.loss, generator))
        fooling = self._adversary_at(step)
        restored, own = self._restored(images, step)
        terms = self._terms(images, restored, fooling) | own
        weights = {name: getattr(self.loss, name) for name in terms}
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        wait = self.images.stream.meter.last() if isinstance(self.images, StreamedPictures) else {}
        yield "tokenizer", total, {name: float(term.detach()) for name, term in terms.items()} | wait
        if fooling:
            discriminator = self.modules["discriminator"]
            real, fake = discriminator(images), discriminator(restored.detach())
            yield "discriminator", hinge_discriminator(real, fake), {}

    def _restored(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The images through the tokenizer, and the quantizer's own loss, once it quantizes."""
        if step < self.loss.quantize_from:
            return self.tokenizer.reconstruct_continuous(images), {}
        share = self.loss.wrong_digits
        result = self.tokenizer(images, torch.rand(len(images), device=self.device) * share if share else None)
        return result.reconstruction, {"quantizer": result.aux_loss}

    def after_step(self) -> None:
        """Move the code book by what all processes saw in this step."""
        self.tokenizer.quantizer.update()

    def validate(self, generator: torch.Generator) -> dict[str, float]:
        """For each validation split: PSNR (dB), L1, mean squared error, share of codes used, their perplexity.

        ``mse`` alone is the mean over the splits.
        """
        metrics: dict[str, float] = {}
        for split, images in self.validation.items():
            metrics |= {f"{split}/{name}": value for name, value in self.scores(images).items()}
        errors = [metrics[f"{split}/mse"] for split in self.validation]
        return {"mse": sum(errors) / len(errors), **metrics}

    def scores(self, images: Tensor) -> dict[str, float]:
        """Reconstruction and code-book numbers of uint8 ``images`` (n, 3, H, W); of tokens that no book holds those of
        a digit, in the mean of the levels."""
        parts = images.split(_BATCH)

        def score(part: int) -> tuple[Tensor, Tensor, list[Tensor]]:
            pixels = self._pixels(parts[part])
            result = self.tokenizer(pixels)
            error = result.reconstruction.clamp(0, 1) - pixels
            squared, absolute = (e.mean((1, 2, 3)).cpu() for e in (error.square(), error.abs()))
            return squared, absolute, self._counts(result.digits)

        squared, absolute, counts = zip(*self.world.share(score, len(parts), "validation"))
        mse = torch.cat(squared)
        use = [usage(torch.stack(levels).sum(0)) for levels in zip(*counts)]
        return {
            "psnr": float(-10 * mse.detach().clamp(min=1e-8).log10().mean()),
            "l1": float(torch.cat(absolute).mean()),
            "mse": float(mse.mean()),
            "codes_used": sum(share for share, _ in use) / len(use),
            "code_perplexity": sum(perplexity for _, perplexity in use) / len(use),
        }

    def report(self, metrics: dict[str, float], step: int) -> str:
        """PSNR and code use of each split, in one line."""
        return "; ".join(
            f"{split} PSNR {metrics[f'{split}/psnr']:.2f} dB, L1 {metrics[f'{split}/l1']:.4f}, "
            f"{100 * metrics[f'{split}/codes_used']:.1f} % of {self._counted} used, perplexity "
            f"{metrics[f'{split}/code_perplexity']:.0f}"
            for split in self.validation
        )

    def write_samples(self, directory: Path, step: int) -> None:
        """``reconstructions_STEP.png``: validation images (training ones where there are none) above their copies."""
        if not self.world.is_main:
            return
        directory.mkdir(parents=True, exist_ok=True)
        splits: list[Tensor | StreamedPictures] = [*self.validation.values()] or [self.images]
        chosen = torch.cat([_spread(images, -(-32 // len(splits))) for images in splits])
        originals = self._pixels(chosen)
        restored = self.tokenizer.decode_digits(self.tokenizer.encode_digits(originals))
        write_pairs(directory / f"reconstructions_{step:06d}.png", originals, restored)

    def export(self, directory: Path) -> None:
        """The tokenizer's folder."""
        self.tokenizer.save(directory)

    def fingerprint(self) -> dict[str, str]:
        """Of the images, and of the weights of a perceptual loss."""
        return self._fingerprint

    def inspect(self, indices: Tensor) -> dict[str, Tensor]:
        """The images of a batch."""
        return {"images": self.images[indices]}

    @property
    def _counted(self) -> str:
        return "codes" if self.tokenizer.num_codes <= MAX_CODES else "digit values"

    def _counts(self, digits: Tensor) -> list[Tensor]:
        """How often each code occurs; of tokens that no book holds, each value of each level."""
        codec = self.tokenizer.codec()
        if self.tokenizer.num_codes <= MAX_CODES:
            return [torch.bincount(codec.decode(digits).flatten(), minlength=codec.num_codes).cpu()]
        levels = digits.flatten(0, -2).unbind(-1)
        return [torch.bincount(level, minlength=base).cpu() for level, base in zip(levels, codec.radices)]

    def _terms(self, images: Tensor, restored: Tensor, fooling: bool) -> dict[str, Tensor]:
        """Unweighted loss terms by their names in the config; only those with a weight."""
        error = restored - images
        terms = {"l1": error.abs().mean(), "l2": error.square().mean()}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(restored, images)
        if fooling:
            terms["adversarial"] = hinge_generator(self.modules["discriminator"](restored))
        return terms

    def _adversary_at(self, step: int) -> bool:
        return "discriminator" in self.modules and step >= self.loss.adversarial_start

    def _pixels(self, images: Tensor) -> Tensor:
        return images.to(self.device).float() / 255

    def _load(self, config: TokenizerRunConfig, split: str) -> Tensor:
        images = torch.as_tensor(ImageDataset.load(data_folder(config.data.path), split).images)
        size = self.tokenizer.image_size
        if len(images) == 0:
            raise ValueError(f"{config.data.path} has no images in split {split!r}")
        if tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(
                f"{config.data.path}: images are {tuple(images.shape[1:])} but tokenizer.image_size={size}"
            )
        return images


def augmented(images: Tensor, loss: TokenizerLossConfig, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) mirrored and moved at random as ``loss.flip`` and ``loss.shift`` ask."""
    if loss.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None].to(images.device), images.flip(-1), images)
    if not loss.shift:
        return images
    size = torch.arange(images.shape[-1])
    moves = torch.randint(-loss.shift, loss.shift + 1, (2, len(images), 1), generator=generator)
    rows, columns = (size + moves).clamp(0, len(size) - 1).to(images.device)
    return images[
        torch.arange(len(images))[:, None, None, None],
        torch.arange(3)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def write_pairs(path: Path, above: Tensor, below: Tensor, columns: int = 16) -> None:
    """A PNG of images (n, 3, H, W) in [0, 1]: rows of ``above``, each followed by the matching row of ``below``."""
    pairs = torch.stack([above, below])
    blank = pairs.new_ones(2, -len(above) % columns, *above.shape[1:])
    rows = "pair (row column) c h w -> (row pair column) c h w"
    save_picture(path, sheet(rearrange(torch.cat([pairs, blank], 1), rows, column=columns), columns=columns))


def _spread(images: Tensor | StreamedPictures, count: int) -> Tensor:
    """``count`` images evenly spaced over the set (fewer if there are not so many)."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()]


def _perceptual(loss: TokenizerLossConfig, device: torch.device) -> PerceptualLoss | None:
    if not loss.perceptual:
        return None
    if not loss.perceptual_weights:
        raise ValueError(
            f"loss.perceptual={loss.perceptual} needs loss.perceptual_weights, a file of {loss.perceptual_model} "
            "weights; set it, or loss.perceptual=0"
        )
    return PerceptualLoss(resolve(loss.perceptual_weights), loss.perceptual_model).to(device)
