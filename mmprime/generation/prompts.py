"""Words of prompts and captions, classes by name, and what lies nearest to those a model does not know."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

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


def require_prompt(prompt: str) -> None:
    """Raises ValueError on an empty prompt."""
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what to draw, e.g. --prompt 'a red apple'")


def check_prompt(prompt: str, known: Collection[str]) -> str | None:
    """None when every word is known (or nothing is known about words), else one line about those that are not.

    Raises ValueError on an empty prompt, and when not one of its words is known.
    """
    require_prompt(prompt)
    words = words_of(prompt)
    if not words:
        raise ValueError(f"the prompt {prompt!r} holds no word")
    if not known:
        return None
    strange = list(dict.fromkeys(word for word in words if word not in known))
    if not strange:
        return None
    listed = "; ".join(f"{w!r} (nearest: {', '.join(nearest_words(w, known)) or 'none'})" for w in strange[:NAMED])
    listed += f" and {len(strange) - NAMED:,} more" if len(strange) > NAMED else ""
    if set(words) <= set(strange):
        start = prompt if len(prompt) <= 200 else prompt[:200] + "…"
        raise ValueError(f"no word of the prompt {start!r} occurs in the training captions: {listed}")
    return f"words that occur in no training caption: {listed}"


def class_label(asked: int | str, classes: Sequence[str], num_classes: int | None) -> int:
    """The label of a class: its number, or its name as it stands in `classes` (else without regard to case and `_`).

    A text that is both, such as "7", is a name. Raises ValueError for a model without classes, an unknown name (with
    the nearest ones), an ambiguous one, and a number outside [0, num_classes); num_classes itself is the null class.
    """
    if num_classes is None:
        raise ValueError(f"label {asked!r}: this model knows no classes")
    known = f"this model has the {num_classes} classes 0 to {num_classes - 1}"
    if isinstance(asked, str):
        exact = [label for label, name in enumerate(classes) if name == asked]
        labels = exact or [label for label, name in enumerate(classes) if _plain(name) == _plain(asked)]
        if len(labels) > 1:
            raise ValueError(f"label {asked!r} is the name of classes {', '.join(map(str, labels))}; give the number")
        if labels:
            return labels[0]
        if re.fullmatch("[0-9]+", asked) is None:
            near = difflib.get_close_matches(asked, classes, n=3, cutoff=0.5)
            names = f"nearest: {', '.join(near)}" if near else f"e.g. {', '.join(classes[:5])}"
            raise ValueError(
                f"no class is called {asked!r}; {known}; {names if classes else 'their names are unknown'}"
            )
    if not 0 <= int(asked) < num_classes:
        null = ", the null class, is what is drawn without a label" if int(asked) == num_classes else ""
        raise ValueError(f"label {asked}{null}: {known}")
    return int(asked)


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
