import errno
import json
import signal
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_world import LineTask, small_config, weights

from mmprime.training import saving
from mmprime.training.checkpoint import Checkpoints
from mmprime.training.run_folder import RunBusy, locked
from mmprime.training.saving import BackgroundSaver
from mmprime.training.trainer import NonFiniteLoss, Trainer

TIMED = ("samples_per_second", "tokens_per_second", "mfu", "memory_peak_gib", "seconds")


def entries(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    for line in lines:
        for name in [name for name in line if name.startswith("time/") or name in TIMED]:
            del line[name]
    return lines


def run_in_pieces(directory: Path, stops: list[int]) -> tuple[LineTask, list[dict]]:
    """Train with a stop asked for during each of the steps ``stops``; then to the end."""
    for stop in [*stops, None]:
        task = LineTask()
        trainer = Trainer(task, small_config(directory))
        losses = task.losses

        def interrupting(indices, generator, step, losses=losses, stop=stop, trainer=trainer):
            if step == stop:
                trainer.stop.signal = signal.SIGTERM
            return losses(indices, generator, step)

        task.losses = interrupting
        outcome = trainer.run()
        assert outcome.signal == (None if stop is None else signal.SIGTERM)
        assert outcome.step == (12 if stop is None else stop + 1)
    return task, entries(directory)


def test_stop_and_resume_is_bitwise_the_same_run_and_log(tmp_path):
    straight, straight_log = run_in_pieces(tmp_path / "a", [])
    pieces, pieces_log = run_in_pieces(tmp_path / "b", [1, 3, 8])
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(pieces)[name]), name
    assert straight_log == pieces_log
    one = load_file(tmp_path / "a/checkpoints/step_00000012/state.safetensors")
    two = load_file(tmp_path / "b/checkpoints/step_00000012/state.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_time_limit_saves_and_says_so_and_the_run_goes_on(tmp_path, capsys):
    config = small_config(tmp_path / "a")
    config.run.time_limit = 1e-6  # minutes since this process began
    for step in (1, 2):
        outcome = Trainer(LineTask(), config).run()
        assert (outcome.step, outcome.stopped, outcome.signal) == (step, True, None)
        assert f"stopped at step {step} after run.time_limit=1e-06 minutes; saved" in capsys.readouterr().out
    task = LineTask()
    assert not Trainer(task, small_config(tmp_path / "a")).run().stopped
    straight, log = run_in_pieces(tmp_path / "b", [])
    assert all(torch.equal(value, weights(task)[name]) for name, value in weights(straight).items())
    assert entries(tmp_path / "a") == log


def test_a_save_holds_the_state_of_its_step_though_training_goes_on(tmp_path, monkeypatch):
    """Each save begins to write only when the run asks for the next one, three steps later."""
    wait, held = BackgroundSaver.wait, []

    def later(saver, write):
        saver.wait()
        held.append(threading.Event())
        saver._under_way = saver._pool.submit(lambda: (held[-1].wait(60), write()))

    monkeypatch.setattr(BackgroundSaver, "start", later)
    monkeypatch.setattr(BackgroundSaver, "wait", lambda saver: (held and held[-1].set(), wait(saver)))
    Trainer(LineTask(), small_config(tmp_path / "a", keep_last=9)).run()
    monkeypatch.undo()
    Trainer(LineTask(), small_config(tmp_path / "b", keep_last=9)).run()
    assert len(held) >= 4
    for step in Checkpoints(tmp_path / "a/checkpoints").steps():
        one, two = (Checkpoints(tmp_path / run / "checkpoints").tensors(step) for run in "ab")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one), step


def test_a_save_that_fails_ends_the_run(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = Trainer(LineTask(), small_config(tmp_path))
    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.run()
    assert trainer.at.step < 12
    assert not Checkpoints(tmp_path / "checkpoints").has_remains()


def test_a_kill_between_checkpoints_repeats_the_lost_steps_and_cuts_the_log(tmp_path):
    straight, straight_log = run_in_pieces(tmp_path / "a", [])

    class Killed(Exception):
        pass

    task = LineTask()
    losses = task.losses

    def dying(indices, generator, step):
        if step == 8:
            raise Killed
        return losses(indices, generator, step)

    task.losses = dying
    with pytest.raises(Killed):
        Trainer(task, small_config(tmp_path / "b")).run()
    again = LineTask()
    trainer = Trainer(again, small_config(tmp_path / "b"))
    assert trainer.at.step == 8  # saved as a new best; step 6 by the clock
    trainer.run()
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(straight).items())
    assert entries(tmp_path / "b") == straight_log


