"""A run survives a kill at any file operation and any flipped bit, and never keeps what is not finite."""

import os
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_world import LineTask, small_config, weights

from mmprime.training import saving
from mmprime.training.checkpoint import Checkpoints
from mmprime.training.run_folder import RunBusy, locked
from mmprime.training.trainer import NonFiniteLoss, Trainer

OPERATIONS = ("replace", "rename", "mkdir", "rmdir", "unlink", "fsync")
STEPS = 3


class Killed(BaseException):
    """What no ``except Exception`` stops."""


def dying(monkeypatch, at):
    """Every operation that changes the disk from number ``at`` on raises Killed; returns the list of those done."""
    done = []

    def wrap(name, real):
        def operation(*arguments, **options):
            if len(done) >= at:
                raise Killed
            done.append(name)
            return real(*arguments, **options)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))

    def save_half(tensors, path, **options):
        if len(done) + 1 >= at:  # the kill comes while this is written
            path.write_bytes(b"torn")
            done.append("half a file")
            raise Killed
        done.append("save_file")
        real_save(tensors, path, **options)

    real_save = saving.save_file
    monkeypatch.setattr(saving, "save_file", save_half)
    return done


def one_run(directory, keep=1):
    config = small_config(directory, steps=STEPS, save_every=1, keep_last=keep, validate_every=0, samples_every=0)
    task = LineTask()
    trainer = Trainer(task, config)
    began = trainer.at.step
    trainer.run()
    return began, weights(task)


def killed_at(directory, monkeypatch, at):
    """Whether a run that may do ``at`` operations was killed."""
    with monkeypatch.context() as patch:
        dying(patch, at)
        try:
            one_run(directory)
        except Killed:
            return True
    return False


@pytest.mark.slow
def test_a_kill_at_any_file_operation_loses_no_checkpoint(tmp_path, monkeypatch, capsys):
    _, expected = one_run(tmp_path / "straight")
    (tmp_path / "straight/checkpoints").rename(tmp_path / "kept")
    operations, kills = 0, 0
    while True:
        directory = tmp_path / f"killed-{operations}"
        if not killed_at(directory, monkeypatch, operations):
            break
        kills += 1
        stood, logged = Checkpoints(directory / "checkpoints").newest(), (directory / "log.jsonl").exists()
        assert not stood.damaged, "a name that can be read is whole"
        capsys.readouterr()
        began, found = one_run(directory)
        assert began == stood.step
        assert ("no checkpoint was saved yet" in capsys.readouterr().out) == (logged and began == 0)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert [path.name for path in (directory / "checkpoints").iterdir()] == [f"step_{STEPS:08d}"]
        temporary = [path for path in directory.iterdir() if ".tmp" in path.name]
        assert not temporary, "leftovers are cleared"
        operations += 1
    with capsys.disabled():
        print(f"{kills} kills, one at each file operation")
    assert kills > 30


def test_a_kill_at_any_operation_of_a_save_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    kills = 0
    while True:
        directory, saved = tmp_path / str(kills), 0
        with monkeypatch.context() as patch:
            dying(patch, kills)
            try:
                for step in (1, 2):
                    Checkpoints(directory, 1).save(step, {"x": torch.full((4,), float(step))}, {"n": step})
                    saved = step
                break
            except Killed:
                kills += 1
        stood = Checkpoints(directory, 1).newest()
        assert not stood.damaged
        assert stood.step in (saved, saved + 1)
        if stood.step:
            x = Checkpoints(directory, 1).tensors(stood.step)["x"]
            assert (stood.values["n"], float(x[0])) == (stood.step, stood.step)
        Checkpoints(directory, 1).save(4, {"x": torch.zeros(4)}, {"n": 4})
        assert Checkpoints(directory, 1).steps() == [4]
    assert kills > 20


def flipped(data, place):
    at, bit = divmod(place, 8)
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


FILES = ("state.json", "manifest.json", "state.safetensors")


@pytest.mark.parametrize(
    ("name", "flips"),
    [(name, 60) for name in FILES] + [pytest.param(name, 1500, marks=pytest.mark.slow) for name in FILES],
)
def test_no_flipped_bit_passes(tmp_path, name, flips):
    chance = random.Random(flips)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    values = {"position": {"step": 30, "best_value": 0.25}, "config": {"train": {"lr": 1e-3}}, "rng": list(range(600))}
    for step in (27, 30):
        checkpoints.save(step, {"x": torch.arange(64.0)}, {**values, "n": step})
    file = checkpoints.path(30) / name
    data = file.read_bytes()
    harmless = 0
    for _ in range(flips):
        file.write_bytes(flipped(data, chance.randrange(8 * len(data))))
        newest = checkpoints.newest()
        if 30 not in newest.damaged:  # only where the manifest reads the same, as with another space or e for E
            assert name == "manifest.json"
            assert newest.values == {**values, "n": 30}
            harmless += 1
            continue
        assert (newest.step, newest.values["n"]) == (27, 27)
        assert "cannot be read" in newest.damaged[30]
    print(f"{name}: {flips} flips, {flips - harmless} told, {harmless} without effect, 0 passed")


def damage(directory, step):
    path = directory / f"checkpoints/step_{step:08d}/state.json"
    path.write_bytes(flipped(path.read_bytes(), 99))


def test_a_damaged_checkpoint_is_told_set_aside_and_the_run_ends_the_same(tmp_path, capsys):
    straight, pieces = LineTask(), LineTask()
    Trainer(straight, small_config(tmp_path / "a")).run()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    damage(tmp_path / "b", 12)
    capsys.readouterr()
    trainer = Trainer(pieces, small_config(tmp_path / "b"))
    assert trainer.at.step == 9
    assert "state.json differs from the recorded size or SHA-256; going back to step 9" in capsys.readouterr().out
    trainer.run()
    assert (tmp_path / "b/checkpoints/damaged-step_00000012").is_dir()
    assert all(torch.equal(value, weights(pieces)[name]) for name, value in weights(straight).items())


