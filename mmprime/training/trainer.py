"""The Trainer: steps of a Task, with everything a long run needs around them.

    step k (``step``);  then, where due: log · validate and draw samples with averaged weights · checkpoint

Stopped by Ctrl-C, SIGTERM or kill -9 and started again, a run continues to bitwise the same weights: what a step
computes depends on the stored state and on (seed, k, m) only.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from mmprime.io import whole_folder
from mmprime.models.precision import autocast

from . import rng
from .changes import Change
from .checkpoint import Checkpoints, Newest, clear_the_way, find_start
from .config import as_dict
from .data_order import DataOrder
from .distributed import World
from .log import Progress, RunLog, Window, numbers
from .meters import Meter, memory_peak, product_rate
from .optim import learning_rate
from .run_folder import RunFolder, opened
from .saving import BackgroundSaver, non_finite
from .schema import Config
from .sharded import Sharded, parallelized
from .signals import StopRequest
from .state import Position, RunState
from .step import NonFiniteLoss, Stepper
from .task import Task


@dataclass(frozen=True)
class Outcome:
    """How :meth:`Trainer.run` ended: stopped before its time by a ``signal`` of this number or, where that is None, by
    ``run.time_limit``; or else at the last step."""

    step: int
    metrics: dict[str, float]
    stopped: bool = False
    signal: int | None = None


class Trainer:
    """Trains ``task`` as ``config`` says, in ``config.run.dir``; continues a run that stands there.

    ``folder``: the run's folder, where the caller holds it already; None: :meth:`run` opens it.

    Raises:
        ValueError: micro-batches that cannot be shared out; a run.dir against ``run.resume``; a checkpoint that does
            not fit the task, or data and settings that ``run.allow_changes`` would have to name.
    """

    def __init__(
        self,
        task: Task,
        config: Config,
        world: World | None = None,
        device: torch.device | str = "cpu",
        folder: RunFolder | None = None,
    ) -> None:
        self.task, self.config, self.train = task, config, config.train
        self.world, self.device = world or World(), torch.device(device)
        self.directory = Path(config.run.dir)
        self.order = DataOrder(
            task.num_examples,
            self.train.batch,
            self.train.accumulate,
            config.run.seed,
            self.world.rank,
            self.world.size,
            task.streamed,
        )
        task.world = self.world
        self.world.broadcast(task.modules)
        self.parallel = parallelized(task, config, self.world, self.device)
        self.state = RunState(task, config)
        self.groups, self.optimizers, self.ema = self.state.groups, self.state.optimizers, self.state.ema
        self.stepper = Stepper(self.state, self.parallel, self.order, self.world, self.device, self.directory)
        self.checkpoints = Checkpoints(self.directory / "checkpoints", self.train.keep_last)
        self.saver, self.saving_world = BackgroundSaver(), World()
        if isinstance(self.parallel, Sharded):
            self.saving_world = self.world.apart()
        self.stop = StopRequest(config.run.time_limit)
        self.folder = folder
        self.began = self._resume()
        self.saved = self.at.step  # the step whose checkpoint stands, or is being written

    @property
    def at(self) -> Position:
        """Where the run stands."""
        return self.state.at

    def run(self) -> Outcome:
        """Train to ``train.steps`` or until a signal, which saves a checkpoint first.

        Raises NonFiniteLoss, and RunBusy if another process trains in the same folder.
        """
        with opened(self.config) if self.folder is None else nullcontext(self.folder) as folder:
            if self.world.is_main:
                for line in clear_the_way(self.checkpoints, self.began):
                    print(line)
                self.checkpoints.prune(self.at.best_step)
                folder.describe()
            return self._run()

    def _run(self) -> Outcome:
        main = self.world.is_main
        done = self.at.events_step == self.at.step
        self.log = RunLog(self.directory if main else None, self.at.step, done)
        self.progress = Progress(self.train.steps, self.order.samples_per_step, self.at.step, main)
        self.stepper.meter = Meter(self.task.modules, self.device)
        try:
            with self.stop.listening():
                return self._loop()
        finally:
            self.saver.close()
            self.progress.close()
            self.log.close()

    def to_best(self) -> None:
        """Take weights and position of the best checkpoint. Raises ValueError if none is marked as such."""
        step = self.at.best_step
        if step is None:
            raise ValueError(f"{self.directory}: none is marked as the best; a validation after step 0 marks one")
        values = self.checkpoints.load(step)
        self.state.restore((self.checkpoints.tensors(step, self.state.layout), values))

    def export(self, directory: Path) -> None:
        """Write the task's model directory from the averaged weights, and ``training.json``: where they come from."""
        with self._averaged():
            if self.world.is_main:
                self._export(directory)
        self.world.barrier()

    def _export(self, directory: Path) -> None:
        origin = {
            "step": self.at.step,
            "samples": self.at.step * self.order.samples_per_step,
            "metrics": self.at.metrics,
            "fingerprint": self.state.fingerprint(),
            "config": as_dict(self.config),
        }
        with whole_folder(directory) as folder:
            (folder / "training.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
            self.task.export(folder)

    def _loop(self) -> Outcome:
        began = self.at.step
        while True:
            improved = self.at.events_step < self.at.step and self._events()
            if self._save_due(improved):
                self.save()
            if self.at.step >= self.train.steps:
                self.saver.wait()
                return Outcome(self.at.step, self.at.metrics)
            stopped = self._step()
            self.progress.advance()
            if self.at.step % self.train.log_every == 0:
                self._log()
            elif self.at.step == began + 1:
                self._tell(self.state.window.means())
            if stopped:
                return self._stopped()

    def _stopped(self) -> Outcome:
        path = self.save()
        self.saver.wait()
        why = "" if self.stop.signal else f" after run.time_limit={self.config.run.time_limit:g} minutes"
        self.progress.say(f"stopped at step {self.at.step}{why}; saved {path}; the same command continues")
        numbers = [number for number in self.world.gather(self.stop.signal) if number]
        return Outcome(self.at.step, self.at.metrics, True, max(numbers, default=None))

    def _step(self) -> bool:
        """One optimizer step; True if any process is to stop."""
        self.saver.check()
        try:
            return self.stepper(self.stop)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"step {self.at.step}: {error}; {self._way_out()}") from error

    def _way_out(self) -> str:
        """Where the next start goes on. A checkpoint that allows no step is set aside if there is another."""
        self.saver.wait()
        return self.world.from_main(self._find_way_out)

    def _find_way_out(self) -> str:
        steps, aside = self.checkpoints.steps(), ""
        if len(steps) > 1 and steps[-1] == self.at.step:
            aside = f"the checkpoint of step {steps.pop()} gives it at once, so it is set aside as nonfinite-*; "
            self.checkpoints.set_aside(self.at.step, "nonfinite")
        start = f"the next start goes on from the finite checkpoint of step {steps[-1]}" if steps else "none is saved"
        return f"{aside}{start}: lower train.lr or train.grad_clip in the same command, or look at the batch"

    # what happens between steps

    def _log(self) -> None:
        self._merge_windows()
        if not self.world.is_main:
            return
        step, means = self.at.step, self.state.window.means()
        self.state.window = Window()
        rate, lr = self.progress.rate(step), learning_rate(step - 1, self.train)
        counts = {"samples": step * self.order.samples_per_step, "lr": lr}
        self.log.write("train", step, counts | means | self._speeds(rate))
        self._tell(means, f"  lr {lr:.3g}  {rate:.4g} samples/s, {self.progress.left(step)} left")

    def _speeds(self, rate: float) -> dict[str, float]:
        """What ``meters`` has counted since the last line, of this process; rate: samples per second of all."""
        meter, speeds = self.stepper.meter, {"samples_per_second": round(rate, 2)}
        if meter.denoiser is not None:
            speeds["tokens_per_second"] = round(rate * meter.denoiser.canvas.num_tokens, 2)
        speeds["memory_peak_gib"] = round(memory_peak(self.device), 3)
        return speeds | meter.read(self.product_rate())

    def product_rate(self, repeats: int = 8) -> float:
        """FLOP/s of matrix products on the run's device in its precision, measured once."""
        with autocast(self.config.run.precision, self.device):
            half = torch.is_autocast_enabled(self.device.type)
        return product_rate(self.device.type, half, torch.get_num_threads(), repeats)

    def _tell(self, means: dict[str, float], more: str = "") -> None:
        """Losses beside the bar, or as a line where there is none."""
        losses = numbers({name: value for name, value in means.items() if name.startswith("loss/")})
        self.progress.bar.set_postfix_str(losses, refresh=False)
        if self.progress.bar.disable:
            self.progress.say(f"step {self.at.step}/{self.train.steps}  {losses}{more}")

    def _events(self) -> bool:
        """Validation and samples of this step, where due, by all processes; True at a new best."""
        step, improved = self.at.step, False
        if self._due(self.train.validate_every):
            improved = self._validate()
        if step > 0 and self._due(self.train.samples_every):
            with self._averaged():
                self.task.write_samples(self.directory / "samples", step)
        self.at.events_step = step
        return improved

    def _due(self, every: int) -> bool:
        return every > 0 and (self.at.step % every == 0 or self.at.step >= self.train.steps)

    def _validate(self) -> bool:
        began = time.monotonic()
        with self._averaged():
            metrics = self.task.validate(rng.generator_for("cpu", self.config.run.seed, "validate"))
        step, self.at.metrics = self.at.step, metrics
        self.log.write("validate", step, {**metrics, "seconds": round(time.monotonic() - began, 2)})
        self.progress.say(f"step {step}: {self.task.report(metrics, step)}")
        value = metrics[self.task.best_metric]
        if step == 0 or not value < self.at.best_value:
            return False
        self.at.best_step, self.at.best_value = step, value
        return True

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Averaged weights, eval mode, no gradients; the global generators are left as they were."""
        tensors, values = rng.capture()
        with self.parallel.averaged(self.ema), torch.no_grad(), autocast(self.config.run.precision, self.device):
            self.task.modules.eval()
            yield
        self.task.modules.train()
        rng.restore(tensors, values)

    # checkpoints

    def save(self) -> Path:
        """Begin to write the checkpoint of the current step, unless it stands, and return its folder.

        What is written is the state of now; training goes on meanwhile (``saver``). Of weights that all processes hold
        whole, process 0 writes them. Raises NonFiniteLoss, with nothing written, if weights, averages or optimizers are
        not finite.
        """
        self._merge_windows()
        self.saver.wait()
        step, best, world = self.at.step, self.at.best_step, self.saving_world
        path, bad, writes = self.checkpoints.path(step), [], self.world.is_main or world.size > 1
        if step == self.saved:
            if self.world.is_main:
                self.checkpoints.note(step, best)
            return path
        if writes:
            tensors, values = self.state.collect()
            bad = non_finite(tensors)
        if self.world.sum(torch.tensor([float(len(bad))], device=self.device))[0] > 0:
            which = f" ({bad[0]} and {len(bad) - 1} others)" if bad else ""
            raise NonFiniteLoss(f"step {step}: weights are not finite{which}; not saved; {self._way_out()}")
        self.saved = step
        if writes:
            tensors, values = self.saver.copied(tensors), copy.deepcopy(values)
            self.saver.start(lambda: self.checkpoints.save(step, tensors, values, best, world))
        return path

    def _save_due(self, improved: bool) -> bool:
        last = self.at.step >= self.train.steps
        return self.at.step > 0 and (improved or last or self._due(self.train.save_every))

    def _resume(self) -> Newest:
        mode = self.config.run.resume
        newest, lines = self.world.from_main(lambda: find_start(self.checkpoints, mode, self.directory))
        changes: list[Change] = []
        if newest.values is not None:
            try:
                changes = self.state.changes(newest.values)
                self.state.restore((self.checkpoints.tensors(newest.step, self.state.layout), newest.values))
            except (ValueError, KeyError, TypeError) as error:
                reason = error if isinstance(error, ValueError) else f"it is of another version ({error!r})"
                raise ValueError(f"{self.checkpoints.path(newest.step)}: {reason}") from error
            lines.append(f"resuming {self.directory} at step {newest.step} of {self.train.steps}")
        if changes:
            lines.append("changed since the checkpoint: " + "; ".join(map(str, changes)))
        if self.world.is_main:
            print("".join(f"{line}\n" for line in lines), end="", flush=True)
        else:
            self.state.window = Window()  # process 0 holds the merged one
        return Newest(newest.step, None, newest.damaged)

    def _merge_windows(self) -> None:
        """Process 0 gets the sum of all windows, the others begin anew."""
        if self.world.size > 1:
            parts = self.world.gather(self.state.window.sums)
            self.state.window = Window()
            for part in parts if self.world.is_main else []:
                self.state.window.merge(part)
