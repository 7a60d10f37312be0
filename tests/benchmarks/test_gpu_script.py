"""What benchmarks/gpu.py counts and compares, without a GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks/gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CPU = torch.device("cpu")


def test_the_flops_of_a_pass_are_those_of_its_matrices_and_of_attention(script: ModuleType) -> None:
    job = script.Job("nano", "sdpa", CPU, "fp32", 2)
    width, depth, length, batch = 64, 3, 256, 2
    model = job.model
    by_token = [m for block in model.blocks for m in block.modules() if isinstance(m, nn.Linear)]
    by_example = [m for m in by_token if m.in_features == width and m.out_features == 6 * width]  # the modulations
    by_token = [m for m in by_token if m not in by_example]
    assert len(by_example) == depth
    by_example += [m for part in (model.conditioning, model.final) for m in part.modules() if isinstance(m, nn.Linear)]
    of_positions = 2 * length * width**2  # their embedding is of all examples
    expected = of_positions + 2 * batch * (
        length * sum(m.weight.numel() for m in by_token) + sum(m.weight.numel() for m in by_example)
    )
    attention = depth * batch * 4 * length**2 * width

    def forward() -> None:
        with torch.no_grad():
            model(job.y, script.CANVAS, job.cond)

    assert script.flops_of(forward) == expected + attention

    def both() -> None:
        model(job.y, script.CANVAS, job.cond).sum().backward()

    # two products for each in the backward pass, and attention anew: five products for two
    assert script.flops_of(both) == pytest.approx(3 * expected + 3.5 * attention, rel=0.01)


@pytest.mark.slow
def test_a_wrong_gradient_is_told(script: ModuleType) -> None:
    one = script.Job("nano", "sdpa", CPU, "fp32", 2).gradient()
    assert script.difference(one, one) == (0.0, 0.0)
    other = script.Job("nano", "sdpa", CPU, "bf16", 2).gradient()
    loss, gradient = script.difference(other, one)
    assert 0 < loss < 1e-2
    assert 1e-4 < gradient < 5e-2
    job = script.Job("nano", "sdpa", CPU, "fp32", 2)
    job.model.blocks[0].load_state_dict(job.model.blocks[1].state_dict())
    wrong = script.difference(job.gradient(), one)[1]
    assert wrong > 5 * gradient


@pytest.mark.slow
def test_its_table_without_a_gpu(script: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    command = "gpu.py --device cpu --size nano --repeats 1 --steps 2"
    monkeypatch.setattr(sys, "argv", command.split())
    script.main()
    told = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told[3:]]
    assert [row[:2] for row in rows] == [["nano", "sdpa"], ["nano", "xformers"], ["nano", "compile"]]
    assert 1 < float(rows[0][4].removesuffix(" %")) < 130
    assert rows[0][7] == "fp32 0e+00 0e+00"
    assert "no operator for 'cpu'" in rows[1][2]
    assert float(rows[2][7].split()[2]) < 1e-4
