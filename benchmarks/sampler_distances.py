"""How far the distribution of every sampler is from that of the data, on a world small enough to list.

    python benchmarks/sampler_distances.py [--draws 20000 --seed 0]

The world is `mixed_world` of tests/oracle.py: three tokens of two digits in two spans, 45 configurations, and the
perfect denoiser, so that all distance is the sampler's own: what it draws at one step as if independent, and what it
prefers by values. Distance is total variation, half the sum of |p - q|.
Planned samplers: the distribution given `draws` plans, listed exactly, no sample is drawn. Adaptive ones: `draws`
samples; "floor" is the distance of as many exact draws, what a perfect sampler would show. Settings that are exact in
theory are checked: a planned one to 1e-9, an adaptive one to its floor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmprime.cli import console
from mmprime.engine import SAMPLERS, generator_of, mix, sample, sampler_of
from mmprime.engine.plan import plan_streams
from mmprime.engine.samplers import Planned, Start, options_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import oracle

STEPS = (2, 4, 8)
BY_STEPS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("ancestral", "first_hitting", "nested", "token_synchronous", "coarse_first", "raster")),
    ("halton", {}), ("confidence", {}), ("margin", {}), ("entropy", {}), ("moment", {}), ("moment", {"power": 1.0}),
    ("entropy_budget", {}), ("mixture", {}), ("mixture", {"rule": "margin"}), ("remdm", {}), ("remdm", {"eta": 0.5}),
    ("p2", {}), ("corrector", {"strength": 0.0}), ("corrector", {}), ("corrector", {"strength": 4.0}),
]  # fmt: skip
ADAPTIVE: dict[str, list[dict[str, Any]]] = {
    "entropy_bounded": [{"gamma": gamma} for gamma in (1.5, 0.6, 0.0)],
    "blocks": [{"size": 2, "gamma": gamma} for gamma in (1.5, 0.0)],
    "threshold": [{"threshold": value} for value in (0.3, 0.6, 0.9)],
    "factor": [{"factor": value} for value in (3.0, 1.5, 0.5)],
    "klass": [
        {"confidence": 0.2, "divergence": 1.0, "history": 1, "fallback": 3},
        {"confidence": 0.3, "divergence": 1.0, "history": 1, "fallback": 2},
        {},
    ],
}
EXACT: list[tuple[str, Mapping[str, Any]]] = [  # one unit at a time, chosen without looking at values
    *((name, {}) for name in ("first_hitting", "nested", "token_synchronous", "coarse_first", "raster", "halton")),
    *((name, {}) for name in ("margin", "entropy")), ("moment", {"power": 1.0}), ("mixture", {"rule": "margin"}),
    ("entropy_bounded", {"gamma": 0.0}), ("blocks", {"size": 2, "gamma": 0.0}),
]  # fmt: skip
WORLD = oracle.mixed_world()
PERFECT = oracle.perfect(WORLD)
_PART = 20_000


class Found(NamedTuple):
    """tv: the distance; nfe: mean forward passes; listed: by enumeration, not by draws."""

    tv: float
    nfe: float
    listed: bool


def distance(probs: Tensor) -> float:
    return 0.5 * float((probs - WORLD.p).abs().sum())


def floor(draws: int, seed: int, repeats: int = 20) -> tuple[float, float]:
    """Mean and deviation of the distance of `draws` exact draws."""
    generator = generator_of(mix(seed, 1))
    counts = [
        oracle.counts_of(torch.multinomial(WORLD.p, draws, True, generator=generator), len(WORLD.p))
        for _ in range(repeats)
    ]
    found = torch.tensor([distance(count / draws) for count in counts])
    return float(found.mean()), float(found.std())


def measure(name: str, options: Mapping[str, Any], steps: int, draws: int, seed: int) -> Found:
    """The distance of one setting."""
    sampler = sampler_of(name, options, steps)
    probs, nfe = torch.zeros_like(WORLD.p), 0.0
    for part, start in enumerate(range(0, draws, _PART)):
        batch, part_seed = min(_PART, draws - start), mix(seed, part)
        if isinstance(sampler, Planned):
            none = torch.zeros(batch, WORLD.canvas.num_subtokens, dtype=torch.bool)
            plan = sampler.plan(Start(WORLD.canvas, none, none, plan_streams(part_seed, batch)))
            probs += batch * oracle.mixture(PERFECT, WORLD, plan.rank)
            nfe += float(plan.steps_used.sum())
            continue
        record = sample(PERFECT, WORLD.canvas, sampler, batch=batch, generator=part_seed)
        probs += oracle.counts_of(WORLD.index(record.y), len(WORLD.p))
        nfe += float(record.nfe.sum())
    return Found(distance(probs / draws), nfe / draws, isinstance(sampler, Planned))


def with_units(name: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options with either unit, where the sampler takes one."""
    units = ("digit", "token") if "unit" in options_of(sampler_of(name)) else (None,)
    yield from ({**options, "unit": unit} if unit else dict(options) for unit in units)


def check(name: str, options: Mapping[str, Any], found: Found, noise: tuple[float, float]) -> None:
    """Raises SystemExit when a setting that is exact in theory is not."""
    own = {key: value for key, value in options.items() if key != "unit"}
    limit = 1e-9 if found.listed else noise[0] + 5 * noise[1]
    if (name, own) in EXACT and found.tv > limit:
        raise SystemExit(f"{name} {options} should be exact: distance {found.tv:.6f}, limit {limit:.6f}")


def words(name: str, options: Mapping[str, Any]) -> str:
    return " ".join([f"`{name}`", *(f"{key}={value}" for key, value in options.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=console.positive, default=20_000)
    parser.add_argument("--seed", type=console.whole, default=0)
    asked = parser.parse_args()
    noise = floor(asked.draws, asked.seed)
    found_of: Callable[..., Found] = lambda *setting: measure(*setting, asked.draws, asked.seed)  # noqa: E731
    print(f"{asked.draws:,} draws, seed {asked.seed}; floor {noise[0]:.4f} ± {noise[1]:.4f}\n")
    print(f"| sampler | {' | '.join(f'{steps} steps' for steps in STEPS)} | by |\n{'|---' * (len(STEPS) + 2)}|")
    for name, given in BY_STEPS:
        for options in with_units(name, given):
            row = [found_of(name, options, steps) for steps in STEPS]
            check(name, options, row[-1], noise)
            cells = [f"{found.tv:.3f} (NFE {found.nfe:.2f})" for found in row]
            way = "listing" if row[0].listed else "draws"
            print(f"| {words(name, options)} | {' | '.join(cells)} | {way} |", flush=True)
    print("\n| sampler | NFE | distance |\n|---|---|---|")
    for name, choices in ADAPTIVE.items():
        for given in choices:
            for options in with_units(name, given):
                found = found_of(name, options, max(STEPS))
                check(name, options, found, noise)
                print(f"| {words(name, options)} | {found.nfe:.2f} | {found.tv:.3f} |", flush=True)
    absent = set(SAMPLERS) - {name for name, _ in BY_STEPS} - set(ADAPTIVE)
    print(f"\nnot measured: {', '.join(sorted(absent))}")


if __name__ == "__main__":
    main()
