"""What benchmarks/peers.py hands to a checkout of Halton-MaskGIT, by a stand-in that writes it down."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORK = """
from torch import nn


class Transformer(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.sizes = sizes
"""
SAMPLER = """
import json
from pathlib import Path

import torch


class {name}Sampler:
    def __init__(self, step, w):
        self.step, self.w = step, w

    def __call__(self, trainer, nb_sample, labels, verbose):
        args = trainer.args
        code = torch.full((nb_sample, trainer.input_size**2), args.mask_value, device=args.device)
        with trainer.autocast:
            trainer.ae.decode_code(code.clamp(0, args.codebook_size - 1))
        line = {{"name": "{name}", "step": self.step, "w": self.w, "labels": labels.tolist(), **trainer.vit.sizes}}
        with Path(__file__).with_name("calls.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\\n")
"""
SIZES = {"codes": 16, "length": 4, "batch": 3, "width": 64, "depth": 1, "sampling-steps": 2, "repeats": 1}
WORDS = [f"--{name}={value}" for name, value in SIZES.items()]


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("peers")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    files = {"Network/transformer.py": NETWORK}
    files |= {f"Sampler/{name.lower()}_sampler.py": SAMPLER.format(name=name) for name in ("Halton", "Confidence")}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("Network", "Sampler")]:
        del sys.modules[name]


def test_both_samplers_of_maskgit_get_the_sizes_steps_and_labels_of_the_run(
    peers: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers.main(["--peer", str(checkout), "--digits", "1,2", "--guidance", "0,3", *WORDS])
    rows = [line.split(" | ")[:3] for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows == [
        [f"| {name}", digits, scale]
        for name in ("halton", "confidence")
        for scale in ("0", "3")
        for digits in ("1", "2")
    ]
    calls = [json.loads(line) for line in (checkout / "Sampler/calls.jsonl").read_text().splitlines()]
    assert [call["name"] for call in calls] == ["Halton"] * 8 + ["Confidence"] * 8  # a turn to warm up, and one
    assert [call["w"] for call in calls] == 2 * ([0.0] * 4 + [3.0] * 4)
    wanted = {"step": 2, "input_size": 2, "codebook_size": 16, "hidden_dim": 64, "depth": 1, "heads": 1, "mlp_dim": 256}
    for call in calls:
        assert wanted.items() <= call.items()
        assert len(call["labels"]) == 3


@pytest.mark.parametrize(("name", "scale", "passes"), [("halton", 3, 8), ("confidence", 0, 4), ("confidence", 3, 7)])
def test_ours_takes_as_many_passes_as_steps(peers: ModuleType, name: str, scale: int, passes: int) -> None:
    """A guided step is two passes, but for the first of a linear scale, which is 0."""
    maskgit = peers.peer_maskgit
    options = Namespace(codes=16, length=16, batch=3, width=64, depth=1, precision="fp32")
    for digits in (1, 2):
        ours = maskgit.Ours(options, digits)
        guidance = maskgit.Guidance(scale, "constant" if name == "halton" else "linear")
        assert ours.sample(ours.sampler(name, 4), guidance).nfe.tolist() == [passes] * 3


def test_a_folder_of_neither_is_refused(peers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--peer", str(tmp_path)])
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert "chen-hao-chao/mdm-prime" in error
    assert "valeoai/Halton-MaskGIT" in error


def test_a_length_that_is_no_square_is_refused(peers: ModuleType, checkout: Path) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--peer", str(checkout), *WORDS, "--length", "6"])
