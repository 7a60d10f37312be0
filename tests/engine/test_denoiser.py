"""What a denoiser must offer: two methods; the others have defaults, and none is passed over in silence."""

import oracle
import pytest
import torch
from torch import Tensor

from mmprime.engine import (
    BaseDenoiser,
    Canvas,
    Codec,
    CodeScores,
    Guidance,
    Guided,
    Span,
    Tilted,
    completed,
    sample,
    sampler_of,
)

CANVAS = Canvas([Span("text", 2, Codec.base(4, 2)), Span("image", 1, Codec.base(4, 2))])


class TwoMethods:
    """Uniform over the codes."""

    def __call__(self, y: Tensor, canvas: Canvas, cond: object = None) -> Tensor:
        return torch.zeros(len(y), canvas.num_tokens, 1)

    def logits(self, hidden: Tensor, span: Span) -> Tensor:
        return torch.zeros(len(hidden), span.codec.num_codes)


class CountsDouble(BaseDenoiser):
    __call__ = TwoMethods.__call__
    logits = TwoMethods.logits

    def passes(self, y: Tensor, cond: object) -> Tensor:
        return torch.full((len(y),), 2)


def given_text(batch: int = 3) -> Tensor:
    y = torch.full((batch, CANVAS.num_subtokens), -1)
    y[:, CANVAS.subtoken_slice("text")] = 0
    return y


def test_two_methods_are_enough_also_under_guidance_and_a_tilt() -> None:
    tilted = Tilted(TwoMethods(), CodeScores({"image": torch.tensor([0.0, 0.0, 50.0, 0.0])}))
    for denoiser, passes in ((TwoMethods(), 1), (tilted, 1)):
        plain = sample(denoiser, CANVAS, sampler_of("first_hitting", steps=1), given_text(), generator=0)
        assert plain.nfe.tolist() == [passes] * 3
    assert (CANVAS.unpack(plain.y)["image"] == 2).all()
    guided = sample(
        TwoMethods(), CANVAS, sampler_of("first_hitting", steps=1), given_text(), generator=0,
        guidance=Guidance(2.0, "constant"),
    )  # fmt: skip
    assert guided.nfe.tolist() == [2, 2, 2]


def test_passes_of_a_base_denoiser_are_counted_through_wrappers() -> None:
    cond = {"label": torch.zeros(3)}
    assert completed(CountsDouble()).passes(given_text(), None).tolist() == [2, 2, 2]
    assert Tilted(CountsDouble(), CodeScores({})).passes(given_text(), None).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="CountsDouble has no null_condition, so it cannot be guided by label"):
        CountsDouble().null_condition(cond)


@pytest.mark.parametrize("name", ["hidden_at", "passes", "null_condition"])
def test_a_method_that_would_be_passed_over_is_refused(name: str) -> None:
    kind = type("Half", (TwoMethods,), {name: lambda *_: None})
    with pytest.raises(ValueError, match=f"Half has {name} but is no BaseDenoiser; inherit"):
        Guided(kind(), Guidance(1.0))


def test_a_base_denoiser_is_taken_as_it_is() -> None:
    denoiser = CountsDouble()
    assert completed(denoiser) is denoiser
    model = oracle.random_table(CANVAS)
    hidden = completed(model).hidden_at(given_text(), CANVAS, None, torch.ones(3, 3, dtype=torch.bool))
    assert torch.equal(hidden, model(given_text(), CANVAS))
