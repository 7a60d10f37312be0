import pytest
import torch

from mmprime.training.loop import Trainer
from mmprime.training.schema import (
    CodecConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    ToyConfig,
    ToyRunConfig,
    TrainConfig,
)
from mmprime.training.toy_task import ToyTask


def config(directory, **objective) -> ToyRunConfig:
    return ToyRunConfig(
        task="toy",
        run=RunConfig(dir=str(directory)),
        train=TrainConfig(steps=60, batch=128, lr=3e-3, warmup=5, ema=0.9, validate_every=60, samples_every=0),
        toy=ToyConfig(tokens=2, codes=6),
        model=ModelConfig(preset="nano", codec={"text": CodecConfig(kind="mixed_radix", radices=[3, 2])}),
        objective=ObjectiveConfig(**objective),
    )


@pytest.mark.parametrize("law", ["nested", "token_synchronous"])
def test_the_learned_bound_falls_towards_the_entropy_and_never_below(tmp_path, law):
    torch.manual_seed(0)
    task = ToyTask(config(tmp_path, law=law))
    with torch.no_grad():
        start = task.validate(torch.Generator())
    assert start["bound"] == pytest.approx(2 * torch.tensor(6.0).log().item(), rel=1e-5)  # uniform over codes
    metrics = Trainer(task, task.config).run().metrics
    assert task.entropy <= metrics["bound"] < start["bound"] - 0.2
    assert f"exact entropy {task.entropy:.4f}" in task.conclude(metrics)


def test_training_draws_from_the_table(tmp_path):
    task = ToyTask(config(tmp_path))
    seen = []
    task.modules.forward = lambda y, canvas, cond=None: (_ for _ in ()).throw(StopIteration)
    pack = task.canvas.pack
    task.canvas.pack = lambda codes: (seen.append(codes["text"]), pack(codes))[1]
    with pytest.raises(RuntimeError):
        next(iter(task.losses(torch.arange(20_000), torch.Generator().manual_seed(0), 0)))
    states = (seen[0] * torch.tensor([6, 1])).sum(-1)
    frequency = states.bincount(minlength=36) / 20_000
    assert float((frequency - task.table).abs().sum() / 2) < 0.02  # total variation
    assert float(task.table.sum()) == pytest.approx(1)
