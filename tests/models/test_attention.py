"""The back ends compute one function, forward and backward; segments do not leak."""

import logging

import pytest
import torch
from torch import Tensor

from mmprime.models import attention as attention_function
from mmprime.models.attention import Segments, _announce, attention

SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, -1, -1], [4, 4, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, -1]])


def inputs(dtype: torch.dtype = torch.float64, device: str = "cpu", head_dim: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 7, 2, head_dim, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
        for _ in range(4)
    ]


def run(backend: str, segments: Tensor | None, tensors: list[Tensor]) -> list[Tensor]:
    q, k, v, weight = tensors
    out = attention(q, k, v, segments, backend)
    return [out, *torch.autograd.grad((out * weight).sum(), (q, k, v))]


@pytest.mark.parametrize("segments", [None, SEGMENTS])
def test_sdpa_equals_reference_forward_and_backward(segments: Tensor | None) -> None:
    for ours, reference in zip(run("sdpa", segments, inputs()), run("reference", segments, inputs())):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_reference_is_softmax_over_the_own_segment() -> None:
    q, k, v, _ = inputs()
    out = attention(q, k, v, SEGMENTS, "reference")
    for row, ids in enumerate(SEGMENTS.tolist()):
        for i, own in enumerate(ids):
            mates = [j for j, other in enumerate(ids) if other == own and own >= 0]
            if not mates:
                assert not out[row, i].any()
                continue
            score = (q[row, i][None] * k[row, mates]).sum(-1) / 8**0.5
            expected = (score.softmax(0)[..., None] * v[row, mates]).sum(0)
            torch.testing.assert_close(out[row, i], expected)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_padding_neither_gives_nor_takes(backend: str) -> None:
    tensors = inputs()
    out, *grads = run(backend, SEGMENTS, tensors)
    padding = SEGMENTS < 0
    assert not out[padding].any()
    for grad in grads:
        assert torch.isfinite(grad).all()
        assert not grad[padding].any()


def test_blocks_list_each_segment_once() -> None:
    order, lengths = Segments(SEGMENTS).blocks
    assert lengths == [3, 2, 5, 2, 6]
    ids = SEGMENTS.flatten()[order].split(lengths)
    assert all(len(set(part.tolist())) == 1 for part in ids)
    assert sorted(order.tolist()) == (SEGMENTS.flatten() >= 0).nonzero()[:, 0].tolist()


def test_xformers_bias_is_the_same_mask() -> None:
    fmha = pytest.importorskip("xformers.ops.fmha")
    segments = Segments(SEGMENTS)
    order, lengths = segments.blocks
    bias = fmha.BlockDiagonalMask.from_seqlens(lengths, device=torch.device("cpu"))
    allowed = bias.materialize((1, 1, len(order), len(order)), device=torch.device("cpu"))[0, 0] == 0
    length = SEGMENTS.shape[1]
    row, place = order // length, order % length
    ours = segments.mask[row, 0, place][:, place] & (row[:, None] == row[None])
    for i in range(len(order)):
        assert allowed[i].tolist() == ours[i].tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("segments", [None, SEGMENTS])
def test_xformers_equals_reference_on_cuda(segments: Tensor | None) -> None:
    segments = None if segments is None else segments.cuda()
    ours = run("xformers", segments, inputs(torch.float32, "cuda", 32))
    reference = run("reference", segments, inputs(torch.float32, "cuda", 32))
    for a, b in zip(ours, reference):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)  # TF32 products


def test_xformers_on_cpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"no operator for 'cpu'.*use 'sdpa'"):
        run("xformers", None, inputs())


def test_bad_arguments_are_named() -> None:
    q, k, v, _ = inputs()
    with pytest.raises(ValueError, match="'flash'"):
        attention(q, k, v, backend="flash")
    with pytest.raises(ValueError, match=r"\(3, 6\)"):
        attention(q, k, v, SEGMENTS[:, :-1])
    with pytest.raises(ValueError, match="share one shape"):
        attention(q, k[:, :-1], v)


def test_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    _announce.cache_clear()
    q, k, v, _ = inputs()
    with caplog.at_level(logging.INFO, "mmprime.models.attention"):
        for _ in range(3):
            attention_function(q, k, v)
    assert [record.getMessage() for record in caplog.records] == ["attention: sdpa on cpu"]
