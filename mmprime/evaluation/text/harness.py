"""Models of EleutherAI's lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness), as `mmprime`.

    python -m mmprime.evaluation.text.harness --model mmprime --model_args path=DIR --tasks hellaswag

is the command lm_eval with one more model, all its options included; importing this module registers the model with a
program that calls the harness itself. Log-likelihoods are estimates of lower bounds (`.conditional`), so perplexities
are upper bounds and choices are made by bounds. Texts longer than the model holds are scored by disjoint windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from mmprime.generation.pipeline import from_pretrained
from mmprime.io import bar

from .conditional import ConditionalText

_NEW_TOKENS = 64


@register_model("mmprime")
class MaskedDiffusionLM(TemplateLM):
    """path: a model folder or a name on the hub. samples: draws of each text, of which `batch` go through the network
    together, whatever the harness's --batch_size. greedy: whether each text is also compared with what the model writes
    at temperature 0, which tasks that only choose among texts do not need. Raises ValueError on an unknown option, and
    as `ConditionalText` does."""

    def __init__(
        self,
        path: str = "",
        samples: int = 64,
        seed: int = 0,
        greedy: bool = True,
        batch: int = 64,
        device: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if unknown := sorted(name for name in others if name not in ("batch_size", "max_batch_size")):
            raise ValueError(f"--model_args: unknown {unknown[0]!r}; there are path, samples, seed, greedy, batch")
        if not path:
            raise ValueError("--model_args path=DIR: give a model folder, or a name on the hub")
        usable = device if torch.cuda.is_available() else "cpu"  # the harness asks for cuda:0 where nothing is said
        pipe = from_pretrained(path, usable or "cpu")
        self.text, self.greedy = ConditionalText(pipe, samples, batch, seed), greedy
        self._device = pipe.device

    @property
    def eot_token_id(self) -> int:
        """The end of a document, which a text without context follows."""
        return self.text.tokenizer.end_id

    @property
    def tokenizer_name(self) -> str:
        """Names what the harness caches of requests."""
        return self.text.tokenizer.fingerprint()

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, without an end."""
        return self.text.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy sampling gives it) of each (texts, context, continuation)."""
        return [
            (self.text.log_likelihood(context, ids), self.greedy and self._is_greedy(context, ids))
            for _, context, ids in bar(requests, "scoring", "text", not disable_tqdm)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, by windows that know nothing of each other."""
        texts = [self.tok_encode(request.args[0]) for request in requests]
        return [self.text.log_likelihood([], ids) for ids in bar(texts, "scoring", "text", not disable_tqdm)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, cut at the end of the document and at the first of the stop words."""
        asked = bar([request.args for request in requests], "writing", "text", not disable_tqdm)
        return [self._written(context, options) for context, options in asked]

    def _written(self, context: str, options: dict[str, Any]) -> str:
        stops = options.get("until") or []
        count = min(int(options.get("max_gen_toks", _NEW_TOKENS)), self.text.length - 1)
        warmth = float(options.get("temperature", 0.0)) if options.get("do_sample", False) else 0.0
        ids = self.text.continued(self.tok_encode(context), count, warmth)
        text = self.text.tokenizer.decode(ids)
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text

    def _is_greedy(self, context: list[int], ids: list[int]) -> bool:
        return 0 < len(ids) <= self.text.length and self.text.continued(context, len(ids)) == list(ids)


def main() -> None:
    """The command of the harness."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
