"""Infilling: texts with blanks `___` and words to be written anew, as tokens.

"the ___ of Congress", rewrite ("Congress",)   ->   ids with -1 to be sampled, and what they stand for
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmprime.engine import MASK_ID, Codec

if TYPE_CHECKING:
    from torch import Tensor

    from mmprime.tokenizers import TextTokenizer

BLANK = "___"
_BLANKS = r"_{3,}"


@dataclass(frozen=True)
class Infill:
    """ids: of the text, `MASK_ID` where it is to be sampled; stands_for: token -> (its word or `___`, number of the
    blank or 0)."""

    ids: list[int]
    stands_for: dict[int, tuple[str, int]]


def with_blanks(text: str, tokenizer: TextTokenizer, blank_tokens: int, rewrite: Collection[str] = ()) -> Infill:
    """Tokens of a text: a blank takes `blank_tokens` of them, a word to rewrite as many as it has.

    Raises ValueError when there is neither, or a word to rewrite is not in the text.
    """
    words = [word for word in rewrite if word != BLANK]
    if lost := [word for word in words if not re.search(_word(word), text)]:
        raise ValueError(f"the text has no word {lost[0]!r} to write anew: {text!r}")
    pattern = re.compile("|".join([_BLANKS, *map(_word, words)]))
    if not pattern.search(text):
        raise ValueError(f"no {BLANK} to fill in {text!r}")
    ids: list[int] = []
    stands_for: dict[int, tuple[str, int]] = {}
    end = blanks = 0
    for gap in pattern.finditer(text):
        ids += tokenizer.encode(text[end : gap.start()].rstrip())  # a token carries the space before it
        blank = gap.group().startswith(BLANK)
        blanks += blank
        width = blank_tokens if blank else len(tokenizer.encode(" " + gap.group()))
        about = (BLANK, blanks) if blank else (gap.group(), 0)
        stands_for |= dict.fromkeys(range(len(ids), len(ids) + width), about)
        ids += [MASK_ID] * width
        end = gap.end()
    return Infill(ids + tokenizer.encode(text[end:]), stands_for)


def read_partly(digits: Tensor, codec: Codec, tokenizer: TextTokenizer) -> str:
    """A row of digits (L, S) as text, `___` for each run of tokens that are not wholly known."""
    digits = digits.cpu()
    known = (digits >= 0).all(-1)
    codes = torch.full((len(digits),), MASK_ID)
    codes[known] = codec.decode(digits[known])
    parts: list[list[int]] = [[]]
    for code, before in zip(codes.tolist(), [0, *codes.tolist()]):
        if code == MASK_ID and before != MASK_ID:
            parts.append([])
        elif code != MASK_ID:
            parts[-1].append(code)
    return f" {BLANK}".join(tokenizer.decode(part) for part in parts).strip()


def _word(word: str) -> str:
    return rf"\b{re.escape(word)}\b"
