"""A model that starts from one with other digits: the same function on whole tokens, the mean in between."""

from __future__ import annotations

import pytest
import torch
from model_world import make_canvas, make_model, random_state

from mmprime.engine import Canvas, Codec, Span
from mmprime.models import PrimeDiT, transplant

CODES = {"text": 30, "image": 24}
TABLES = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))


def canvas_of(digits: int) -> Canvas:
    text = Codec.clustered(TABLES, digits) if digits > 1 else Codec.base(30, 1)
    return Canvas([Span("text", 5, text), Span("image", (3, 4), Codec.base(24, digits))])


def start(canvas: Canvas, source: PrimeDiT, **options: object) -> PrimeDiT:
    model = make_model(canvas, randomise=False, **options)
    transplant(model, source)
    return model


def whole_states(*canvases: Canvas) -> list[torch.Tensor]:
    """The same tokens, some masked, in the digits of each canvas."""
    generator = torch.Generator().manual_seed(1)
    codes = {
        name: torch.randint(count, (4, canvases[0].span(name).num_tokens), generator=generator)
        for name, count in CODES.items()
    }
    masked = torch.rand(4, canvases[0].num_tokens, generator=generator) < 0.5
    return [torch.where(masked[:, canvas.token_of], -1, canvas.pack(codes)) for canvas in canvases]


@pytest.mark.parametrize("kinds", [("sum", "sum"), ("concat", "sum"), ("sum", "concat"), ("concat", "concat")])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4), (4, 2), (1, 1)])
def test_whole_tokens_masked_or_visible_give_the_same_function(kinds: tuple[str, str], before: int, after: int) -> None:
    old_canvas, new_canvas = canvas_of(before), canvas_of(after)
    source = make_model(old_canvas, digit_embedding=kinds[0])
    model = start(new_canvas, source, digit_embedding=kinds[1])
    old, new = whole_states(old_canvas, new_canvas)
    a, b = source(old, old_canvas), model(new, new_canvas)
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    for span in old_canvas.spans:
        rows = old_canvas.token_slice(span.name)
        theirs = source.logits(a[:, rows].flatten(0, 1), span)
        ours = model.logits(b[:, rows].flatten(0, 1), new_canvas.span(span.name))
        torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("token_embedding", [True, False])
def test_one_visible_digit_is_the_mean_of_the_tokens_it_allows(token_embedding: bool) -> None:
    source = make_model(canvas_of(1))
    canvas = canvas_of(2)
    embedder = start(canvas, source, token_embedding=token_embedding).embedders["text"]
    digits = canvas.span("text").codec.digits
    vectors = source.embedders["text"].content(torch.arange(30)[:, None])
    for level, value in ((0, 2), (1, 5)):
        state = torch.full((1, 2), -1)
        state[0, level] = value
        expected = vectors[digits[:, level] == value].mean(0, keepdim=True)
        torch.testing.assert_close(embedder.content(state), expected)


def test_concatenated_digits_take_their_own_channels_of_the_mean() -> None:
    source = make_model(canvas_of(1))
    canvas = canvas_of(2)
    embedder = start(canvas, source, digit_embedding="concat").embedders["text"]
    vectors = source.embedders["text"].content(torch.arange(30)[:, None])
    mean = vectors[canvas.span("text").codec.digits[:, 0] == 2].mean(0)
    half, found = len(mean) // 2, embedder.content(torch.tensor([[2, -1]]))[0]
    torch.testing.assert_close(found[:half], mean[:half])
    torch.testing.assert_close(found[half:], source.embedders["text"].content(torch.tensor([[-1]]))[0, half:])


def test_the_same_digits_are_copied_bitwise_in_between_states_too() -> None:
    canvas = make_canvas()
    source = make_model(canvas)
    model = start(canvas, source)
    y = random_state(canvas)
    assert torch.equal(model(y, canvas), source(y, canvas))


def test_heads_are_compared_by_what_they_come_to() -> None:
    canvas = Canvas([Span("text", 5, Codec.base(25, 2))])
    source = make_model(canvas, head="softmax")
    start(canvas, source, head="auto")
    with pytest.raises(ValueError, match=r"softmax head for text, this one factored: set model\.span_heads\.text=soft"):
        start(canvas, source, head="factored")


def test_models_that_do_not_fit_are_refused_quoting_both() -> None:
    source = make_model(make_canvas())
    other = Canvas([Span("text", 5, Codec.base(31, 2)), make_canvas().span("image")])
    with pytest.raises(ValueError, match=r"start from has codes {'text': 30, 'image': 24}, this one {'text': 31, 'im"):
        start(other, source)
    with pytest.raises(ValueError, match=r"start from has codes {'text': 30, 'image': 24}, this one {'text': 30}"):
        start(Canvas([make_canvas().span("text")]), source)
    for name, value in {"heads": 4, "width": 32, "mlp": "gelu", "num_classes": 3}.items():
        with pytest.raises(ValueError, match=rf"start from has {name}=\w+, this one {name}={value}"):
            start(make_canvas(), source, **{name: value})
