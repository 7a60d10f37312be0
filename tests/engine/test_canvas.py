"""The flat row and its views."""

from __future__ import annotations

import pytest
import torch

from mmprime.engine import Canvas, Codec, Span

TEXT, IMAGE = Span("text", 3, Codec.base(9, 2)), Span("image", (2, 4), Codec.mixed_radix((2, 3, 2), 11))
CANVAS = Canvas([TEXT, IMAGE])


def codes(batch: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "text": torch.randint(9, (batch, 3), generator=generator),
        "image": torch.randint(11, (batch, 2, 4), generator=generator),
    }


def test_layout() -> None:
    assert (CANVAS.num_tokens, CANVAS.num_subtokens) == (11, 30)
    assert (CANVAS.token_slice("image"), CANVAS.subtoken_slice("image")) == (slice(3, 11), slice(6, 30))
    assert CANVAS.token_of.tolist() == [0, 0, 1, 1, 2, 2] + [3 + i // 3 for i in range(24)]
    assert CANVAS.digit_of.tolist() == [0, 1] * 3 + [0, 1, 2] * 8
    assert CANVAS.span_of.tolist() == [0] * 6 + [1] * 24
    assert (TEXT.grid, IMAGE.grid, IMAGE.num_tokens, IMAGE.num_subtokens) == (None, (2, 4), 8, 24)
    assert CANVAS.has("text")
    assert not CANVAS.has("audio")


def test_pack_and_unpack_are_inverse_and_views_hold_digits() -> None:
    x = codes()
    y = CANVAS.pack(x)
    assert y.shape == (5, 30)
    back = CANVAS.unpack(y)
    assert torch.equal(back["text"], x["text"])
    assert torch.equal(back["image"], x["image"].flatten(1))
    assert torch.equal(CANVAS.view(y, "image"), IMAGE.codec.encode(x["image"].flatten(1)))
    CANVAS.view(y, "text")[0, 1, 0] = 7  # a view shares storage
    assert y[0, 2] == 7


def test_a_span_left_out_is_hidden() -> None:
    y = CANVAS.pack({"text": codes()["text"]})
    assert (CANVAS.view(y, "image") == -1).all()
    with pytest.raises(ValueError, match="-1"):
        CANVAS.unpack(y)


def test_masks() -> None:
    assert CANVAS.mask().all()
    assert CANVAS.mask("text").nonzero()[:, 0].tolist() == list(range(6))
    box = CANVAS.mask("image", box=(1, 0, 3, 1))  # columns 1 and 2 of the first row
    assert CANVAS.token_of[box].unique().tolist() == [4, 5]
    assert int(box.sum()) == 6
    lower = CANVAS.mask("image", box=(3, 1, 4, 2))
    assert CANVAS.token_of[lower].unique().tolist() == [10]
    assert CANVAS.mask(digits=[2]).nonzero()[:, 0].tolist() == list(range(8, 30, 3))
    assert int((CANVAS.mask("image", box=(0, 0, 4, 2), digits=[0, 1])).sum()) == 16


def test_refusals_quote_what_was_wrong() -> None:
    with pytest.raises(ValueError, match=r"'audio'.*'text', 'image'"):
        CANVAS.span("audio")
    with pytest.raises(ValueError, match="'audio'"):
        CANVAS.pack({"audio": codes()["text"]})
    with pytest.raises(ValueError, match=r"'text' holds 5 x 3 codes of 2 digits, got shape \(5, 4\)"):
        CANVAS.pack({"text": torch.zeros(5, 4, dtype=torch.int64)})
    with pytest.raises(ValueError, match="nothing to pack"):
        CANVAS.pack({})
    with pytest.raises(ValueError, match=r"'a', 'a'"):
        Canvas([Span("a", 1, TEXT.codec), Span("a", 2, TEXT.codec)])
    with pytest.raises(ValueError, match=r"\[\]"):
        Canvas([])
    with pytest.raises(ValueError, match="length 0"):
        Span("text", 0, TEXT.codec)
    with pytest.raises(ValueError, match=r"\(2, -1\)"):
        Span("image", (2, -1), TEXT.codec)
    with pytest.raises(ValueError, match=r"\(0, 0, 5, 2\).*4 x 2 grid"):
        CANVAS.mask("image", box=(0, 0, 5, 2))
    with pytest.raises(ValueError, match="grid, got 'text'"):
        CANVAS.mask("text", box=(0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"expected 30 .* \(2, 29\)"):
        CANVAS.view(torch.zeros(2, 29), "text")
    y = CANVAS.pack(codes())
    y[3, 9 + 1] = 3
    with pytest.raises(ValueError, match=r"digit 3 at sub-token 10 of example 3 .*\(2, 3, 2\)"):
        CANVAS.check_digits(y)
