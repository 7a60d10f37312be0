"""What a run says of its speed: FLOPs against torch's own counter, parts of a step, the profile."""

import gzip
import json
import time

import pytest
import torch
from diffusion_world import task
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_world import LineTask, small_config

from mmprime.engine import Canvas, Codec, DigitQuery, Span
from mmprime.models import DiTConfig, PrimeDiT
from mmprime.training.flops import head_flops, step_factor, trunk_flops
from mmprime.training.meters import PARTS, Meter, own_clock, product_rate
from mmprime.training.profiling import profile_run
from mmprime.training.schema import ObjectiveConfig
from mmprime.training.signals import StopRequest
from mmprime.training.trainer import Trainer

CODECS = {"softmax": Codec.base(64, 1), "factored": Codec.product([4] * 3), "chain": Codec.product([4] * 3)}


def metered(directory, **objective):
    """A trainer with a meter, of attention that torch's counter sees."""
    built = task(directory, objective=ObjectiveConfig(**objective))
    built.model.config = built.model.config.__class__(**{**vars(built.model.config), "attention": "reference"})
    trainer = Trainer(built, built.config)
    trainer.stepper.meter = Meter(built.modules, torch.device("cpu"))
    return trainer


@pytest.mark.parametrize("digit_embedding", ["sum", "concat", "linear"])
def test_flops_of_the_trunk_are_those_that_torch_counts(digit_embedding):
    canvas = Canvas([Span("image", (4, 4), Codec.base(64, 2))])
    options = {"width": 32, "depth": 2, "heads": 2, "num_classes": 3, "digit_embedding": digit_embedding}
    model = PrimeDiT(canvas, DiTConfig(**options, attention="reference"))
    y, label = torch.zeros(64, canvas.num_subtokens, dtype=torch.int64), torch.zeros(64, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(y, canvas, {"label": label})
    assert trunk_flops(model, 64, 16) == pytest.approx(counter.get_total_flops(), rel=5e-3)  # position features: once


def test_a_step_has_the_flops_that_torch_counts(tmp_path):
    """Whole tokens are masked: with few codes left a weight's gradient is no product of matrices."""
    trainer = metered(tmp_path, masking="token_synchronous")
    with FlopCounterMode(display=False) as counter:
        trainer.stepper(StopRequest(0.0))
    flops = trainer.stepper.meter.flops
    assert min(flops.values()) > 0
    assert sum(flops.values()) == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("head", CODECS)
def test_flops_of_a_head_are_those_that_torch_counts(head):
    model = PrimeDiT(Canvas([Span("image", 4, CODECS[head])]), DiTConfig(width=32, depth=1, heads=2, head=head))
    hidden, net = torch.randn(10, 32), model.heads["image"]
    query = DigitQuery(torch.arange(10), torch.arange(10) % 3, torch.full((10, 3), -1))
    with FlopCounterMode(display=False) as counter:
        net(hidden) if head == "softmax" else net(hidden, query)
    assert head_flops(net, 10, 64 if head == "softmax" else 10) == counter.get_total_flops()


def test_what_is_frozen_takes_fewer_flops():
    weights = [torch.nn.Parameter(torch.zeros(4, 4), requires_grad=wanted) for wanted in (True, False)]
    assert step_factor(weights[:1], True) == 3
    assert step_factor(weights[1:], True) == 2
    assert step_factor(weights[1:], False) == 1
    assert step_factor(weights, False) == 2.5


def test_a_line_of_the_log_has_all_meters(tmp_path):
    built = task(tmp_path)
    built.config.train.steps, built.config.train.log_every = 4, 2
    Trainer(built, built.config).run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for line in (line for line in lines if line["kind"] == "train"):
        assert set(PARTS) == {name.removeprefix("time/") for name in line if name.startswith("time/")}
        assert sum(line[f"time/{part}"] for part in PARTS) == pytest.approx(1, abs=1e-3)
        assert min(line[f"time/{part}"] for part in PARTS) > 0
        assert 0 < line["mfu"] < 1
        assert line["tokens_per_second"] == pytest.approx(13 * line["samples_per_second"], rel=1e-3)
        assert 0.05 < line["memory_peak_gib"] < 64


def test_nats_at_one_go_have_the_flops_of_all_logits():
    model = PrimeDiT(Canvas([Span("image", 4, CODECS["softmax"])]), DiTConfig(width=32, depth=1, heads=2))
    meter = Meter(model, torch.device("cpu"))
    meter.mark("loss")
    model.heads["image"](torch.randn(10, 32), true=torch.arange(10))
    assert meter.flops["head"] == 3 * 2 * 10 * 32 * 64


def test_validation_is_not_counted(tmp_path):
    trainer = metered(tmp_path)
    trainer.stepper(StopRequest(0.0))
    before = dict(trainer.stepper.meter.flops)
    trainer.task.validate(torch.Generator().manual_seed(0))
    assert trainer.stepper.meter.flops == before


def test_a_task_without_a_denoiser_has_no_mfu(tmp_path):
    Trainer(LineTask(), small_config(tmp_path, steps=5)).run()
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-2])
    assert "mfu" not in line


def test_parts_last_as_long_as_the_clock_says():
    """Not so long as on the wall, where others may use the machine."""
    ticks = iter([0.0, 3.0, 5.0])
    meter = Meter(nn.Module(), torch.device("cpu"), lambda: next(ticks))
    meter.mark("loss")
    meter.mark("optimizer")
    meter.end()
    assert {part: seconds for part, seconds in meter.seconds.items() if seconds} == {"loss": 3, "optimizer": 2}


def test_one_thread_has_a_clock_of_its_own(monkeypatch):
    for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert own_clock("cpu") is clock
        assert own_clock("cuda") is time.perf_counter


def test_the_rate_of_products_is_measured_once():
    assert product_rate("cpu", False, 1) == product_rate("cpu", False, 1) > 1e8


def test_a_profile_leaves_the_run_as_it_was(tmp_path):
    built = task(tmp_path / "run")
    folder = profile_run(Trainer(built, built.config))
    assert {path.name for path in (tmp_path / "run").rglob("*")} == {"profile", "summary.md", "trace.json.gz"}
    page = (folder / "summary.md").read_text()
    for words in ("MFU", "memory peak", "loader wait", "tokens a second", *(f"| {part} " for part in PARTS)):
        assert words in page
    with gzip.open(folder / "trace.json.gz") as stream:
        names = {event.get("name") for event in json.load(stream)["traceEvents"]}
    assert {"aten::mm", "aten::addmm"} <= names
