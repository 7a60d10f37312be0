"""Codecs are bijections onto their digit grid, and codes that do not exist cannot come out of anything."""

from __future__ import annotations

import math

import pytest
import torch

from mmprime.engine import Canvas, Codec, Plan, Span, sample
from mmprime.engine.codec import integer_root

VECTORS = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
CODECS = {
    "plain": Codec.base(11, 1),
    "base": Codec.base(100, 3),
    "mixed": Codec.mixed_radix((8, 5, 5, 5)),
    "holes": Codec.mixed_radix((3, 4, 2), 17),
    "shuffled": Codec.shuffled(60, 3, seed=4),
    "clustered": Codec.clustered(VECTORS),
    "clustered3": Codec.clustered(VECTORS, num_digits=3),
    "table": Codec.from_table(torch.tensor([[2, 0], [0, 1], [1, 1]])),
}


@pytest.mark.parametrize("name", CODECS)
def test_bijection(name: str) -> None:
    codec = CODECS[name]
    x = torch.arange(codec.num_codes)
    y = codec.encode(x)
    assert y.shape == (codec.num_codes, codec.num_digits)
    assert y.dtype == torch.int64
    assert (y >= 0).all()
    assert (y < torch.tensor(codec.radices)).all()
    assert len(y.unique(dim=0)) == codec.num_codes
    assert torch.equal(codec.decode(y), x)
    shaped = x[[0, 1, 2, 2, 1, 0]].view(2, 3)
    assert torch.equal(codec.decode(codec.encode(shaped)), shaped)


