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
from pipeline_world import CAPTIONS, write_text_image_model
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
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.sampling import SamplingConfig, sample_rows
from mmprime.models import PrimeDiT
from mmprime.training.build import build_task
from mmprime.training.config import load_config
from mmprime.training.signals import StopRequest
from mmprime.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
CANVAS = make_canvas(2, (2, 2))
# of tokens that are all combinations of their digits, as the heads of single digits need them
PRODUCT = Canvas([Span("text", 2, Codec.mixed_radix((5, 6))), Span("image", (2, 2), Codec.product((2, 3, 4)))])
GIVEN = CANVAS.mask("text")
MODEL = {"depth": 1}
OTHER_HEADS = ("factored", "chain")
TRAININGS = {
    "toy": ["train.batch=8"],
    "emoji_tokenizer": ["train.batch=2"],
    "emoji_t2i": ["train.batch=2", "model.depth=1", "model.preset=nano"],
}


def setting(head: str = "softmax") -> tuple[PrimeDiT, Canvas, Tensor]:
    """A model with that head, its canvas and two whole examples."""
    canvas = CANVAS if head == "softmax" else PRODUCT
    return make_model(canvas, head=head, **MODEL), canvas, random_state(canvas, 2, 0.0)


WHOLE = random_state(CANVAS, 2, 0.0)
PROMPT = torch.where(GIVEN, WHOLE, -1)


def drawn(name: str, device: str, steps: int = 2, head: str = "softmax", **options: object) -> Tensor:
    model, canvas, whole = setting(head)
    prompt = torch.where(GIVEN, whole, -1).to(device)
    with torch.no_grad():
        return sample(model.to(device), canvas, sampler_of(name, {}, steps), prompt, 0, **options).y.cpu()


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


@pytest.mark.parametrize(
    ("name", "head"),
    [*((name, "softmax") for name in SAMPLERS)]
    + [(name, head) for head in OTHER_HEADS for name in ("first_hitting", "confidence", "remdm", "p2")],
)
def test_a_sampler_draws_the_same_on_the_device(name, head):
    with StandIn():
        there = drawn(name, "cuda", head=head, guidance=2.0)
    assert torch.equal(there, drawn(name, "cpu", head=head, guidance=2.0))


@pytest.mark.parametrize("head", ["softmax", *OTHER_HEADS])
@pytest.mark.parametrize("masking", MASKINGS)
def test_bounds_and_losses_are_the_same_on_the_device(masking, head):
    def values(device: str) -> Tensor:
        model, canvas, whole = setting(head)
        model, y = model.to(device), whole.to(device)
        seeded = torch.Generator().manual_seed(0)
        parts = [nelbo(model, canvas, y, steps, masking, GIVEN, 1, seeded) for steps in (None, 2)]
        parts += [joint_loss(model, canvas, y, GIVEN, seeded, masking)]
        parts += [planned_nelbo(model, canvas, y, sampler_of("nested", steps=2), GIVEN, 1, seeded)]
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


def test_a_pipeline_answers_the_same_on_the_device(tmp_path, monkeypatch):
    """Pictures of a prompt, captions, a part painted anew, a score."""
    folder = write_text_image_model(tmp_path)
    mask = torch.zeros(32, 32)
    mask[:16] = 1

    def answers(pipe: Pipeline) -> tuple[list[Tensor], list[str]]:
        how = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
        picture = pipe(CAPTIONS[0], output_type="pt", guidance_scale=3.0, **how).images
        again = pipe(CAPTIONS[1], picture[0].cpu(), mask, output_type="pt", **how).images
        texts = pipe(image=picture[0].cpu(), **how).texts
        score = pipe.score(CAPTIONS[0], picture[0].cpu(), steps=2)
        return [part.cpu() for part in (picture, again, score)], texts

    here, texts = answers(from_pretrained(folder))
    with StandIn():
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "device_count", lambda: 1)
            pipe = from_pretrained(folder, "cuda")
        there, texts_there = answers(pipe)
    assert texts_there == texts
    for one, other in zip(there, here):
        torch.testing.assert_close(one, other)


def counted(steps: int, name: str, head: str, device: StandIn) -> tuple[int, int]:
    """Reads and copies of a whole rollout."""
    device.clear()
    drawn(name, "cuda", steps, head)
    return sum(device.syncs.values()), sum(device.sends.values())


def per_step(name: str, head: str = "softmax") -> tuple[float, float]:
    """Reads by the host and copies to the device of a step: the difference between rollouts of 4 and 2 steps."""
    with StandIn() as device:
        short, long = (counted(steps, name, head, device) for steps in (2, 4))
    return (long[0] - short[0]) / 2, (long[1] - short[1]) / 2


SAMPLED = [
    ("first_hitting", "softmax", 16), ("confidence", "softmax", 25), ("remdm", "softmax", 16),
    ("first_hitting", "factored", 14), ("confidence", "factored", 13),
    ("first_hitting", "chain", 20), ("confidence", "chain", 22),
]  # fmt: skip


@pytest.mark.parametrize(("name", "head", "reads"), SAMPLED)
def test_a_sampling_step_waits_no_more_than_that(name, head, reads):
    assert per_step(name, head)[0] <= reads


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

    for each, kind, _ in SAMPLED:
        print(f"a step of {each}, head {kind}: {per_step(each, kind)}")
    for each in TRAININGS:
        with tempfile.TemporaryDirectory() as scratch:
            print(f"a training step of {each}: {of_training(each, Path(scratch) / 'run')}")
