"""Random streams have 64 bits: no two of a million examples share one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmprime.engine import Codec, generator_of, mix, rng, seeded
from mmprime.training.rng import derive_seed, generator_for, seed_globals

MANY = 1_000_000


def first_words(purpose: int) -> torch.Tensor:
    """(MANY, 2) the first two words of the state of each example's stream of seed 0, all at once."""
    root = rng._signed((mix(0, purpose) + rng._GAMMA) & rng._MASK64)
    seeds = rng._finalise(torch.arange(MANY) + root)
    steps = torch.tensor([rng._signed((count * rng._GAMMA) & rng._MASK64) for count in (1, 2)])
    return rng._finalise(seeds[:, None] + steps) & 0xFFFFFFFF


def state_of(generator: torch.Generator) -> torch.Tensor:
    return generator.get_state().view(torch.int64)[3 : 3 + 624]


def test_the_state_of_a_generator_lies_where_it_is_filled() -> None:
    state = torch.Generator().manual_seed(12345).get_state().view(torch.int64)
    assert len(state) == 632
    assert (int(state[0]), int(state[3]), int(state[4])) == (12345, 12345, 2003863422)  # Knuth's recurrence of the seed
    assert int(state[626]) != 0
    assert int(state[627]) == 0


@pytest.mark.parametrize("purpose", [1, 2])
def test_no_two_of_a_million_examples_share_their_first_words(purpose: int) -> None:
    words = first_words(purpose)
    for example in (0, 1, 64792, 109816, MANY - 1):
        (stream,) = seeded(mix(0, purpose, example))
        assert torch.equal(state_of(stream)[:2], words[example])
    assert len((words[:, 0] << 32 | words[:, 1]).unique()) == MANY


@pytest.mark.parametrize("purpose", [1, 2, 4])
def test_examples_whose_hashes_agree_in_32_bits_have_different_streams(purpose: int) -> None:
    streams = seeded(mix(0, purpose, 64792), mix(0, purpose, 109816))
    assert not torch.equal(*(torch.rand(8, generator=stream) for stream in streams))


def test_the_stream_of_an_example_is_that_of_its_mixed_seed() -> None:
    """In blocks as one by one."""
    together = rng.generators((1 << 64) - 3, 300, 5)
    for example in (0, 1, 127, 128, 299):
        (alone,) = seeded(mix((1 << 64) - 3, 5, example))
        assert torch.equal(together[example].get_state(), alone.get_state())


def test_every_bit_of_a_seed_counts() -> None:
    draws = [torch.rand(4, generator=g, dtype=torch.float64) for g in seeded(7, *(7 ^ (1 << bit) for bit in range(64)))]
    assert len(torch.stack(draws).unique(dim=0)) == 65
    assert max(mix(0, b) for b in range(100)) >= 1 << 63  # the hash itself has 64 bits
    assert max(derive_seed(0, b) for b in range(100)) >= 1 << 63
    assert not torch.equal(Codec.shuffled(50, 2, 1).digits, Codec.shuffled(50, 2, 1 + (1 << 32)).digits)


def test_a_stream_is_uniform_and_known_by_its_seed_only() -> None:
    u = torch.stack([torch.rand(200, generator=g, dtype=torch.float64) for g in seeded(*range(500))])
    assert float(u.mean()) == pytest.approx(0.5, abs=4 * (1 / 12 / u.numel()) ** 0.5)
    assert float((u[:, 1:] * u[:, :-1]).mean()) == pytest.approx(0.25, abs=0.004)
    assert float((u[1:] * u[:-1]).mean()) == pytest.approx(0.25, abs=0.004)
    assert torch.equal(torch.rand(5, generator=generator_of(9)), torch.rand(5, generator=seeded(3, 9)[1]))


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_that_has_no_stream_of_its_own_is_refused(seed: int) -> None:
    for use in (generator_of, mix, lambda s: rng.generators(s, 2), lambda s: Codec.shuffled(5, 1, s)):
        with pytest.raises(ValueError, match=rf"seed {seed} is outside \[0, 2\^64\)"):
            use(seed)


def test_generators_of_training_keep_all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts whose seeds agree in their low 32 bits."""
    seeds = {"a": 5, "b": 5 + (1 << 32)}
    monkeypatch.setattr("mmprime.training.rng.derive_seed", lambda part: seeds[part])
    assert not torch.equal(*(torch.rand(4, generator=generator_for("cpu", part)) for part in "ab"))

    def globals_of(part: str) -> tuple[list[float], list[float]]:
        seed_globals(part)
        return torch.rand(4).tolist(), np.random.rand(4).tolist()  # noqa: NPY002

    with torch.random.fork_rng(devices=[]):
        first, second, again = globals_of("a"), globals_of("b"), globals_of("a")
    assert first == again
    assert first[0] != second[0]
    assert first[1] != second[1]
