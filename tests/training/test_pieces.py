import json
import math
import shutil

import pytest
import torch
from torch import nn

from mmprime.io import clear_leftovers
from mmprime.training import rng
from mmprime.training.checkpoint import Checkpoints
from mmprime.training.data_order import DataOrder
from mmprime.training.log import RunLog
from mmprime.training.optim import EMA, build_optimizer, learning_rate
from mmprime.training.schema import TrainConfig


def test_order_is_a_pure_function_that_visits_everything_once_an_epoch():
    order, other = DataOrder(10, 3, 2, seed=5), DataOrder(10, 3, 2, seed=5)
    for step in (7, 0, 3):  # asked for in any sequence
        assert torch.equal(order.indices(step, 1), other.indices(step, 1))
    stream = torch.cat([order.indices(s, m) for s in range(5) for m in range(2)])
    for epoch in range(3):
        assert stream[10 * epoch : 10 * epoch + 10].sort().values.tolist() == list(range(10))
    assert not torch.equal(stream[:10], stream[10:20])
    assert not torch.equal(order.indices(0), DataOrder(10, 3, 2, seed=6).indices(0))


def test_a_batch_larger_than_the_data_wraps_around():
    assert DataOrder(3, 8).indices(0).bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_processes_share_all_micro_batches_and_no_more():
    parts = [DataOrder(9, 2, 6, rank=rank, world=3).own_micro_batches() for rank in range(3)]
    assert sorted(m for part in parts for m in part) == list(range(6))
    with pytest.raises(ValueError, match=r"accumulate=4 .* 3 processes"):
        DataOrder(9, 2, 4, world=3)
    with pytest.raises(ValueError, match="0 examples"):
        DataOrder(0, 2)


def test_seeds_depend_on_every_part():
    seeds = {rng.derive_seed(0, "step", s, m) for s in range(20) for m in range(5)}
    assert len(seeds) == 100
    assert rng.derive_seed(1, 23) != rng.derive_seed(12, 3)


def test_global_generators_come_back():
    import random

    import numpy as np

    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1)  # noqa: NPY002

    rng.seed_globals(3)
    random.gauss(0, 1)  # leaves half a pair behind, which is state too
    tensors, values = rng.capture()
    values = json.loads(json.dumps(values))  # as a checkpoint keeps it
    first = draws()
    draws()
    rng.restore(tensors, values)
    assert draws() == first


def test_ema_is_the_weighted_mean_of_the_weights_it_saw():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 2.0)
    ema = EMA(module, decay=0.9)
    expected = 2.0
    for update, value in enumerate([5.0, -1.0, 3.0]):
        nn.init.constant_(module.weight, value)
        ema.update(update)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    assert ema.average["weight"].item() == pytest.approx(expected)
    assert ema.decay_at(10**6) == 0.9
    with ema.swapped_in():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == 3.0


def test_learning_rate_warms_up_then_falls_along_a_cosine():
    config = TrainConfig(steps=110, warmup=10, lr=1.0, final_lr_ratio=0.2)
    rates = [learning_rate(step, config) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[60] == pytest.approx(0.6)
    assert learning_rate(110, config) == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_weight_decay_reaches_matrices_only():
    module = nn.Linear(3, 3)
    optimizer = build_optimizer(list(module.parameters()), TrainConfig(weight_decay=0.5, lr=0.1))
    before = [p.detach().clone() for p in (module.weight, module.bias)]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(module.weight.data, before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(module.bias.data, before[1])


def checkpoint(directory, steps, best=None, keep=2):
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(step, {"x": torch.full((4,), float(step))}, {"n": step}, best)
    return checkpoints


def test_the_last_and_the_best_are_kept(tmp_path):
    assert checkpoint(tmp_path, [1, 2, 3, 4, 5], best=2).steps() == [2, 4, 5]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["cut", "flip", "json", "gone", "manifest", "empty"])
def test_a_torn_checkpoint_is_passed_over_and_told(tmp_path, damage):
    checkpoints = checkpoint(tmp_path, [1, 2])
    folder = checkpoints.path(2)
    data = (folder / "state.safetensors").read_bytes()
    if damage == "cut":
        (folder / "state.safetensors").write_bytes(data[:-3])
    elif damage == "flip":
        (folder / "state.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "json":
        (folder / "state.json").write_text('{"step": 2,')
    elif damage == "gone":
        (folder / "state.json").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("[" * 100_000)
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    newest = checkpoints.newest()
    assert "step_00000002 cannot be read" in newest.damaged[2]
    x = checkpoints.tensors(newest.step)["x"]
    assert (newest.step, newest.values["n"], float(x[0])) == (1, 1, 1.0)


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    checkpoints = checkpoint(tmp_path, [1])
    shutil.copytree(checkpoints.path(1), tmp_path / ".step_00000002.99.tmp")
    assert checkpoints.newest().step == 1
    assert clear_leftovers(tmp_path) == [tmp_path / ".step_00000002.99.tmp"]
    assert checkpoints.steps() == [1]
    assert Checkpoints(tmp_path / "nothing").newest().values is None


def test_the_log_is_cut_back_to_the_resumed_step(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write("train", step, {"loss": 1 / step})
    log.write("validate", 2, {"nll": math.pi})
    (tmp_path / "log.jsonl").open("a").write('{"kind": "tra')  # torn by a kill
    RunLog(tmp_path, step=2, events_done=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 1), ("train", 2)]
