"""Every public path on a device of its own: nothing mixes it with the CPU, results are those of the CPU, and what the
host waits for is bounded.

    python tests/test_devices.py     # the table of docs/scale.md: reads by the host and copies to the device
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from device_world import Mixed, OnDevice, StandIn
from model_world import make_canvas, make_model, random_state
from torch import Tensor

from mmprime.engine import (
    MASKINGS,
    SAMPLERS,
    Canvas,
    Codec,
    Plan,
    Span,
    exact_nelbo,
    joint_loss,
    nelbo,
    sample,
    sampler_of,
)
from mmprime.engine.likelihood import planned_nelbo
from mmprime.engine.particles import Steering, steer
from mmprime.generation.sampling import SamplingConfig, sample_rows
from mmprime.training.build import build_task
from mmprime.training.config import load_config
from mmprime.training.signals import StopRequest
from mmprime.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
CANVAS = make_canvas(2, (2, 2))
WHOLE = random_state(CANVAS, 2, 0.0)
GIVEN = CANVAS.mask("text")
PROMPT = torch.where(GIVEN, WHOLE, -1)
MODEL = {"depth": 1}
TRAININGS = {
    "toy": ["train.batch=8"],
    "emoji_tokenizer": ["train.batch=2"],
    "emoji_t2i": ["train.batch=2", "model.depth=1", "model.preset=nano"],
}


def drawn(name: str, device: str, steps: int = 2, **options: object) -> Tensor:
    with torch.no_grad():
        sampler = sampler_of(name, {}, steps)
        return sample(make_model(CANVAS, **MODEL).to(device), CANVAS, sampler, PROMPT.to(device), 0, **options).y.cpu()


def test_the_stand_in_refuses_and_counts():
    with StandIn() as device:
        x = torch.arange(4, device="cuda")
        assert isinstance(x, OnDevice)
        assert x.device == torch.device("cuda:0")
        for mixed in (lambda: x + torch.arange(4), lambda: x[torch.tensor([0])], lambda: x.cpu()[x]):
            with pytest.raises(Mixed):
                mixed()
        device.clear()
        assert (x.sum().item(), bool((x > 2).any()), x[x > 1].tolist()) == (6, True, [2, 3])
        assert (sum(device.syncs.values()), sum(device.sends.values())) == (4, 0)
        assert (x + torch.ones(4).to("cuda")).cpu().tolist() == [1, 2, 3, 4]
        assert sum(device.sends.values()) == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_the_same_on_the_device(name):
    with StandIn():
        there = drawn(name, "cuda", guidance=2.0)
    assert torch.equal(there, drawn(name, "cpu", guidance=2.0))


@pytest.mark.parametrize("masking", MASKINGS)
def test_bounds_and_losses_are_the_same_on_the_device(masking):
    def values(device: str) -> Tensor:
        model, y = make_model(CANVAS, **MODEL).to(device), WHOLE.to(device)
        seeded = torch.Generator().manual_seed(0)
        parts = [nelbo(model, CANVAS, y, steps, masking, GIVEN, 1, seeded) for steps in (None, 2)]
        parts += [joint_loss(model, CANVAS, y, GIVEN, seeded, masking)]
        parts += [planned_nelbo(model, CANVAS, y, sampler_of("nested", steps=2), GIVEN, 1, seeded)]
        torch.stack(parts).sum().backward()
        gradient = next(model.blocks.parameters()).grad
        assert gradient is not None
        assert gradient.device == y.device
        return torch.cat([*(part.detach().cpu() for part in parts), gradient.cpu().flatten()])

    with StandIn():
        there = values("cuda")
    torch.testing.assert_close(there, values("cpu"))


def test_exact_values_regions_temperatures_and_particles():
    line = Canvas([Span("image", 2, Codec.base(4, 2))])
    with StandIn():
        y = torch.zeros(1, 4, dtype=torch.int64, device="cuda")
        assert exact_nelbo(make_model(line, **MODEL).to("cuda"), line, y, 2).bound.is_cuda
        heat = torch.linspace(0, 1, CANVAS.num_subtokens, dtype=torch.float64)
        model = make_model(CANVAS, **MODEL).to("cuda")
        assert drawn("confidence", "cuda", temperature=heat, top_p=0.9).min() >= 0
        plan = Plan.nested(CANVAS, 2, 0, steps=2, given=GIVEN)
        steering = Steering(lambda rows: rows.sum(-1).float(), 0.1, 2, 1)
        assert steer(model, CANVAS, plan, steering, PROMPT.to("cuda"), 0).y.is_cuda
        config = SamplingConfig(sampler_of("klass"), seed=[1, 2], trace=True)
        assert sample_rows(model, CANVAS, PROMPT.to("cuda"), config).y.is_cuda


def counted(steps: int, name: str, device: StandIn) -> tuple[int, int]:
    """Reads and copies of a whole rollout."""
    device.clear()
    drawn(name, "cuda", steps)
    return sum(device.syncs.values()), sum(device.sends.values())


def per_step(name: str) -> tuple[float, float]:
    """Reads by the host and copies to the device of a step: the difference between rollouts of 4 and 2 steps."""
    with StandIn() as device:
        short, long = (counted(steps, name, device) for steps in (2, 4))
    return (long[0] - short[0]) / 2, (long[1] - short[1]) / 2


@pytest.mark.parametrize(("name", "reads"), [("first_hitting", 16), ("confidence", 25), ("remdm", 16)])
def test_a_sampling_step_waits_no_more_than_that(name, reads):
    assert per_step(name)[0] <= reads


def of_training(name: str, folder: Path) -> tuple[int, int]:
    """Reads and copies of the second step of a training."""
    config = load_config(
        str(ROOT / f"configs/{name}.yaml"), [f"run.dir={folder}", "run.precision=fp32", *TRAININGS[name]]
    )
    with StandIn() as device:
        trainer = Trainer(build_task(config, "cuda"), config, device="cuda")
        stop = StopRequest(0.0)
        trainer.stepper(stop)
        device.clear()
        trainer.stepper(stop)
    assert trainer.at.step == 2
    assert all(p.is_cuda for p in trainer.task.modules.parameters())
    return sum(device.syncs.values()), sum(device.sends.values())


@pytest.mark.parametrize(("name", "reads"), [("toy", 14), ("emoji_t2i", 15), ("emoji_tokenizer", 13)])
def test_a_training_step_waits_no_more_than_that(name, reads, tmp_path):
    assert of_training(name, tmp_path / "run")[0] <= reads


if __name__ == "__main__":
    import tempfile

    for each in ("first_hitting", "confidence", "remdm"):
        print(f"a step of {each}: {per_step(each)}")
    for each in TRAININGS:
        with tempfile.TemporaryDirectory() as scratch:
            print(f"a training step of {each}: {of_training(each, Path(scratch) / 'run')}")
