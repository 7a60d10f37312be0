"""Examples of different length: packed in one row, padded, or alone, the numbers are the same."""

import pytest
import torch
from model_world import make_canvas, make_model, random_state

from mmprime.models import PrimeDiT

SIZES = [(5, (3, 4)), (2, (1, 2)), (7, (2, 2))]


def examples() -> tuple[list, list]:
    canvases = [make_canvas(length, grid) for length, grid in SIZES]
    return [random_state(canvas, 1, seed=i)[0] for i, canvas in enumerate(canvases)], canvases


def gradient(model: PrimeDiT, hiddens: list[torch.Tensor]) -> torch.Tensor:
    model.zero_grad()
    sum((hidden.square() * (1 + torch.arange(64))).sum() for hidden in hiddens).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "reference"])
def test_packed_equals_padded_equals_alone(conditional: bool, attention: str) -> None:
    ys, canvases = examples()
    options = {"num_classes": 3, "mask_rate": True} if conditional else {}
    model = make_model(canvases[0], attention=attention, **options)
    cond = {"label": torch.tensor([0, 3, 1])} if conditional else None

    def each(i: int) -> dict[str, torch.Tensor] | None:
        return None if cond is None else {"label": cond["label"][i : i + 1]}

    alone = [model(y[None], canvas, each(i))[0] for i, (y, canvas) in enumerate(zip(ys, canvases))]
    expected = gradient(model, alone)
    for forward in (model.forward_packed, model.forward_padded):
        hiddens = forward(ys, canvases, cond)
        for ours, own in zip(hiddens, alone):
            assert ours.shape == own.shape
            torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient(model, hiddens), expected, atol=1e-3, rtol=1e-3)


def test_one_canvas_for_each_example() -> None:
    ys, canvases = examples()
    model = make_model(canvases[0])
    with pytest.raises(ValueError, match="got 3 and 2"):
        model.forward_packed(ys, canvases[:2])
