"""Which words of a prompt a model has met in its training captions, and what lies nearest to those it has not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

NAMED = 8  # unknown words that are told with their nearest; of more there is only a count
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Lower-case words in order: runs of letters and digits."""
    return _WORD.findall(text.lower())


def collect_words(captions: Iterable[str]) -> frozenset[str]:
    """All words of some captions."""
    return frozenset(word for caption in set(captions) for word in words_of(caption))


def nearest_words(word: str, known: Collection[str]) -> list[str]:
    """Up to three known words spelt most alike."""
    return difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)


def check_prompt(prompt: str, known: Collection[str]) -> str | None:
    """None when every word is known (or nothing is known about words), else one line about those that are not.

    Raises ValueError on an empty prompt, and when not one of its words is known.
    """
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what to draw, e.g. --prompt 'a red apple'")
    if not words_of(prompt):
        raise ValueError(f"the prompt {prompt!r} holds no word")
    if not known:
        return None
    words = words_of(prompt)
    strange = list(dict.fromkeys(word for word in words if word not in known))
    if not strange:
        return None
    listed = "; ".join(f"{w!r} (nearest: {', '.join(nearest_words(w, known)) or 'none'})" for w in strange[:NAMED])
    listed += f" and {len(strange) - NAMED:,} more" if len(strange) > NAMED else ""
    if set(words) <= set(strange):
        shown = prompt if len(prompt) <= 200 else prompt[:200] + "…"
        raise ValueError(f"no word of the prompt {shown!r} occurs in the training captions: {listed}")
    return f"words that occur in no training caption: {listed}"
