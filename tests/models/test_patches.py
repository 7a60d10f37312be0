"""A trunk over patches: what it computes, that its bounds are bounds, and that all else works on it as on any model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from model_world import IMAGE, TEXT, make_canvas, make_model, random_state

from mmprime.engine import MASK_ID, Canvas, Codec, Guidance, Span, exact_nelbo, joint_loss, sample, sampler_of
from mmprime.models import DiTConfig, PrimeDiT, load_model, save_model
from mmprime.models.rotary import rotary_table
from mmprime.models.transplant import transplant

CANVAS = make_canvas(length=5, grid=(4, 6))
FULL = Canvas([Span("text", 3, Codec.base(9, 2)), Span("image", (4, 6), IMAGE)])  # every combination is a code
PIXELS = Canvas([Span("image", (2, 2), Codec.base(4, 2))])
GIVEN = torch.arange(8) < 4
ROWS = PIXELS.pack({"image": torch.tensor([[0, 3, a, b] for a in range(4) for b in range(4)])})
CHANCES = (2 * torch.randn(16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).softmax(0)
ENTROPY = float(-(CHANCES * CHANCES.log()).sum())


def rms(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)


def test_without_patches_there_is_nothing_of_them() -> None:
    assert not [name for name in make_model(CANVAS).state_dict() if "patch" in name]


def test_the_trunk_sees_a_patch_as_one_position_and_gives_each_token_its_own_state() -> None:
    """Written out token by token; the text beside has positions of its own."""
    model, y = make_model(CANVAS, patch=2), random_state(CANVAS)
    text, image = (model.embedders[s.name](CANVAS.view(y, s.name), s) for s in CANVAS.spans)
    maps = model.patches.maps["image"]
    tokens = {(row, column): image[:, 6 * row + column] for row in range(4) for column in range(6)}
    corners = [(row, column) for row in (0, 2) for column in (0, 2, 4)]
    inside = [(0, 0), (0, 1), (1, 0), (1, 1)]
    joined = [maps.join(torch.cat([tokens[r + i, c + j] for i, j in inside], -1)) for r, c in corners]
    coarse = Canvas([Span("text", 5, TEXT), Span("image", (2, 3), IMAGE)])
    states = torch.cat([text, torch.stack(joined, 1)], 1)
    for block in model.blocks:
        states = block(states, rotary_table(coarse, model.config.width // model.config.heads), None)
    expected = torch.empty_like(image)
    for index, (r, c) in enumerate(corners):
        for (i, j), part in zip(inside, maps.split(rms(states[:, 5 + index])).chunk(4, -1)):
            z = part + tokens[r + i, c + j]
            more = maps.down(torch.nn.functional.silu(maps.gate(rms(z))) * maps.up(rms(z)))
            expected[:, 6 * (r + i) + c + j] = z + more
    found = model(y, CANVAS)
    torch.testing.assert_close(found[:, :5], states[:, :5])
    torch.testing.assert_close(found[:, 5:], expected)


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}])
def test_hidden_at_is_the_forward_pass_where_it_is_asked(options: dict[str, int]) -> None:
    model, y = make_model(CANVAS, patch=2, **options), random_state(CANVAS)
    cond = {"label": torch.tensor([0, 1, 2])} if options else None
    wanted = torch.rand(3, CANVAS.num_tokens, generator=torch.Generator().manual_seed(1)) < 0.1
    wanted[1] = False
    found = model.hidden_at(y, CANVAS, cond, wanted)
    torch.testing.assert_close(found[wanted], model(y, CANVAS, cond)[wanted])


@pytest.mark.parametrize(
    ("head", "masking", "steps"),
    [
        ("softmax", "token_synchronous", None),
        ("softmax", "independent", 2),
        ("factored", "independent", None),
        ("factored", "token_synchronous", 2),
        ("chain", "token_synchronous", None),
        ("chain", "nested", 2),
    ],
)
def test_a_bound_is_never_below_the_entropy(head: str, masking: str, steps: int | None) -> None:
    """The chances of all that two pixels can be, two others given, add up to one, so the mean bound over a known
    distribution of them is no less than its entropy; by enumeration of all plans."""
    model = make_model(PIXELS, patch=2, head=head).double()
    with torch.no_grad():
        exact = exact_nelbo(model, PIXELS, ROWS, steps, masking, GIVEN)
    assert float((-exact.nll).exp().sum()) == pytest.approx(1, abs=1e-6)
    assert bool((exact.bound >= exact.nll - 1e-9).all())
    assert float(CHANCES @ exact.bound) > ENTROPY


@pytest.mark.parametrize(("head", "masking"), [("softmax", "token_synchronous"), ("factored", "independent")])
def test_training_brings_the_bound_close_to_the_entropy(head: str, masking: str) -> None:
    torch.manual_seed(0)
    model = PrimeDiT(PIXELS, DiTConfig(width=16, depth=1, heads=2, patch=2, head=head))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        rows = ROWS[torch.multinomial(CHANCES, 64, replacement=True, generator=generator)]
        optimizer.zero_grad()
        joint_loss(model, PIXELS, rows, GIVEN, generator, masking).mean().backward()
        optimizer.step()
    with torch.no_grad():
        bound = float(CHANCES @ exact_nelbo(model, PIXELS, ROWS, None, masking, GIVEN).bound)
    assert ENTROPY < bound < ENTROPY + 0.5 * (math.log(16) - ENTROPY)


@pytest.mark.parametrize("head", ["softmax", "factored", "chain"])
@pytest.mark.parametrize("words", ["ancestral", "confidence", "p2"])
def test_samplers_fill_what_is_not_given(head: str, words: str) -> None:
    model, y = make_model(FULL, patch=2, head=head), random_state(FULL, batch=2)
    drawn = sample(model, FULL, sampler_of(words, {"steps": 3}), y, generator=1).y
    assert bool((drawn >= 0).all())
    assert bool((drawn[y >= 0] == y[y >= 0]).all())
    box = torch.full_like(y, MASK_ID).where(FULL.mask("image", box=(1, 1, 4, 3)), drawn)  # across patches
    again = sample(model, FULL, sampler_of(words, {"steps": 3}), box, generator=2).y
    assert bool((again[box >= 0] == drawn[box >= 0]).all())


def test_guidance_on_a_canvas_of_another_length_and_grid() -> None:
    larger = make_canvas(length=3, grid=(6, 2))
    model, y = make_model(CANVAS, patch=2), random_state(larger, batch=2, masked=0.0)
    y = torch.full_like(y, MASK_ID).where(larger.mask("image"), y)
    drawn = sample(model, larger, sampler_of("ancestral", {"steps": 3}), y, guidance=Guidance(1.0), generator=1)
    assert bool((drawn.y >= 0).all())
    assert bool((drawn.nfe > 3).all())  # two branches


def test_a_saved_model_computes_the_same(tmp_path: Path) -> None:
    model, y = make_model(CANVAS, patch=2), random_state(CANVAS)
    save_model(tmp_path / "m", model)
    again, canvas, config = load_model(tmp_path / "m")
    assert config["model"]["patch"] == 2
    assert torch.equal(model(y, CANVAS), again(y, canvas))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patch=4 does not fill the 4 x 6 grid of 'image'; choose a divisor of both"):
        make_model(CANVAS, patch=4)
    with pytest.raises(ValueError, match=r"patch=2 joins tokens of a grid, and none of the spans \(text\) has one"):
        make_model(Canvas([CANVAS.span("text")]), patch=2)
    with pytest.raises(ValueError, match="patch must be positive, got 0"):
        make_model(CANVAS, patch=0)
    odd = make_canvas(grid=(3, 4))
    with pytest.raises(ValueError, match="patch=2 does not fill the 3 x 4 grid"):
        make_model(CANVAS, patch=2)(random_state(odd), odd)
    flat = Canvas([CANVAS.span("text"), Span("image", 24, IMAGE)])
    with pytest.raises(ValueError, match="span 'image' of length 24: the model was built for a grid there"):
        make_model(CANVAS, patch=2)(random_state(flat), flat)
    with pytest.raises(ValueError, match=r"patch=2, this one patch=1: set model.patch=2"):
        transplant(make_model(CANVAS), make_model(CANVAS, patch=2))
