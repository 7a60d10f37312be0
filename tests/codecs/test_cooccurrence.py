"""Code vectors from neighbour statistics."""

from __future__ import annotations

import pytest
import torch

from mmprime.codecs import ppmi_vectors
from mmprime.engine import Codec


def interchangeable(rows: int = 300, length: int = 30, groups: int = 4, twins: int = 4) -> torch.Tensor:
    """Group g is followed by group g + 1; which of its four codes stands there is a matter of chance."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(groups, (rows, 1), generator=generator)
    group = (start + torch.arange(length)) % groups
    return group * twins + torch.randint(twins, (rows, length), generator=generator)


def similarity(vectors: torch.Tensor) -> tuple[float, float]:
    """The lowest cosine inside a group of four and the highest between groups."""
    cosine, group = vectors @ vectors.T, torch.arange(len(vectors)) // 4
    same = group[:, None] == group
    return float(cosine[same].min()), float(cosine[~same].max())


def test_codes_that_can_stand_for_each_other_lie_together() -> None:
    vectors = ppmi_vectors(interchangeable(), 16, dim=4)
    inside, between = similarity(vectors)
    assert inside > 0.9
    assert between < 0.5
    digit = Codec.clustered(vectors, radices=(4, 4)).digits[:, 0].view(4, 4)
    assert (digit == digit[:, :1]).all()
    assert sorted(digit[:, 0].tolist()) == [0, 1, 2, 3]


def test_pictures_use_both_axes() -> None:
    """Rows alternate between two groups downwards, not sideways: only the vertical neighbours tell them apart."""
    generator = torch.Generator().manual_seed(1)
    group = (torch.randint(2, (200, 1, 8), generator=generator) + torch.arange(8)[:, None]) % 4 // 2
    pictures = group * 4 + torch.randint(4, (200, 8, 8), generator=generator)
    inside, between = similarity(ppmi_vectors(pictures, 8, dim=2, offsets=(1,)))
    assert inside > 0.9
    assert between < 0.5


def test_shape_length_and_codes_that_never_occur() -> None:
    sequences = interchangeable()
    vectors = ppmi_vectors(sequences, 20, dim=64)
    assert vectors.shape == (20, 20)
    assert torch.allclose(vectors[:16].norm(dim=-1), torch.ones(16), atol=1e-5)
    assert torch.equal(vectors[16:], torch.zeros(4, 20))


def test_deterministic_and_quiet() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = (ppmi_vectors(interchangeable(50), 16, dim=4, seed=3) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\[0, 9\]"):
        ppmi_vectors(torch.tensor([[0, 10]]), 10)
    with pytest.raises(ValueError, match=r"\(1, 1\).*offsets \(1, 2\)"):
        ppmi_vectors(torch.tensor([[3]]), 10)
    with pytest.raises(ValueError, match=r"\(0, 5\)"):
        ppmi_vectors(torch.zeros(0, 5, dtype=torch.int64), 10)
