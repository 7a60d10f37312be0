"""The likelihood of a text given what comes before it, by the count estimator, and the tokens a model puts there.

    -log p(x | c)  <=  E_k  L/k Σ_masked -log p(x_n | x_visible, c),     exactly k of the L units of x masked

k is uniform in 1..L and stratified over the draws (Nie et al., arXiv 2502.09992, eq. 6; Ou et al., arXiv 2406.03736); a
unit is what the model's masking process masks: a token or a digit. The rest of the model's span stays masked and is not
scored. Every text is scored with the same random numbers, so that texts of one length are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mmprime.engine import MASK_ID, Rows, generator_of, mix, nelbo
from mmprime.generation.sampling import sample_rows

if TYPE_CHECKING:
    from mmprime.generation.pipeline import Pipeline
    from mmprime.tokenizers import TextTokenizer

_STREAM = 11
Ids = Sequence[int]


@dataclass(frozen=True)
class ConditionalText:
    """A text model that scores and continues token ids. samples: draws of each text, of which `batch` go through the
    network together. Raises ValueError on a model of pictures, or without a tokenizer, and on numbers below 1."""

    pipe: Pipeline
    samples: int = 64
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        spans = [span.name for span in self.pipe.canvas.spans]
        if spans != ["text"] or self.pipe.text_tokenizer is None:
            raise ValueError(f"the model has the spans {spans}; a model of texts alone, with its tokenizer, is needed")
        if min(self.samples, self.batch) < 1:
            raise ValueError(f"samples={self.samples} and batch={self.batch} must be at least 1")

    @property
    def length(self) -> int:
        """Tokens that the model holds."""
        return self.pipe.canvas.span("text").num_tokens

    @property
    def tokenizer(self) -> TextTokenizer:
        """Of the model."""
        assert self.pipe.text_tokenizer is not None
        return self.pipe.text_tokenizer

    @torch.no_grad()
    def log_likelihood(self, context: Ids, ids: Ids) -> float:
        """An unbiased estimate of a lower bound of log p(ids | context), in nats.

        The context loses its start where both do not fit. Ids that do not fit are scored in pieces of `length`, each
        without a context.
        """
        if len(ids) > self.length:
            parts = [ids[start : start + self.length] for start in range(0, len(ids), self.length)]
            return sum(self.log_likelihood([], part) for part in parts)
        if not ids:
            return 0.0
        rows, model, canvas = self._rows(context, ids), self.pipe.model, self.pipe.canvas
        generator, nats = generator_of(mix(self.seed, _STREAM)), 0.0
        for picks in torch.zeros(self.samples, dtype=torch.long, device=rows.y.device).split(self.batch):
            bound = nelbo(model, canvas, rows[picks], None, self.pipe.card.masking, generator=generator)
            nats += float(bound.double().sum())
        return -nats / self.samples

    @torch.no_grad()
    def continued(self, context: Ids, count: int, temperature: float = 0.0) -> list[int]:
        """`count` ids after the context, sampled as the model folder says. Raises ValueError where they do not fit."""
        if not 1 <= count <= self.length:
            raise ValueError(f"{count} new tokens were asked for; the model holds 1 to {self.length}")
        context = list(context)[max(0, len(context) + count - self.length) :]
        rows, span = self._rows(context, [0] * count), self.pipe.canvas.span("text")
        config = replace(self.pipe.config_for("text"), temperature=temperature, seed=self.seed)
        config = replace(config, steps=min(config.steps or count, int(rows.free.sum())))
        y = rows.y.masked_fill(rows.free, MASK_ID)
        sampled = sample_rows(self.pipe.model, self.pipe.canvas, y, config, rows.absent[0]).y
        digits = self.pipe.canvas.view(sampled, "text")[0]
        ids: list[int] = span.codec.decode(digits[len(context) : len(context) + count]).tolist()
        return ids

    def _rows(self, context: Ids, ids: Ids) -> Rows:
        """One row: the end of the context is given, ids are free, the rest of the span is absent."""
        context = list(context)[max(0, len(context) + len(ids) - self.length) :]
        known = [*context, *ids]
        tokens = torch.tensor([known + [0] * (self.length - len(known))], device=self.pipe.device)
        of = self.pipe.canvas.token_of
        given, absent = of < len(context), of >= len(known)
        y = self.pipe.canvas.pack({"text": tokens})
        return Rows.of(self.pipe.canvas, y.masked_fill(absent.to(y.device), MASK_ID), given, absent)
