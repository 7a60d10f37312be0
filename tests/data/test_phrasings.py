"""Captions as people write them: articles, plurals, colours and tags by hand; training and evaluation share nothing."""

from __future__ import annotations

import pytest

from mmprime.data.phrasings import EVALUATION_FRAMES, FRAMES, evaluation_phrasings, noun_phrase, phrasings, plural

CAPTIONS = ("red apple", "flag: France", "Aquarius", "grapes", "woman: red hair", "T-Rex", "no smoking", "ID button")


@pytest.mark.parametrize(
    ("caption", "with_article", "several"),
    [
        ("red apple", "a red apple", "red apples"),
        ("orange book", "an orange book", "orange books"),
        ("unicorn", "a unicorn", "unicorns"),
        ("ID button", "an ID button", "ID buttons"),
        ("face with tears of joy", "a face with tears of joy", "faces with tears of joy"),
        ("woman running", "a woman running", "women running"),
        ("fire extinguisher", "a fire extinguisher", "fire extinguishers"),
        ("cherry", "a cherry", "cherries"),
        ("takeout box", "a takeout box", "takeout boxes"),
        ("bus", "a bus", "buses"),
        ("grapes", "grapes", None),
        ("cooked rice", "cooked rice", None),
        ("Aquarius", "Aquarius", None),
        ("no smoking", "no smoking", None),
        ("a man riding a wave", "a man riding a wave", None),
        ("flag: France", "the flag of France", None),
        ("keycap: 5", "keycap 5", None),
        ("woman: red hair", "a woman with red hair", "women with red hair"),
        ("man: bald", "a bald man", "bald men"),
        ("man walking: facing right", "a man walking facing right", "men walking facing right"),
        ("red apple left of grapes", "a red apple left of grapes", None),
        ("cat above egg", "a cat above an egg", None),
        ("left arrow", "a left arrow", "left arrows"),
        ("family: man, woman, boy", "a family of man, woman and boy", "families of man, woman and boy"),
    ],
)
def test_articles_and_plurals(caption: str, with_article: str, several: str | None) -> None:
    assert noun_phrase(caption) == with_article
    assert plural(caption) == several


def test_phrasings_for_training() -> None:
    others = phrasings("red apple", ["fruit", "red", "apple", "ripe", "diet"])
    assert len(set(others)) == len(others)
    assert "red apple" not in others
    assert {"a red apple", "an emoji of a red apple", "red apple emoji", "red apples", "an apple in red"} < set(others)
    assert {"red apple, fruit", "red apple, ripe", "red apple, diet"} < set(others), "tags that the caption lacks"
    assert not {"red apple, red", "fruit"} & set(others)
    assert any(sorted(text.split(", ")) == ["diet", "fruit", "ripe"] for text in others)
    assert others == phrasings("red apple", ["ripe", "diet", "apple", "fruit", "red"])
    assert not any(" in red" in text for text in [*phrasings("apple"), *phrasings("red apple above cat")])
    assert "a cat in black" not in phrasings("black and white cat")


def test_what_is_evaluated_was_never_trained() -> None:
    assert not {*FRAMES} & {*EVALUATION_FRAMES}
    trained = {text.lower() for caption in CAPTIONS for text in phrasings(caption, ["one", "two", "three"])}
    for caption in CAPTIONS:
        evaluated = evaluation_phrasings(caption)
        assert len(set(evaluated)) == len(EVALUATION_FRAMES)
        assert all(noun_phrase(caption) in text for text in evaluated)
        assert not {text.lower() for text in evaluated} & trained
