"""The back ends compute one function, forward and backward."""

import logging

import pytest
import torch
from torch import Tensor

from mmprime.models import attention as attention_function
from mmprime.models.attention import _announce, attention


def inputs(dtype: torch.dtype = torch.float64, device: str = "cpu", head_dim: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 7, 2, head_dim, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
        for _ in range(4)
    ]


def run(backend: str, tensors: list[Tensor]) -> list[Tensor]:
    q, k, v, weight = tensors
    out = attention(q, k, v, backend)
    return [out, *torch.autograd.grad((out * weight).sum(), (q, k, v))]


def test_sdpa_equals_reference_forward_and_backward() -> None:
    for ours, reference in zip(run("sdpa", inputs()), run("reference", inputs())):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_reference_is_softmax_over_all_tokens_also_of_fewer_queries() -> None:
    q, k, v, _ = inputs()
    out = attention(q[:, 2:4], k, v, "reference")
    for row in range(3):
        for i in (2, 3):
            score = (q[row, i][None] * k[row]).sum(-1) / 8**0.5
            expected = (score.softmax(0)[..., None] * v[row]).sum(0)
            torch.testing.assert_close(out[row, i - 2], expected)


@pytest.mark.gpu
def test_xformers_equals_reference_on_cuda() -> None:
    ours = run("xformers", inputs(torch.float32, "cuda", 32))
    reference = run("reference", inputs(torch.float32, "cuda", 32))
    for a, b in zip(ours, reference):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)  # TF32 products


def test_xformers_on_cpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"no operator for 'cpu'.*use 'sdpa'"):
        run("xformers", inputs())


def test_bad_arguments_are_named() -> None:
    q, k, v, _ = inputs()
    with pytest.raises(ValueError, match="'flash'"):
        attention(q, k, v, backend="flash")
    with pytest.raises(ValueError, match=r"share one shape.*\(3, 6, 2, 8\)"):
        attention(q, k[:, :-1], v)
    with pytest.raises(ValueError, match="q all of it but L"):
        attention(q[:2], k, v)


def test_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    _announce.cache_clear()
    q, k, v, _ = inputs()
    with caplog.at_level(logging.INFO, "mmprime.models.attention"):
        for _ in range(3):
            attention_function(q, k, v)
    assert [record.getMessage() for record in caplog.records] == ["attention: sdpa on cpu"]
