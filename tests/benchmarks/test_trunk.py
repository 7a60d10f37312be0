"""What benchmarks/trunk.py compares: the same FLOPs by each attention, of which nearly all are linear maps."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["--widths", "64,128", "--depth", "1", "--length", "4", "--batch", "2", "--codes", "16", "--repeats", "1"]


def test_each_width_has_a_row_for_each_attention_and_for_the_products(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = importlib.import_module("trunk")
    script.main([*WORDS, "--variants", "sdpa,reference"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    names = ["square products", "products of the linear maps", "trunk, sdpa", "trunk, reference"]
    assert [row[:2] for row in rows] == [[width, name] for width in ("64", "128") for name in names]
    assert [row[4] for row in rows if row[1] == names[0]] == ["100", "100"]
    for row in rows[2:4]:
        assert row[2] == rows[2][2]
    with pytest.raises(SystemExit):
        script.main(["--variants", "fast"])
    assert "'fast'" in capsys.readouterr().err


@pytest.mark.parametrize("width", [64, 128])
def test_the_products_are_those_of_the_blocks(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 D² of attention and 3 D M of SwiGLU, six FLOPs a weight and token."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = importlib.import_module("trunk")
    canvas = script.Canvas([script.Span("text", 4, script.Codec.base(16, 2))])
    model = script.PrimeDiT(canvas, script.DiTConfig(width=width, depth=2, heads=1))
    flops, work = script.products(model, 8)
    assert flops == 6 * 8 * 2 * (4 * width**2 + 3 * width * model.config.mlp_hidden)
    work()
    assert all(weight.grad is None for weight in model.blocks.parameters())
