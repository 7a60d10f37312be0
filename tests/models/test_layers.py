"""Norms against autograd, rotary positions against the definition."""

import math

import torch

from mmprime.engine import Canvas, Codec, Span
from mmprime.models.layers import EPS, rms_norm
from mmprime.models.rotary import RotaryTables, angles, rotary_table, rotate

CODEC = Codec.base(4, 1)


def test_rms_norm_equals_the_formula_and_its_gradient() -> None:
    x = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    plain = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    torch.testing.assert_close(rms_norm(x), plain)
    assert torch.autograd.gradcheck(rms_norm, (x,))


def test_rms_norm_of_zeros_is_finite() -> None:
    x = torch.zeros(2, 6, requires_grad=True)
    out = rms_norm(x)
    out.sum().backward()
    assert not out.any()
    assert torch.isfinite(x.grad).all()


def test_rotation_sees_only_the_distance_on_a_sequence() -> None:
    table = rotary_table(Canvas([Span("text", 9, CODEC)]), 8)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    turned_q, turned_k = (rotate(t.expand(1, 9, 1, 8), table)[0, :, 0] for t in (q, k))
    score = turned_q @ turned_k.T
    for distance in range(-8, 9):
        diagonal = score.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(score[0, 0], (q * k).sum(), rtol=1e-4, atol=1e-5)
    assert score[0].std() > 1e-2


def test_rotation_sees_only_the_offset_on_a_grid() -> None:
    span = Span("image", (4, 5), CODEC)
    table = rotary_table(Canvas([span]), 16)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    turned_q, turned_k = (rotate(t.expand(1, 20, 1, 16), table)[0, :, 0] for t in (q, k))
    score = (turned_q @ turned_k.T).view(4, 5, 4, 5)
    torch.testing.assert_close(score[0, 0, 2, 1], score[1, 3, 3, 4], rtol=1e-4, atol=1e-5)
    assert abs(float(score[0, 0, 2, 1] - score[0, 0, 1, 2])) > 1e-3  # rows and columns differ


def test_head_dimension_is_split_between_row_and_column() -> None:
    turn = angles(Span("image", (3, 4), CODEC), 6).view(3, 4, 6)
    assert (turn[:, :1, :3] == turn[:, :, :3]).all()
    assert (turn[:1, :, 3:] == turn[:, :, 3:]).all()
    assert math.isclose(float(turn[2, 3, 0]), 2.0)
    assert math.isclose(float(turn[2, 3, 3]), 3.0)


def test_tables_are_made_once_and_stay_in_float32() -> None:
    tables = RotaryTables(8)
    canvas = Canvas([Span("text", 9, CODEC)])
    first = tables(canvas, torch.device("cpu"))
    assert tables(Canvas([Span("words", 9, CODEC)]), torch.device("cpu")) is first
    assert first.dtype == torch.complex64
    assert rotate(torch.randn(1, 9, 2, 8, dtype=torch.bfloat16), first).dtype == torch.bfloat16
