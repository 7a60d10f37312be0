"""The loops of others as they are, beside this package's, on one core: training steps and sampling.

    git clone https://github.com/chen-hao-chao/mdm-prime ../mdm-prime
    python benchmarks/peers.py --peer ../mdm-prime [--digits 1,2 --sampling-steps 16 --precision bf16]
    git clone https://github.com/valeoai/Halton-MaskGIT ../Halton-MaskGIT
    python benchmarks/peers.py --peer ../Halton-MaskGIT [--digits 1,2 --sampling-steps 32 --guidance 0,3]

Whose checkout it is shows in its files; `peer_mdm_prime.py` and `peer_maskgit.py` say what of theirs runs and what had
to be replaced around it. The parties take turns in one process; ratios of CPU seconds in one run compare, those of
different runs do not. Memory is the growth of the peak of resident memory meanwhile (Linux).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import inf
from pathlib import Path
from statistics import median
from types import ModuleType

import peer_maskgit
import peer_mdm_prime
import torch
from cost import Case, in_turns

from mmprime.cli import console

PEERS = {"chen-hao-chao/mdm-prime": peer_mdm_prime, "valeoai/Halton-MaskGIT": peer_maskgit}


def peer_of(folder: Path) -> ModuleType:
    """The module for a checkout. Raises ValueError where the folder is none of those that are known."""
    for peer in PEERS.values():
        if (folder / peer.MARK).is_file():
            return peer
    known = " and ".join(f"no {peer.MARK} ({name})" for name, peer in PEERS.items())
    raise ValueError(f"--peer {folder}: {known} there; give a checkout of one of them")


def cells(case: Case) -> list[str]:
    """Medians of the parties in turns, and what theirs takes of ours."""
    theirs, ours = in_turns([case.theirs, case.ours], case.repeats)
    ratio = median(a[0] / b[0] for a, b in zip(theirs, ours))
    seconds = [median(work[0] for work in costs) / case.examples for costs in (theirs, ours)]
    peaks = [max(work[1] for work in costs) for costs in (theirs, ours)]
    found = [f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", f"**{ratio:.2f}**", f"{peaks[0]:.0f}", f"{peaks[1]:.0f}"]
    return [*case.about, *found, f"{peaks[1] / peaks[0] if peaks[0] else inf:.2f}"]


def parse(words: Sequence[str] | None) -> tuple[ModuleType, argparse.Namespace]:
    """The peer, and the options with its sizes where none were given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of theirs")
    for name in ("codes", "length", "batch", "width", "depth"):
        parser.add_argument(f"--{name}", type=console.positive)
    parser.add_argument("--digits", type=console.numbers, default=[1, 2])
    parser.add_argument("--guidance", type=console.list_of(float), default=[0.0], help="scales; of Halton-MaskGIT")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of this package")
    parser.add_argument("--repeats", type=console.positive, default=5)
    parser.add_argument("--sampling-steps", type=console.whole, help="draw in so many; 0: of MDM-Prime, do not")
    options = parser.parse_args(words)
    try:
        peer = peer_of(options.peer)
        for name, value in peer.DEFAULTS.items():
            if getattr(options, name) is None:
                setattr(options, name, value)
        peer.check(options)
    except ValueError as error:
        parser.error(str(error))
    return peer, options


def main(words: Sequence[str] | None = None) -> None:
    peer, options = parse(words)
    torch.set_num_threads(1)
    print(f"C = {options.codes}, L = {options.length}, batch {options.batch}, width {options.width}, ", end="")
    print(f"depth {options.depth}; one thread, {options.precision}, torch {torch.__version__}, ", end="")
    print(f"medians of {options.repeats}\n")
    columns = [*peer.COLUMNS, "s, theirs", "s", "faster", "MB, theirs", "MB", "of it"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for case in peer.cases(options.peer, options):
        print(f"| {' | '.join(cells(case))} |", flush=True)


if __name__ == "__main__":
    main()
