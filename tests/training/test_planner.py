"""Plans against what is known otherwise: models that are built, weights that are counted, steps that are measured."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmprime.cli import plan
from mmprime.training.config import ConfigError, load_config
from mmprime.training.hardware import GPUS, hardware_of
from mmprime.training.model import build_model
from mmprime.training.op_trace import Op, OpTrace
from mmprime.training.planner import Planner, Spread
from mmprime.training.step_costs import StepCosts, canvas_of

ROOT = Path(__file__).resolve().parents[2]
BITS = ["data.grid=[4, 4]", "model.preset=nano", "model.checkpointing=none", "train.batch=4", "train.accumulate=2"]


def costs_of(*overrides: str) -> StepCosts:
    config = load_config(str(ROOT / "configs/imagenet_bits.yaml"), [*BITS, *overrides], elsewhere=True)
    return StepCosts(config, True)


@pytest.fixture(scope="module")
def costs() -> StepCosts:
    return costs_of()


def test_parameters_and_canvas_are_those_of_the_training(costs):
    canvas, classes = canvas_of(costs.config)
    assert ([span.codec.radices for span in canvas.spans], classes) == ([(2,) * 18], 1000)
    model = build_model(canvas, costs.config.model, classes)
    assert costs.count == sum(p.numel() for p in model.parameters())


def test_a_block_asks_for_the_products_that_it_has(costs):
    more, _ = costs.block("none")
    tokens, width = 4 * 16, 64
    block = 12 * width**2 + 3 * width * 192 - 8 * width**2  # attention 4 D^2, SwiGLU 3 D H
    expected = 6 * tokens * block + 12 * tokens * 16 * width
    products = sum(count * op.flops for op, count in more.ops.items())
    modulation = 6 * 4 * 6 * width**2
    assert products == pytest.approx(expected + modulation, rel=0.03)  # flash attention computes scores twice
    anew, _ = costs.block("full")
    assert sum(count * op.flops for op, count in anew.ops.items()) == pytest.approx(4 / 3 * products, rel=0.03)
    assert anew.peak == 4 * tokens * width + 4 * 4 * width  # what goes into a block, float32, and its condition
    assert costs.block("selective")[0].peak < more.peak


def test_blocks_see_patches_as_positions(costs):
    few, width, depth = costs_of("model.patch=2"), 64, costs.depth
    assert few.parameters["embedding"] - costs.parameters["embedding"] == (2 * 4 + 3) * width**2
    assert few.count == sum(p.numel() for p in build_model(few.canvas, few.config.model, few.classes).parameters())
    products, more = (sum(count * op.flops for op, count in c.block("none")[0].ops.items()) for c in (costs, few))
    modulation = 6 * 4 * 6 * width**2  # of an example, not of a position
    assert more - modulation == pytest.approx((products - modulation) / 4, rel=0.05)
    block = 4 * width**2 + 3 * width * 192
    fewer = 6 * depth * (16 * block - 4 * block) + 12 * depth * width * (16**2 - 4**2)
    assert costs.flops - few.flops == pytest.approx(fewer - 6 * 16 * 5 * width**2, rel=0.1)


def test_a_trace_knows_what_is_alive():
    weight = torch.nn.Parameter(torch.ones(64, 64))
    with OpTrace([weight]) as trace:
        x = torch.ones(16, 64)
        y = x @ weight
        del x
        z = y + 1  # x is kept for the gradient of the weight, y is not
        del y
    assert (trace.peak, trace.alive) == (3 * 16 * 64 * 4, 2 * 16 * 64 * 4)
    assert trace.ops[Op("product", 2 * 16 * 64 * 64, 2 * 16 * 64 * 4, 64 * 64 * 4)] == 1
    del z


def test_seconds_are_those_of_the_roofline():
    gpu = GPUS["H100"]
    product, copy = Op("product", 1e15, 1e6, 0.0, True), Op("plain", 0.0, 1e12)
    seconds = 2 * 1e15 / (0.6 * 989e12) + 1e12 / (0.8 * 3.35e12)
    assert gpu.seconds(Counter({product: 2, copy: 1})) == pytest.approx(seconds)
    assert gpu.seconds(Counter({product: 2, copy: 1}), 3.0) == pytest.approx(3 * seconds)
    assert gpu.seconds(Counter({Op("plain", 0.0, 8.0): 1000})) == pytest.approx(1000 * gpu.call)  # the host is slower


def test_shards_hold_their_part(costs):
    planner = Planner(costs, GPUS["A100"], 8)
    weights = 4 * costs.count
    whole = planner.estimate(Spread(1, 8)).memory
    parts = planner.estimate(Spread(1, 8, "fsdp")).memory
    groups = planner.estimate(Spread(1, 8, "fsdp", 2)).memory
    for name, factor in (("weights", 1), ("averages", 1), ("optimizer", 2)):
        assert whole[name] == factor * weights
        assert parts[name] == pytest.approx(factor * weights / 8)
        assert groups[name] == pytest.approx(factor * weights / 4)
    assert whole["activations"] == parts["activations"]


def test_messages_are_those_of_a_ring(costs):
    slow = replace(GPUS["A100"], link=1e3, network=1e3)
    planner = Planner(costs, slow, 8)
    waited = planner.estimate(Spread(1, 8)).seconds["messages"]
    assert waited == pytest.approx(2 * 7 / 8 * 4 * costs.count / 1e3, rel=1e-3)


def test_what_does_not_fit_is_shared_out(costs):
    """Memory for the whole of the weights, moments and averages is too little, and an eighth is enough."""
    need = Planner(costs, GPUS["A100"], 8).estimate(Spread(1, 8, "fsdp")).peak
    small = replace(GPUS["A100"], memory=need / 0.8)
    assert Planner(costs, small, 8).chosen().spread.parallel == "fsdp"
    assert Planner(costs, GPUS["A100"], 8).chosen().spread == Spread(1, 8)
    with pytest.raises(ConfigError, match=r"nothing fits.*more devices or a smaller model\.preset"):
        Planner(costs, replace(small, memory=need / 100), 8).chosen()


def test_thousands_of_devices_need_as_many_examples(costs):
    with pytest.raises(ConfigError, match=r"train\.accumulate=2 .* 4096 devices; set e\.g\. train\.accumulate=4096"):
        Planner(costs, GPUS["H100"], 4096)
    costs.config.train.accumulate = 2048
    try:
        chosen = Planner(costs, GPUS["H100"], 4096).chosen()
    finally:
        costs.config.train.accumulate = 2
    assert chosen.spread.batch * chosen.spread.accumulate == 8192
    assert chosen.spread.accumulate % 4096 == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toy", "--kind", "H1000"], "--kind 'H1000' is unknown; there are A100"),
        (["emoji_tokenizer"], "task=tokenizer is not planned"),
        (["toy", "--gpus", "3"], "cannot be shared by 3 devices"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    assert plan.main(words) == 2
    assert said in capsys.readouterr().err


def test_the_page_has_its_numbers(capsys):
    assert plan.main(["imagenet_bits", *BITS, "--gpus", "2", "--kind", "H200", "--price", "3"]) == 0
    page = capsys.readouterr().out
    for words in (
        "parameters: ",
        "memory of a device, GB",
        "step, ms",
        "days for 400,000 steps",
        "cost at 3",
        "MFU, %",
    ):
        assert words in page
    assert "torchrun --nproc-per-node 2 -m mmprime train imagenet_bits" in page


@pytest.mark.slow
def test_plans_agree_with_measured_steps(tmp_path):
    """The table of docs/scale.md: parameters exactly, memory and time within a quarter."""
    rows = tmp_path / "rows.json"
    words = [sys.executable, "benchmarks/plan.py", "--json", str(rows)]
    subprocess.run(words, cwd=ROOT, check=True, timeout=3600)
    for row in json.loads(rows.read_text()).values():
        assert row["planned parameters"] == row["parameters"]
        for key in ("bytes", "seconds"):
            assert row[f"planned {key}"] == pytest.approx(row[key], rel=0.25), (key, row)


def test_hardware_is_known_by_name():
    assert hardware_of("H100") is GPUS["H100"]
