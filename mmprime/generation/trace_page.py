"""A traced text as one HTML file: a slider of steps, and every token as far as it is known at that step.

The page (`templates/`) needs no network (its Content-Security-Policy forbids any: its one style and one script are
named by hash) and works by keyboard. What comes from a model or a user is escaped, in the markup and in the script's
data.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .sampling import Result
from .trace import frames, likeliest, record

if TYPE_CHECKING:
    from mmprime.tokenizers import TextTokenizer

    from .pipeline import Pipeline

MASKED = "░░░"
INK, UNKNOWN, KNOWN = (26, 26, 26), (232, 232, 232), (126, 203, 240)


@dataclass(frozen=True)
class Digit:
    """A digit as it ended: value; rank, entropy (nats) and confidence of its reveal, None where it was given."""

    value: int
    rank: int
    entropy: float | None
    confidence: float | None


@dataclass(frozen=True)
class Token:
    """changes: (step, one 0 or 1 for each digit, text), from step 0 on, wherever what is known or shown changes."""

    digits: list[Digit]
    changes: list[tuple[int, str, str]]

    @property
    def given(self) -> bool:
        return all(digit.rank == 0 for digit in self.digits)


def page(
    title: str,
    about: Mapping[str, object],
    texts: Sequence[Sequence[Token]],
    table: Sequence[tuple[int, str, str]],
    curve: bytes,
) -> str:
    """The whole page. table: (step, mean entropy, mean confidence) in words; curve: the same as a PNG figure."""
    from jinja2 import Environment, PackageLoader

    templates = Environment(
        loader=PackageLoader("mmprime.generation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    levels = len(texts[0][0].digits)
    style = templates.get_template("trace.css").render(
        ink=INK, shades=[shade(known, levels) for known in range(levels + 1)]
    )
    script = templates.get_template("trace.js").render()
    data = json.dumps({"steps": len(table), "texts": [[asdict(token) for token in text] for text in texts]})
    return templates.get_template("trace.html").render(
        title=title,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        about=about,
        texts=texts,
        steps=len(table),
        table=table,
        levels=levels,
        edges=["none", *["part"] * (levels - 1), "whole"],
        style=style,
        script=script,
        data=_inert(data),
        curve=base64.b64encode(curve).decode(),
    )


def shade(known: int, levels: int) -> tuple[int, int, int]:
    """The background (red, green, blue) of a token of which `known` of its digits, one for each level, are known."""
    share = known / levels
    red, green, blue = (round(low + share * (high - low)) for low, high in zip(UNKNOWN, KNOWN))
    return red, green, blue


def text_tokens(result: Result, pipe: Pipeline) -> list[list[Token]]:
    """The tokens of each text of a traced sample; those that are never sampled are left out."""
    states, tokenizer = frames(result), pipe.text_tokenizer
    assert tokenizer is not None
    codes = torch.stack([likeliest(pipe.model, pipe.canvas, y, "text") for y in states])
    known = pipe.canvas.view(states, "text") >= 0
    texts = []
    for b, entry in enumerate(record(result, pipe.canvas)):
        columns = [entry["spans"]["text"][name] for name in ("digits", "rank", "entropy", "confidence")]
        texts.append(
            [
                Token([Digit(*digit) for digit in zip(*token)], _changes(codes[:, b, i], known[:, b, i], tokenizer))
                for i, token in enumerate(zip(*columns))
                if min(token[1]) >= 0
            ]
        )
    return texts


def _changes(codes: Tensor, known: Tensor, tokenizer: TextTokenizer) -> list[tuple[int, str, str]]:
    """Of one token: its likeliest codes (K + 1,) and which digits are known (K + 1, S) as what `Token` holds."""
    changes: list[tuple[int, str, str]] = []
    for step, (code, digits) in enumerate(zip(codes.tolist(), known.int().tolist())):
        text = MASKED if code < 0 else tokenizer.piece(code).replace("\n", "↵\n")
        state = ("".join(map(str, digits)), text)
        if not changes or changes[-1][1:] != state:
            changes.append((step, *state))
    return changes


def _inert(data: str) -> str:
    """JSON that cannot end the script element it lies in: no <, > or & is left."""
    return data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