def test_remains_without_a_readable_checkpoint_are_refused_and_never_begun_anew_in_silence(tmp_path, capsys):
    Trainer(LineTask(), small_config(tmp_path)).run()
    steps = Checkpoints(tmp_path / "checkpoints").steps()
    for step in steps:
        damage(tmp_path, step)
    log = (tmp_path / "log.jsonl").read_text()
    with pytest.raises(
        ValueError, match=r"no checkpoint that can be read .*; nothing was changed\. .* run\.resume=never"
    ):
        Trainer(LineTask(), small_config(tmp_path))
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="no checkpoint that can be read"):
        Trainer(LineTask(), small_config(tmp_path))
    assert (tmp_path / "log.jsonl").read_text() == log
    again = small_config(tmp_path)
    again.run.resume = "never"
    assert Trainer(LineTask(), again).run().step == 12  # the way out the message names


def test_a_resume_writes_the_loaded_step_no_second_time(tmp_path):
    Trainer(LineTask(), small_config(tmp_path)).run()
    folder = tmp_path / "checkpoints/step_00000012"
    before = [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder, *sorted(folder.iterdir()))]
    Trainer(LineTask(), small_config(tmp_path)).run()
    after = [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder, *sorted(folder.iterdir()))]
    assert before == after


def test_weights_that_became_non_finite_are_never_saved_and_a_lower_rate_is_a_way_out(tmp_path, capsys):
    class Exploding(LineTask):
        """The weights overflow when a step is large, without a loss that says so."""

        def losses(self, indices, generator, step):
            if step == 5 and self.rate > 0.01:
                self.modules["tail"].bias.data[0] = float("inf")
            yield from list(super().losses(indices, generator, step))[:1]

    def trainer(lr):
        task = Exploding()
        task.rate = lr
        return Trainer(task, small_config(tmp_path, lr=lr, save_every=1, validate_every=0))

    with pytest.raises(
        NonFiniteLoss, match=r"step 6: weights are not finite .*finite checkpoint of step 5: lower train"
    ):
        trainer(0.05).run()
    for step in Checkpoints(tmp_path / "checkpoints").steps():
        stored = load_file(tmp_path / f"checkpoints/step_{step:08d}/state.safetensors")
        assert not saving.non_finite({n: t for n, t in stored.items() if not n.startswith("rng/")})
    with pytest.raises(NonFiniteLoss):
        trainer(0.05).run()  # the same again ends the same
    capsys.readouterr()
    assert trainer(0.005).run().step == 12
    assert "train.lr: 0.05 -> 0.005" in capsys.readouterr().out


def test_a_checkpoint_that_allows_no_step_is_set_aside_for_the_one_before(tmp_path):
    class Blown(LineTask):
        """What step 6 leaves is finite, and every loss after it is not, unless the rate is low."""

        def losses(self, indices, generator, step):
            self.poison_step = step if step >= 6 and self.rate > 0.01 else None
            return super().losses(indices, generator, step)

    def trainer(lr):
        task = Blown()
        task.rate = lr
        return Trainer(task, small_config(tmp_path, lr=lr, save_every=3, validate_every=0))

    with pytest.raises(NonFiniteLoss, match=r"step 6 gives it at once, so it is set aside .* checkpoint of step 3"):
        trainer(0.05).run()
    lower = trainer(0.005)
    assert lower.at.step == 3
    assert lower.run().step == 12


def test_leftovers_of_killed_saves_are_cleared_at_start_with_a_line_by_the_holder_of_the_lock(tmp_path, capsys):
    (tmp_path / "checkpoints/.step_00000006.4711.tmp").mkdir(parents=True)
    (tmp_path / "checkpoints/.step_00000006.4711.tmp/state.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / ".model.4711.tmp").mkdir()
    (tmp_path / ".keep").write_text("not ours")
    trainer = Trainer(LineTask(), small_config(tmp_path))
    with locked(tmp_path), pytest.raises(RunBusy):
        trainer.run()
    assert (tmp_path / ".model.4711.tmp").is_dir(), "another process may be writing it"
    trainer.run()
    assert "cleared 2 unfinished files or folders of a killed process" in capsys.readouterr().out
    assert not (tmp_path / ".model.4711.tmp").exists()
    assert not (tmp_path / "checkpoints/.step_00000006.4711.tmp").exists()
    assert (tmp_path / ".keep").exists()


def test_a_run_that_moved_on_after_it_was_read_is_not_trodden_on(tmp_path):
    late = Trainer(LineTask(), small_config(tmp_path))
    Trainer(LineTask(), small_config(tmp_path)).run()
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(RunBusy, match="meanwhile"):
        late.run()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_odd_lines_of_the_log_are_left_out_with_a_line(tmp_path, capsys):
    Trainer(LineTask(), small_config(tmp_path, steps=6)).run()
    log = tmp_path / "log.jsonl"
    kept = log.read_text()
    log.write_bytes(b'[1]\n{"step": null, "kind": "train"}\n\xff\n' + kept.encode())
    Trainer(LineTask(), small_config(tmp_path, steps=6)).run()
    assert log.read_text() == kept
    assert "left out 3 lines" in capsys.readouterr().out


def test_a_whole_checkpoint_of_another_version_is_one_line(tmp_path):
    Checkpoints(tmp_path / "checkpoints").save(3, {"x": torch.zeros(2)}, {"position": {}})
    with pytest.raises(ValueError, match=r"step_00000003: it is of another version \(KeyError\('config'\)\)"):
        Trainer(LineTask(), small_config(tmp_path))