def test_accumulated_halves_equal_two_processes_share(tmp_path):
    """What two processes compute, summed by hand, is what one process computes."""
    whole = Trainer(LineTask(), small_config(tmp_path / "a", accumulate=2))
    whole._step()
    total = [torch.zeros_like(p) for p in whole.task.modules.parameters()]
    for rank in (0, 1):
        trainer = Trainer(LineTask(), small_config(tmp_path / "b", accumulate=2))
        trainer.order.rank, trainer.order.world = rank, 2
        for micro in trainer.order.own_micro_batches():
            trainer.stepper._backward(micro)
        total = [a + p.grad for a, p in zip(total, trainer.task.modules.parameters())]
    for ours, parameter in zip(total, whole.task.modules.parameters()):
        factor = parameter.grad.norm() / ours.norm()  # the whole step was clipped
        torch.testing.assert_close(parameter.grad, ours * factor, rtol=1e-4, atol=1e-6)


def test_accumulated_micro_batches_equal_one_large_batch(tmp_path):
    class Quiet(LineTask):
        """Without noise, whose draws depend on the micro-batch."""

        def losses(self, indices, generator, step):
            out = self.modules["tail"](self.modules["head"](self.x[indices]))
            yield "head", ((out - self.y[indices]) ** 2).mean(), {}
            yield "tail", (self.modules["tail"](self.x[indices, :3]) ** 2).mean(), {}

    runs = []
    for batch, accumulate in ((8, 1), (2, 4)):
        task = Quiet()
        Trainer(task, small_config(tmp_path / str(batch), batch=batch, accumulate=accumulate)).run()
        runs.append((weights(task), entries(tmp_path / str(batch))))
    for name, value in runs[0][0].items():
        torch.testing.assert_close(runs[1][0][name], value, rtol=1e-4, atol=1e-5)
    for large, small in zip(*(log for _, log in runs)):
        assert large["step"] == small["step"]
        for name in large.keys() - {"kind", "lr", "samples", "step"}:
            assert large[name] == pytest.approx(small[name], rel=1e-3), name


def test_each_loss_reaches_its_own_group_only(tmp_path):
    task = LineTask()
    trainer = Trainer(task, small_config(tmp_path, grad_clip=0.0))
    trainer.stepper._backward(0)
    together = task.modules["head"].weight.grad.clone()
    alone = LineTask()
    alone.parameter_groups = lambda: {"head": list(alone.modules["head"].parameters())}
    losses = alone.losses
    alone.losses = lambda *arguments: iter([next(losses(*arguments))])
    other = Trainer(alone, small_config(tmp_path, grad_clip=0.0))
    other.stepper._backward(0)
    assert torch.equal(together, alone.modules["head"].weight.grad)
    assert task.modules["tail"].weight.grad.abs().sum() > 0


def test_non_finite_loss_stops_before_the_step_and_saves_the_batch(tmp_path):
    task = LineTask(poison_step=5)
    trainer = Trainer(task, small_config(tmp_path))
    with pytest.raises(NonFiniteLoss, match="nonfinite_step5"):
        trainer.run()
    assert all(torch.isfinite(value).all() for value in weights(task).values())
    saved = load_file(tmp_path / "nonfinite_step5_rank0.safetensors")
    assert torch.equal(saved["indices"], trainer.order.indices(5))
    assert torch.equal(saved["x"], task.x[saved["indices"]])
    assert Trainer(LineTask(), small_config(tmp_path)).at.step == 4  # the last checkpoint stands


def test_two_runs_in_one_folder_are_refused(tmp_path):
    trainer = Trainer(LineTask(), small_config(tmp_path))
    with locked(tmp_path), pytest.raises(RunBusy, match="another process"):
        trainer.run()
    assert not (tmp_path / "log.jsonl").exists()
    assert trainer.run().step == 12  # free again


def test_resume_modes(tmp_path):
    config = small_config(tmp_path)
    config.run.resume = "must"
    with pytest.raises(ValueError, match="no readable checkpoint"):
        Trainer(LineTask(), config)
    Trainer(LineTask(), small_config(tmp_path)).run()
    config.run.resume = "never"
    with pytest.raises(ValueError, match="holds a run at step 12"):
        Trainer(LineTask(), config)


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    Trainer(LineTask(), small_config(tmp_path)).run()
    other = LineTask()
    other.name = "curve"
    with pytest.raises(ValueError, match=r"task \(content\): line -> curve"):
        Trainer(other, small_config(tmp_path))


def test_validation_improves_and_best_is_kept(tmp_path):
    trainer = Trainer(LineTask(), small_config(tmp_path))
    outcome = trainer.run()
    validations = [e for e in entries(tmp_path) if e["kind"] == "validate"]
    assert [e["step"] for e in validations] == [0, 4, 8, 12]
    assert validations[-1]["error"] < validations[0]["error"]
    assert outcome.metrics["error"] == min(e["error"] for e in validations)
    assert trainer.at.best_step in trainer.checkpoints.steps()
    assert (tmp_path / "samples/6.txt").exists()


def test_a_learning_rate_of_no_group_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train\.lr_scale\.tial: this task has the groups head, tail; nearest: tail"):
        Trainer(LineTask(), small_config(tmp_path, lr_scale={"tial": 0.5}))


def test_muon_without_hidden_matrices_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train\.optimizer=muon: a line has no hidden matrices"):
        Trainer(LineTask(), small_config(tmp_path, optimizer="muon"))
