"""A caption as people write it: with an article, in the plural, its colour behind, by its tags, in a sentence.

    training      red apple · a red apple · an emoji of a red apple · red apples · an apple in red · ...
    evaluation    an illustration of a red apple · can you make a red apple? ...

No phrasing of the evaluation is one of training, nor any of its frames. A tag alone is none either: it is often the
caption of another drawing; three of them together are. The rules know English nouns by their endings and err at times.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

FRAMES = ("{a}", "an emoji of {a}", "emoji of {a}", "{c} emoji", "a picture of {a}", "picture of {a}", "an icon of {a}",
          "{c} icon", "a drawing of {a}", "a cartoon of {a}", "draw {a}", "show me {a}")  # fmt: skip
EVALUATION_FRAMES = ("an illustration of {a}", "a sticker of {a}", "a simple sketch of {a}", "i would like {a}",
                     "can you make {a}?", "just {a}, please", "something like {a}", "i need {a} here")  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "pink", "grey")
_BARE = """
aerial air art badminton baseball basketball bowling bread cheese clothing construction cooking currency cricket customs
dizzy foggy fog fire fireworks golf hair hockey honey infinity ice jewelry lacrosse left link lipstick locked luggage
mail medicine milk money music no o’clock pong popcorn prohibited radioactive rain rice running skiing sleepy smoke
smoking snow soccer softball sushi tea tennis thirty toast unlocked up volleyball water wavy weather wind wine zzz
"""  # heads that take no article
_PLURALS = {"man": "men", "woman": "women", "person": "people", "child": "children", "tooth": "teeth", "foot": "feet",
            "leaf": "leaves", "knife": "knives", "mouse": "mice", "sheep": "sheep", "fish": "fish"}  # fmt: skip
_BREAK = re.compile(
    r"^(\S.*?)( (?:with|without|of|in|on|at|behind|over|and|under|for|from|to|into|\w{2,}ing\b|\().*)?$"
)
_DETERMINED = ("a ", "an ", "the ", "no ", "one ", "two ", "three ", "some ")
RELATIONS = ("left of", "right of", "above", "below")  # of two things in a scene
_SCENE = re.compile(rf"(.+) ({'|'.join(RELATIONS)}) (.+)")
_TAGS = 3


def noun_phrase(caption: str) -> str:
    """A caption with its article, where it takes one; `flag: France` as the flag of France."""
    if scene := _SCENE.fullmatch(caption):
        return f"{noun_phrase(scene[1])} {scene[2]} {noun_phrase(scene[3])}"
    text = _spelled(caption)
    if not _is_singular(text):
        return text
    return f"{'an' if _starts_with_vowel(text) else 'a'} {text}"


def plural(caption: str) -> str | None:
    """Of a caption that is one thing, else None."""
    text = _spelled(caption)
    if not _is_singular(text) or "“" in text or _SCENE.fullmatch(text):
        return None
    head, rest = _split(text)
    *before, noun = head.split(" ")
    return " ".join([*before, _PLURALS.get(noun, _with_s(noun))]) + rest


def phrasings(caption: str, tags: Sequence[str] = ()) -> list[str]:
    """What may stand for a caption in training beside the caption itself, each once."""
    others = [frame.format(a=noun_phrase(caption), c=_spelled(caption).removeprefix("the ")) for frame in FRAMES]
    others += [text for text in (plural(caption), _colour_behind(caption)) if text]
    new = sorted((tag for tag in tags if tag.lower() not in caption.lower()), key=lambda tag: _hash(caption, tag))
    others += [f"{caption}, {tag}" for tag in new[:_TAGS]]
    if len(new) >= _TAGS:
        others += [", ".join(new[:_TAGS]), " ".join(new[-_TAGS:])]
    return [text for text in dict.fromkeys(others) if text != caption]


def evaluation_phrasings(caption: str) -> list[str]:
    """What stands for a caption where it is measured how much such wording costs."""
    return [frame.format(a=noun_phrase(caption)) for frame in EVALUATION_FRAMES]


def _spelled(caption: str) -> str:
    """Without the colon of `flag: France`, `keycap: 5`, `woman: red hair`, `family: man, boy`."""
    what, colon, rest = caption.partition(": ")
    if not colon:
        return caption
    if what == "flag":
        return f"the flag of {rest}"
    if what == "keycap":
        return f"keycap {rest}"
    link = "with" if rest.endswith("hair") or rest == "beard" else "of" if what == "family" else "facing"
    rest = re.sub(r", ([^,]*)$", r" and \1", rest.removeprefix("facing "))
    return f"{rest} {what}" if rest in ("bald", "blond hair") else f"{what} {link} {rest}"


def _split(text: str) -> tuple[str, str]:
    """The noun with what stands before it, and the rest."""
    match = _BREAK.match(text)
    assert match is not None
    return match[1], match[2] or ""


def _is_singular(text: str) -> bool:
    """Whether it begins with no article and its head is one countable thing: no name, no mass, no plural."""
    if text.lower().startswith(_DETERMINED):
        return False
    noun = _split(text)[0].split(" ")[-1]
    name = noun[:1].isupper() and " " not in text
    ends = noun.lower().endswith("s") and not re.search(r"(ss|us|is|ps)$", noun.lower())
    return not (name or ends or noun.lower() in _BARE.split() or noun.lower() in _PLURALS.values() or noun.isdigit())


def _starts_with_vowel(text: str) -> bool:
    word = text.split(" ")[0]
    if word.isupper() and len(word) < 4:  # spelled out: an ID button
        return word[0] in "AEFHILMNORSX"
    return bool(re.match(r"(?i)[aeiou](?!ni(corn|cy|for)|se|ro|x\b)|hour|heir", word)) and not word.startswith("one")


def _with_s(noun: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun[:-1] + "ies" if re.search(r"[^aeiou]y$", noun) else noun + "s"


def _colour_behind(caption: str) -> str | None:
    """`an apple in red` for `red apple`."""
    words = caption.split(" ")
    colours = [word for word in words if word in COLOURS]
    if len(colours) != 1 or words[-1] in COLOURS or ":" in caption or _SCENE.fullmatch(caption):
        return None
    words.remove(colours[0])
    return f"{noun_phrase(' '.join(words))} in {colours[0]}"


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()