@pytest.mark.parametrize("name", CODECS)
def test_grid_holds_each_code_once_and_minus_infinity_elsewhere(name: str) -> None:
    codec = CODECS[name]
    logits = torch.randn(2, codec.num_codes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.requires_grad_()
    grid = codec.to_grid(logits)
    assert grid.shape == (2, *codec.radices)
    for x in range(codec.num_codes):
        assert torch.equal(grid[(slice(None), *codec.digits[x].tolist())], logits[:, x])
    assert int(grid.isinf().sum()) == 2 * (math.prod(codec.radices) - codec.num_codes)
    weight = torch.randn(grid.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid.masked_fill(grid.isinf(), 0.0).mul(weight).sum().backward()
    for x in range(codec.num_codes):  # the hand-written gradient is the gather back
        assert torch.equal(logits.grad[:, x], weight[(slice(None), *codec.digits[x].tolist())])


def test_integer_root_is_exact() -> None:
    assert Codec.base(16807, 5).radices == (7,) * 5  # 16807 ** (1 / 5) is 7.000000000000001 in floats
    assert Codec.base(16808, 5).radices == (8,) * 5
    for base in range(1, 40):
        for power in range(1, 8):
            assert integer_root(base**power, power) == base
            assert integer_root(base**power + 1, power) == base + 1
    assert Codec.base(1, 3).radices == (1, 1, 1)


def test_base_digits_are_the_most_significant_first() -> None:
    assert Codec.base(1000, 3).encode(torch.tensor(472)).tolist() == [4, 7, 2]
    assert Codec.mixed_radix((8, 5, 5)).encode(torch.tensor(7 * 25 + 3 * 5 + 1)).tolist() == [7, 3, 1]


def test_shuffled_is_a_permutation_of_base_fixed_by_its_seed() -> None:
    plain, a, b, c = Codec.base(60, 3), *(Codec.shuffled(60, 3, seed) for seed in (4, 4, 5))
    assert a == b
    assert a.fingerprint() == b.fingerprint()
    assert a != c
    assert a.fingerprint() != c.fingerprint()
    assert a != plain
    assert torch.equal(a.digits.unique(dim=0), plain.digits.unique(dim=0))


def test_fingerprint_sees_the_radices() -> None:
    table = torch.tensor([[0, 1], [1, 0]])
    assert Codec.from_table(table).fingerprint() != Codec.from_table(table, (2, 3)).fingerprint()


# ------------------------------------------------------------------------------------------------- clustered


def test_clusters_are_balanced() -> None:
    codec = CODECS["clustered"]
    assert codec.radices == (7, 8)  # ceil(50 / 8) clusters of at most 8
    assert codec.digits[:, 0].bincount(minlength=7).max() <= 8
    deep = Codec.clustered(VECTORS, num_digits=3, radices=(4, 4, 4))
    assert deep.digits[:, 0].bincount(minlength=4).max() <= 16
    assert (deep.digits[:, 0] * 4 + deep.digits[:, 1]).bincount(minlength=16).max() <= 4


def test_clustering_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    assert Codec.clustered(VECTORS, seed=3) == Codec.clustered(VECTORS, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_digit_finds_well_separated_clusters() -> None:
    """Eight groups of eight far apart, shuffled: balanced k-means must be far better than chance."""
    centre = 20 * torch.eye(8).repeat_interleave(8, 0)
    noise = 0.1 * torch.randn(64, 8, generator=torch.Generator().manual_seed(5))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(6))
    group = torch.arange(8).repeat_interleave(8)[order]
    digit = Codec.clustered((centre + noise)[order]).digits[:, 0]
    same_group, same_digit = group[:, None] == group, digit[:, None] == digit
    together = float((same_group & same_digit).sum()) / float(same_group.sum())
    assert together > 0.6  # a random balanced split has 1/8


def test_clustering_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) cannot hold 50 codes"):
        Codec.clustered(VECTORS, radices=(4, 4))
    with pytest.raises(ValueError, match="finite"):
        Codec.clustered(VECTORS / 0)
    equal = Codec.clustered(torch.zeros(20, 3))  # no structure at all is still a codec
    assert len(equal.digits.unique(dim=0)) == 20


# --------------------------------------------------------------------------------------------------- errors


def test_illegal_codes_and_tables_are_refused() -> None:
    codec = CODECS["holes"]
    with pytest.raises(ValueError, match=r"\[0, 17\].*\[0, 16\]"):
        codec.encode(torch.tensor([0, 17]))
    with pytest.raises(ValueError, match="-1"):
        codec.encode(torch.tensor([-1]))
    with pytest.raises(ValueError, match=r"\[2, 3, 1\]"):
        codec.decode(torch.tensor([[0, 0, 0], [2, 3, 1]]))  # the last cell has no code
    with pytest.raises(ValueError, match=r"\[1, -1, 0\]"):
        codec.decode(torch.tensor([1, -1, 0]))
    with pytest.raises(ValueError, match=r"\[0, 4, 0\]"):
        codec.decode(torch.tensor([0, 4, 0]))
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        codec.decode(torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="logits have 16 codes"):
        codec.to_grid(torch.zeros(1, 16))
    with pytest.raises(ValueError, match="codes 0 and 2 share the digits"):
        Codec.from_table(torch.tensor([[0, 1], [1, 1], [0, 1]]))
    with pytest.raises(ValueError, match=r"code 1 has digits \[2, 0\]"):
        Codec.from_table(torch.tensor([[0, 1], [2, 0]]), (2, 2))
    with pytest.raises(ValueError, match="hold 6 codes, asked for 7"):
        Codec.mixed_radix((3, 2), 7)
    with pytest.raises(ValueError, match="0 and 2"):
        Codec.base(0, 2)
    with pytest.raises(ValueError, match="cells"):
        Codec.from_table(torch.zeros(1, 4, dtype=torch.int64), (1000,) * 4)


# --------------------------------------------------------------------------------- illegal codes unreachable


class Uniform:
    """All codes alike. With the table below a sampler that drew digits apart would land in a hole every third time."""

    def __call__(self, y: torch.Tensor, canvas: Canvas, cond: object = None) -> torch.Tensor:
        return torch.zeros(len(y), canvas.num_tokens, 1)

    def logits(self, hidden: torch.Tensor, span: Span) -> torch.Tensor:
        return torch.zeros(len(hidden), span.codec.num_codes)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (5.0, 1.0), (0.5, 0.7), (0.0, 1.0)])
def test_codes_that_do_not_exist_are_never_drawn(steps: int, temperature: float, top_p: float) -> None:
    codec = Codec.from_table(torch.tensor([[0, 2], [1, 2], [2, 0], [2, 1]]), (3, 3))
    canvas = Canvas([Span("text", 3, codec)])
    plan = Plan.first_hitting(canvas, 1500, 7, steps=steps)
    record = sample(Uniform(), canvas, plan, temperature=temperature, top_p=top_p, generator=8)
    codes = canvas.unpack(record.y)["text"]  # decode raises on a hole
    if temperature and top_p == 1:
        assert codes.unique().tolist() == [0, 1, 2, 3]
