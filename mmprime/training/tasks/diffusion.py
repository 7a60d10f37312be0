"""Masked diffusion over a canvas of text and image spans, as a Task.

Loss of a batch: the mean over examples of (objective in nats) / (tokens scored in that example's mode), by
``objective``; padding after a caption is scored and counted there, so that every position weighs alike. What is
printed is in nats per token: NELBOs under ``objective.masking`` and its level powers, and the loss of each mode. Where
a caption is scored its padding is not counted, and the name says "(text and end)"; see
``mmprime.evaluation.likelihood``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmprime.data.codes import VENDORS
from mmprime.data.storage import is_remote
from mmprime.engine import Canvas, Condition, Rows, masking_of
from mmprime.evaluation.likelihood import Effort, ScoredRows, Sizes, estimate, ratio, uniform_nats
from mmprime.evaluation.quantities import Quantity
from mmprime.evaluation.tasks import EvaluationTask, evaluation_tasks
from mmprime.generation.model_folder import TRAINING, ModelCard, describe_all_data
from mmprime.generation.prompts import collect_words
from mmprime.generation.sampling import SamplingConfig
from mmprime.generation.saving import write_model_folder
from mmprime.io import read_json, sha256
from mmprime.models import Network, without_adapters
from mmprime.tokenizers import load_image_tokenizer

from ..alignment import FeatureAlignment
from ..conditions import Conditions
from ..config import resolve, tokenizer_path
from ..corpus import Corpus, load_corpus, without_validation
from ..examples import Examples
from ..model import build_canvas, build_model, codec_origin
from ..objective import Objective, maskings_of, start_objective
from ..pretrained import Pretrained, read_start, take_tokenizer
from ..samples import SampleWriter, sampling_configs
from ..schema import CodecConfig, DiffusionConfig
from ..streams import StreamedExamples
from ..task import LossTerm, Task

CHUNK = 64  # examples of one validation batch
POWERS_SHARE = 4  # level powers are learned on this part of each micro-batch


class DiffusionTask(Task):
    """Train ``model`` on ``corpus`` over ``canvas``; see the module's head."""

    name = "diffusion"

    def __init__(
        self,
        config: DiffusionConfig,
        corpus: Corpus,
        canvas: Canvas,
        model: Network,
        device: torch.device | str = "cpu",
        start: Pretrained | None = None,
    ) -> None:
        self.config, self.corpus, self.canvas = config, corpus, canvas
        self.device = torch.device(device)
        self.modules: nn.Module = model.to(self.device)
        if config.run.compile:
            model.compile_blocks()
        if not corpus.validation:
            without_validation(config.data, config.train)
        self.conditions = Conditions(canvas, config.conditions)
        self.num_examples, self.streamed = len(corpus.train), isinstance(corpus.train, StreamedExamples)
        self.notices = corpus.notices
        self.train = corpus.train.packed(canvas)
        self.validation = {split: examples.packed(canvas) for split, examples in corpus.validation.items()}
        self.views = evaluation_tasks(canvas)
        self.reaches_all = len(canvas.spans) == 1  # of several, one may have nothing masked in a whole micro-batch
        self.padded = Sizes(text_tokens=corpus.train.text_tokens)
        codecs = config.model.codec
        self.base, self.checkpoint = "", dict[str, Any]()
        self.codecs = {s.name: codec_origin(codecs.get(s.name, CodecConfig()), s.codec) for s in canvas.spans}
        if start is not None:
            self.base = str(start.config.get("base", ""))
            self.checkpoint = start.checkpoint(config.model.train)
            self.notices = [*corpus.notices, *start.notices(canvas, corpus, model, config.model.train)]
            self.codecs |= {name: origin for name, origin in start.codec_origins().items() if name not in codecs}
        self.best_metric = f"{next(iter(corpus.validation), 'none')}/{self._key(self.views[0])}"
        apart = config.conditions.independent_times and len(canvas.spans) > 1
        self.objective = Objective(config.objective, canvas, apart)
        more: dict[str, nn.Module] = {} if self.objective.learned is None else {"powers": self.objective.learned}
        self.alignment = FeatureAlignment.of(config, canvas, model, corpus.train)
        if self.alignment is not None:
            more["align"], self.reaches_all = self.alignment, False
        if more:
            self.modules = nn.ModuleDict({"model": model, **more}).to(self.device)
        self.start_steps, self.start = start_objective(config.objective, canvas, config.train.steps, apart)
        tokenizer = config.data.image_tokenizer
        self.samples = SampleWriter(
            canvas,
            self.sampling(),
            corpus.text_tokenizer,
            tokenizer_path(tokenizer) if tokenizer else None,
        )

    @classmethod
    def from_config(
        cls, config: DiffusionConfig, device: torch.device | str = "cpu", cache: Path | None = None
    ) -> DiffusionTask:
        """Load the data, build codecs and model. Raises ConfigError for what does not fit."""
        take_tokenizer(config.data, config.model.init)
        corpus = load_corpus(config.data, config.run.seed, config.train)
        start = read_start(config.model, corpus)
        canvas = build_canvas(corpus, config.model.codec, config.data.image_tokenizer, cache, start)
        model = build_model(canvas, config.model, corpus.num_classes, start)
        return cls(config, corpus, canvas, model, device, start)

    @property
    def model(self) -> Network:
        """The denoiser among the modules."""
        model = self.modules["model"] if isinstance(self.modules, nn.ModuleDict) else self.modules
        assert isinstance(model, Network)
        return model

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        learned = self.objective.learned
        aligned = () if self.alignment is None else self.alignment.parameters()
        groups = {"model": [p for p in (*self.model.parameters(), *aligned) if p.requires_grad]}
        return groups if learned is None else groups | {"powers": [learned.log_powers]}

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Of the trunk, where it is trained; embeddings, heads, modulation and adapters stay with AdamW."""
        matrices = [(name, p) for name, p in self.model.layers.named_parameters() if p.ndim == 2 and p.requires_grad]
        return [p for name, p in matrices if "modulation" not in name and "lora_" not in name]

    def layers(self) -> list[nn.Module]:
        """The blocks of the trunk."""
        return list(self.model.layers)

    def unequal_passes(self) -> str:
        """Where a kind of objective may get no example of a batch, or powers are learned."""
        if self.objective.learned is not None:
            return f"objective.learned_steps={self.config.objective.learned_steps} needs run.parallel=ddp"
        if self.alignment is not None:
            return f"objective.align={self.config.objective.align:g} needs run.parallel=ddp"
        return self.objective.unequal_passes(self.config.train.batch)

    def losses(self, indices: Tensor, generator: torch.Generator, step: int) -> Iterator[LossTerm]:
        batch = self.train.sample(indices, generator)
        mode = self.conditions.sample(len(batch), generator)
        if self.config.data.phrasings:  # what is written is the caption itself
            batch = batch.first_captions(~self.conditions.prompted[mode])
        cond = self._drop_labels(self._condition(batch), generator)
        given, absent = (m[mode].to(self.device) for m in (self.conditions.given, self.conditions.absent))
        rows = Rows(batch.y(self.canvas).to(self.device), given, absent, cond)
        objective = self.objective if self.start is None or step >= self.start_steps else self.start
        aligned = self.alignment if self.alignment is not None and step < self.alignment.steps else None
        watched: AbstractContextManager[list[Tensor]] = nullcontext([])
        with watched if aligned is None else aligned.watch(self.model) as seen:
            nats = objective(self.model, rows, generator)
        per_position = nats / self.conditions.tokens[mode].to(nats)
        loss, extra = per_position.mean(), {}
        if aligned is not None and batch.features is not None:
            distance = aligned(seen, batch.features.to(self.device), absent)
            loss, extra = loss + aligned.weight * distance, {"align": float(distance.detach())}
        wait = self.train.stream.meter.last() if isinstance(self.train, StreamedExamples) else {}
        yield "model", loss, self._by_mode(nats.detach().cpu(), batch, mode) | wait | extra
        if self.objective.learned is not None:
            part = slice(0, -(-len(rows) // POWERS_SHARE))
            bound = self.objective.powers_loss(self.model, rows[part], generator)
            yield "powers", (bound / self.conditions.tokens[mode][part].to(bound)).mean(), {}

    def validate(self, generator: torch.Generator) -> dict[str, float]:
        """For each split: the NELBO of each view with its standard error, and for the first view also the
        token-synchronous NELBO and the joint loss. Nats per token. Processes share the batches."""
        bound, joint = (Quantity(kind, self.objective.masking) for kind in ("nelbo", "joint_loss"))
        whole = Quantity("nelbo", masking_of("token_synchronous"))
        wanted = [(self._key(view), view, bound) for view in self.views]
        wanted += [("nelbo_token_synchronous", self.views[0], whole), ("joint_loss", self.views[0], joint)]
        seed = int(torch.randint(1 << 62, (), generator=generator))
        parts = [
            (f"{split}/{key}", examples, view, quantity, number)
            for split, examples in self.validation.items()
            for key, view, quantity in wanted
            for number in range(-(-len(examples) // CHUNK))
        ]

        def score(part: int) -> tuple[Tensor, Tensor]:
            _, examples, view, quantity, number = parts[part]
            some = examples.at(torch.arange(number * CHUNK, min((number + 1) * CHUNK, len(examples))))
            rows, sizes = self._rows(some), Sizes(text_tokens=some.text_tokens)
            data = ScoredRows(rows.y, rows.cond, sizes)
            effort = Effort(seed=seed + number, batch=CHUNK)
            estimated = estimate(self.model, self.canvas, data, view, quantity, effort)
            return estimated.nats, estimated.tokens

        scores: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for (name, *_), scored in zip(parts, self.world.share(score, len(parts), "validation")):
            scores.setdefault(name, []).append(scored)
        metrics: dict[str, float] = {}
        for name, batches in scores.items():
            nats, tokens = (torch.cat(each) for each in zip(*batches))
            metrics[name], error = ratio(nats, tokens)
            metrics[f"{name}_se"] = float("nan") if error is None else error
        return metrics

    def report(self, metrics: dict[str, float], step: int) -> str:
        """One line a split; before the first step each NELBO beside that of a model that knows nothing: ln C."""
        lines = []
        for split, examples in self.validation.items():
            parts = []
            for view in self.views:
                key, name = f"{split}/{self._key(view)}", f" of {view.name}{self.padded.counted(view)}"
                text = f"NELBO{name if len(self.canvas.spans) > 1 else ''}"
                text += f" {metrics[key]:.4f} ± {metrics[key + '_se']:.4f}"
                parts.append(text + (f" ({self._untrained(view, examples)})" if step == 0 else ""))
            synchronous = metrics[f"{split}/nelbo_token_synchronous"]
            joint = metrics[f"{split}/joint_loss"]
            parts += [f"token-synchronous NELBO {synchronous:.4f}", f"joint loss (no bound) {joint:.4f}"]
            lines.append(
                f"{'untrained, ' if step == 0 and not self.config.model.init else ''}{split}, nats/token: "
                + "; ".join(parts)
            )
        return "\n".join(lines)

    def write_samples(self, directory: Path, step: int) -> None:
        """``step_N.png`` (images for the captions or labels of held-out examples) and ``step_N.txt``."""
        config = self.config
        examples = next(iter(self.validation.values()), self.train).subset(config.samples.count, config.run.seed + 1)
        captions = examples.captions
        if examples.labels is not None:
            classes = [*self.corpus.classes, "no class"]
            captions = [classes[label] for label in examples.labels.tolist()]
        stem = directory / f"step_{step:08d}"
        writer, rows = replace(self.samples, configs=self.sampling()), self._rows(examples)
        writer.write(self.model, rows, captions, stem, config.run.seed, self.world)

    def sampling(self) -> dict[str, SamplingConfig]:
        """By span, how to sample: as ``samples`` says, else in the order that is trained on; with learned powers on the
        time grid for which they were learned."""
        config = self.config
        if self.objective.learned is not None and not config.samples.sampler:
            schedule = f"levels:{','.join(f'{power:g}' for power in self.objective.level_powers)}"
            steps, options = config.objective.learned_steps, {"schedule": schedule}
            grid = replace(config.samples, sampler="ancestral", options=options, steps=steps)
            config = replace(config, samples=grid)
        return sampling_configs(config, self.canvas)

    def export(self, directory: Path) -> None:
        """The model folder, half precision, with its tokenizers, caption words and class names, and where its data
        lies; adapters alone where they belong to a checkpoint of another library. Its card has the numbers of a
        training.json in the directory."""
        goal, image, several = self.config.objective, self.samples.image, self.corpus.train.alternatives
        captions = [*self.corpus.train.captions, *(several.captions if several else ())]
        training, data = directory / TRAINING, self.config.data
        card = ModelCard(
            masking=goal.masking,
            trained_on=tuple(maskings_of(goal)),
            level_powers=tuple(self.objective.level_powers),
            words=collect_words(captions if self.canvas.has("text") else ()),
            classes=tuple(self.corpus.classes),
            labels=VENDORS if data.labels == VENDORS else "",
            codecs=self.codecs,
            training_data=describe_all_data(resolve(data.path), list(map(resolve, data.also)), data.train_split),
            base=self.base,
            checkpoint=self.checkpoint,
            adapter=bool(self.checkpoint),
            training=read_json(training) if training.is_file() else {},
            name=Path(self.config.run.dir).name,
        )
        tokenizers = (
            self.corpus.text_tokenizer if self.canvas.has("text") else None,
            load_image_tokenizer(image) if image and self.canvas.has("image") else None,
        )
        extra = {"fingerprints": self.corpus.tokenizers, "data": _relative(self.config.data.path, directory)}
        half = torch.float16
        model = self.model if self.checkpoint else without_adapters(self.model)
        write_model_folder(directory, model, self.canvas, card, self.sampling(), tokenizers, half, extra)

    def inspect(self, indices: Tensor) -> dict[str, Tensor]:
        return {"y0": self.train.at(indices).y(self.canvas)}

    def fingerprint(self) -> dict[str, str]:
        codecs = {f"model.codec.{span.name}": span.codec.fingerprint() for span in self.canvas.spans}
        tokenizers = {f"data.{name}_tokenizer": value for name, value in self.corpus.tokenizers.items()}
        features = self.config.data.features
        aligned = {"data.features": sha256(resolve(features))[:16]} if features else {}
        return {"data.path": self.corpus.fingerprint, **tokenizers, **codecs, **aligned}

    def _rows(self, examples: Examples) -> Rows:
        """Packed examples on the device; nothing is given, nothing absent."""
        return Rows.of(self.canvas, examples.y(self.canvas).to(self.device), cond=self._condition(examples))

    def _condition(self, examples: Examples) -> Condition | None:
        return None if examples.labels is None else {"label": examples.labels.to(self.device)}

    def _drop_labels(self, cond: Condition | None, generator: torch.Generator) -> Condition | None:
        if cond is None or not self.config.conditions.label_dropout:
            return cond
        label = cond["label"]
        drop = torch.rand(len(label), generator=generator) < self.config.conditions.label_dropout
        null = self.model.null_condition(cond)["label"]
        return {"label": torch.where(drop.to(label.device), null, label)}

    def _key(self, view: EvaluationTask) -> str:
        """What the NELBO of a view is called in the log; other names where padding is not counted."""
        return "nelbo" if len(self.canvas.spans) == 1 else f"nelbo/{view.name}{self.padded.counted(view)}"

    def _by_mode(self, nats: Tensor, batch: Examples, mode: Tensor) -> dict[str, float]:
        """Loss of each mode that occurs, in nats per token."""
        if len(self.conditions.names) == 1:
            return {}
        sizes = batch.text_tokens
        by_mode = {}
        for number, name in enumerate(self.conditions.names):
            if not (mine := mode == number).any():
                continue
            view = self.conditions.views[number]
            sizes_of_mode = Sizes(text_tokens=None if sizes is None else sizes[mine])
            value, _ = ratio(nats[mine], sizes_of_mode.tokens(view, self.canvas, int(mine.sum())))
            by_mode[f"{self.objective.name}/{name}{sizes_of_mode.counted(view)}"] = value
        return by_mode

    def _untrained(self, view: EvaluationTask, examples: Examples) -> str:
        """The NELBO of a model that knows nothing, in words: ln C, for every position of a row."""
        sizes = Sizes(text_tokens=examples.text_tokens)
        tokens = sizes.tokens(view, self.canvas, len(examples)).double().mean()
        where = ", padding included" if sizes.counted(view) else ""
        return f"ln C{where} = {uniform_nats(self.canvas, view) / float(tokens):.4f}"


def _relative(path: str, directory: Path) -> str:
    return path if is_remote(path) else Path(os.path.relpath(resolve(path), directory)).as_posix()
