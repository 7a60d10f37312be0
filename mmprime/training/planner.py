"""How a run would be spread over N devices, and what it would take: memory by part, seconds a step, days.

    step = m (trunk + around) + optimizer / shards + what of the messages computing does not cover

m: micro-batches of a process. Weights are float32, gradients, averages and moments too; FSDP shares all of them out
over N / replicas devices. Messages: DDP adds up all gradients, FSDP gathers all weights twice a micro-batch and adds up
gradients once a step, HSDP also between replicas; of a group on several machines every card sends its share. Gathering
is covered by a micro-batch, adding up by the last backward pass. Validation, samples and checkpoints are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .config import ConfigError
from .hardware import Hardware
from .step_costs import HEAD_NUMBERS, StepCosts

USABLE = 0.9  # of a device's memory
NEAR = 0.15  # a plainer setting is taken that is slower by no more than that


@dataclass(frozen=True)
class Spread:
    """How the examples of a step and the weights lie on the devices; the keys of a config."""

    batch: int
    accumulate: int
    parallel: str = "ddp"
    replicas: int = 1
    checkpointing: str = "none"

    def overrides(self) -> str:
        """As words of a command."""
        words = [f"train.batch={self.batch}", f"train.accumulate={self.accumulate}", f"run.parallel={self.parallel}"]
        words += [f"run.replicas={self.replicas}"] if self.replicas > 1 else []
        return " ".join([*words, f"model.checkpointing={self.checkpointing}"])


@dataclass(frozen=True)
class PlannedStep:
    """memory: bytes of a device by part; seconds: of a step by part; flops of the model, a step and device."""

    spread: Spread
    memory: dict[str, float]
    seconds: dict[str, float]
    flops: float

    @property
    def peak(self) -> float:
        """Bytes of all parts."""
        return sum(self.memory.values())

    @property
    def step(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


class Planner:
    """Steps of the config of `costs` on `devices` devices. Raises ConfigError where they cannot share a step."""

    def __init__(self, costs: StepCosts, hardware: Hardware, devices: int) -> None:
        self.costs, self.hardware, self.devices = costs, hardware, devices
        train = costs.config.train
        self.examples = train.batch * train.accumulate
        if self.examples % devices:
            raise ConfigError(
                f"a step of train.batch={train.batch} times train.accumulate={train.accumulate} examples cannot be "
                f"shared by {devices} devices; set e.g. train.accumulate={-(-train.accumulate // devices) * devices}"
            )

    def configured(self) -> PlannedStep | None:
        """As the config has it; None where its micro-batches cannot be shared out."""
        config = self.costs.config
        train, run = config.train, config.run
        if train.accumulate % self.devices or (run.parallel == "fsdp" and self.devices % run.replicas):
            return None
        parallel, replicas = (run.parallel, run.replicas) if self.devices > 1 else ("ddp", 1)
        checkpointing = self.costs.options.checkpointing
        return self.estimate(Spread(train.batch, train.accumulate, parallel, replicas, checkpointing))

    def chosen(self) -> PlannedStep:
        """The fastest that fits, of near ones the plainest. Raises ConfigError if none fits."""
        estimates = [self.estimate(spread) for spread in self._spreads()]
        fitting = [each for each in estimates if each.peak <= USABLE * self.hardware.memory]
        if not fitting:
            least = min(each.peak for each in estimates) / 1e9
            raise ConfigError(
                f"nothing fits: the least that a device must hold is {least:.0f} GB, and a {self.hardware.name} has "
                f"{self.hardware.memory / 1e9:.0f} GB; take more devices or a smaller model.preset"
            )
        fastest = min(each.step for each in fitting)
        return next(each for each in fitting if each.step <= (1 + NEAR) * fastest)

    def estimate(self, spread: Spread) -> PlannedStep:
        """Of one way to spread the run."""
        costs, micros = self.costs, spread.accumulate // self.devices
        shards = self.devices // spread.replicas if spread.parallel == "fsdp" else 1
        more, end = costs.block(spread.checkpointing)
        growth, wider = spread.batch / more.batch, spread.batch / costs.around.batch
        trunk = costs.depth * self.hardware.seconds(more.ops, growth) + self.hardware.seconds(end.ops, growth)
        around = self.hardware.seconds(costs.around.ops, wider) / costs.repeats
        seconds = {
            "trunk": micros * trunk,
            "embedding, head, loss": micros * around,
            "optimizer": self.hardware.seconds(costs.optimizer()) / shards,
            "messages": self._messages(spread, shards, micros, trunk + around),
        }
        return PlannedStep(spread, self._memory(spread, shards, micros), seconds, micros * spread.batch * costs.flops)

    def _memory(self, spread: Spread, shards: int, micros: int) -> dict[str, float]:
        costs, weights = self.costs, 4.0 * self.costs.count
        muon = 4.0 * costs.muon_count
        more, end = costs.block(spread.checkpointing)
        growth = spread.batch / more.batch
        chunk = min(spread.batch, HEAD_NUMBERS / costs.head_numbers)  # examples of which a head holds what it made
        around = chunk / costs.around.batch * costs.around.peak
        memory = {
            "weights": weights / shards,
            "gradients": weights / shards,
            "optimizer": (2 * (weights - muon) + muon) / shards,
            "averages": weights / shards,
            "activations": growth * costs.depth * more.peak + max(growth * end.peak, around),
        }
        if spread.parallel == "fsdp":
            around_blocks = weights - 4.0 * costs.parameters["trunk"]
            memory["gathered"] = around_blocks + 2 * 4.0 * costs.parameters["trunk"] / costs.depth
            memory["gradients"] += weights if micros > 1 else 0.0  # of all but the last micro-batch they are whole
        return memory

    def _messages(self, spread: Spread, shards: int, micros: int, micro: float) -> float:
        """Seconds of a step in which devices wait for each other."""
        if self.devices == 1:
            return 0.0
        weights, backward = 4.0 * self.costs.count, micro * 2 / 3
        if spread.parallel == "ddp":
            return max(0.0, 2 * self._sent(weights, self.devices) - backward)
        trunk = 4.0 * self.costs.parameters["trunk"]
        gathered = weights - trunk + 2 * trunk * (0.5 if self.costs.half else 1.0)
        summed = self._sent(weights, shards)
        if spread.replicas > 1:
            summed += 2 * weights / shards / self.hardware.network
        return micros * max(0.0, self._sent(gathered, shards) - micro) + max(0.0, summed - backward)

    def _sent(self, size: float, devices: int) -> float:
        """Seconds in which each of so many devices gets so many bytes from the others."""
        size *= (devices - 1) / devices
        inside = size / self.hardware.link
        if devices <= self.hardware.per_node:
            return inside
        return max(inside, size / (self.hardware.per_node * self.hardware.network))

    def _spreads(self) -> Iterator[Spread]:
        """All ways, plainer ones first; the micro-batch of the config before others."""
        examples = self.examples // self.devices
        sizes = sorted((b for b in range(1, examples + 1) if examples % b == 0), reverse=True)
        nodes = self.devices // self.hardware.per_node
        kinds = [("ddp", 1)]
        if self.devices > 1:
            hybrid = nodes > 1 and self.devices % nodes == 0
            kinds += [*([("fsdp", nodes)] if hybrid else []), ("fsdp", 1)]
        for checkpointing in ("none", "selective", "full"):
            for parallel, replicas in kinds:
                for batch in sizes:
                    if parallel == "ddp" or not self.costs.objective.unequal_passes(batch):
                        yield Spread(batch, self.examples // batch, parallel, replicas, checkpointing)
