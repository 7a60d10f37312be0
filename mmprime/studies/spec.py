"""A study: the same training and the same evaluation for many cells, so that only what a cell changes differs.

    cell = base × one choice of every axis (or one of the `extra` choices) × seed

A study is a YAML file:

    dir: runs/NAME                      one folder a cell
    results: benchmarks/studies/NAME.json     the table of the cells that are done, see `mmprime.studies.store`
    bases: {NAME: {config: FILE, VALUE: ...}}      a training config each; values fill {VALUE} in the overrides,
                                                   `set: [overrides]` holds for all its cells,
                                                   `evaluate: {...}` overrides what is measured
    seeds: [0, 1, 2]
    axes: {AXIS: {CHOICE: [overrides]}}            overrides of the training config, as of mmprime train
    extra: {CHOICE: [overrides]}                   cells beside the product of the axes
    only: {CHOICE: [bases]}             a choice of `extra` that fits some bases only
    digits_from: {CHOICE: {source: head, share: 0.25}}    cells of `extra` whose digits come from a model trained first
    evaluate: {limit: 256, samples: 4, steps: [1, 4, 16], maskings: [token_synchronous],
               num: 128, sampling_steps: [4, 16], pictures: FOLDER}

What runs a cell is `mmprime.studies.run`, what measures it `mmprime.studies.evaluate`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mmprime.training.renamed import new_name
from mmprime.training.schema import DiffusionConfig

KEYS = {"dir", "results", "bases", "seeds", "axes", "extra", "only", "digits_from", "evaluate"}
_FORMER = {
    "laws": "maskings",
    "finite_laws": "finite",
    "draws": "num",
    "draw_steps": "sampling_steps",
}  # of older files


@dataclass(frozen=True)
class CellEvaluation:
    """How each cell is measured; see `mmprime.evaluation.quantities.Bounds` and `mmprime.evaluation.likelihood.Effort`.

    num: samples at each of `sampling_steps` in the order of the masking trained on; 0 is none. samplers: others that
    sample as many, as on a command line ("confidence unit=token"). pictures: the image dataset that samples of
    image codes are compared with. finite: maskings of T-step bounds beside the one trained on.
    """

    limit: int = 256
    samples: int = 4
    steps: tuple[int, ...] = (1, 4, 16)
    maskings: tuple[str, ...] = ("token_synchronous",)
    finite: tuple[str, ...] = ()
    task: str = ""
    seed: int = 0
    num: int = 0
    sampling_steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    samplers: tuple[str, ...] = ()
    pictures: str = "assets/emoji"


@dataclass(frozen=True)
class DigitsFrom:
    """Digits that a model gives: rounds of training on a share of the cell's steps, then clustering by `source`.

    set: overrides of the first round, beside those of the base; later rounds train as the cell does, with the digits
    of the round before. source: head or confusion, see `mmprime.training.codec_sources`. radices: of the digits.
    Raises ValueError unless the rounds leave steps for the cell itself.
    """

    source: str
    share: float = 0.25
    rounds: int = 1
    set: tuple[str, ...] = ()
    radices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.share * self.rounds < 1:
            raise ValueError(f"digits_from: {self.rounds} rounds of {self.share} of the steps leave none, or are none")


@dataclass(frozen=True)
class Cell:
    """base: a name of the study; choices: by axis; overrides: of the training config, without seed and folder.

    common: the first of the overrides, those of the base. digits_from: what is trained before, for its digits.
    """

    base: str
    config: str
    choices: dict[str, str]
    overrides: tuple[str, ...]
    seed: int
    common: tuple[str, ...] = ()
    digits_from: DigitsFrom | None = None

    @property
    def masking(self) -> str:
        """The masking process the cell trains on."""
        pairs = [(new_name(key), value) for key, _, value in (each.partition("=") for each in self.overrides)]
        named = [value for key, value in pairs if key == "objective.masking"]
        return named[-1] if named else DiffusionConfig().objective.masking

    @property
    def group(self) -> str:
        """The cell's name without its seed: what is averaged over seeds."""
        return "-".join([self.base, *self.choices.values()])

    @property
    def name(self) -> str:
        """A folder name."""
        return f"{self.group}-s{self.seed}"


@dataclass(frozen=True)
class Study:
    """Raises ValueError on unknown keys and on empty parts."""

    directory: Path
    results: Path
    bases: dict[str, dict[str, Any]]
    seeds: list[int]
    axes: dict[str, dict[str, list[str]]]
    extra: dict[str, list[str]] = field(default_factory=dict)
    digits_from: dict[str, DigitsFrom] = field(default_factory=dict)
    only: dict[str, list[str]] = field(default_factory=dict)
    first: str = ""  # the group that others are compared with; empty: the first of the study

    @classmethod
    def load(cls, file: str | Path) -> Study:
        """Read a study's YAML."""
        if not Path(file).is_file():
            raise ValueError(f"no study at {file}")
        try:
            study = cls._read(file, OmegaConf.to_container(OmegaConf.load(file)))
            list(study.cells())
        except (TypeError, AttributeError, KeyError, IndexError, YAMLError, OmegaConfBaseException) as error:
            what = " ".join(str(error).split())
            raise ValueError(
                f"{file}: a part is missing or of another kind ({type(error).__name__}: {what})"
            ) from error
        return study

    @classmethod
    def _read(cls, file: str | Path, given: Any) -> Study:
        if not isinstance(given, dict):
            raise ValueError(f"{file}: a study has the keys {', '.join(sorted(KEYS))}")
        given = _with_evaluate(given)
        if not {"dir", "results", "bases", "seeds"} <= set(given) <= KEYS:
            raise ValueError(f"{file}: a study has the keys {', '.join(sorted(KEYS))}")
        shared = _evaluation(given.get("evaluate") or {}, file)
        axes = {
            str(axis): {str(name): list(values) for name, values in choices.items()}
            for axis, choices in (given.get("axes") or {}).items()
        }
        extra = {str(name): list(values) for name, values in (given.get("extra") or {}).items()}
        bases = {name: _with_evaluate(about) for name, about in given["bases"].items()}
        for about in bases.values():
            about["evaluate"] = {**shared, **_evaluation(about.get("evaluate") or {}, file)}
        digits = {str(name): _digits_from(about, file) for name, about in (given.get("digits_from") or {}).items()}
        only = {str(name): list(named) for name, named in (given.get("only") or {}).items()}
        for key, named in (("digits_from", digits), ("only", only)):
            if odd := sorted(set(named) - set(extra)):
                raise ValueError(f"{file}: {key} names {odd[0]!r}, which is no choice of extra")
        if odd := sorted({base for named in only.values() for base in named} - set(bases)):
            raise ValueError(f"{file}: only names {odd[0]!r}, which is no base")
        directory, results = Path(given["dir"]), Path(given["results"])
        return cls(directory, results, bases, list(given["seeds"]), axes, extra, digits, only)

    def cells(self) -> Iterator[Cell]:
        """All cells, seed by seed, so that a study cut short has whole seeds."""
        for seed in self.seeds:
            for base, about in self.bases.items():
                for choices, overrides in self._choices(base):
                    common, more = (
                        tuple(o.format(**about) for o in part) for part in (about.get("set", []), overrides)
                    )
                    before = self._before(choices, about)
                    yield Cell(base, about["config"], choices, (*common, *more), seed, common, before)

    def _choices(self, base: str) -> Iterator[tuple[dict[str, str], list[str]]]:
        for name, overrides in self.extra.items():
            if base in self.only.get(name, self.bases):
                yield {"extra": name}, overrides
        if not self.axes:
            return
        for combination in itertools.product(*[choices.items() for choices in self.axes.values()]):
            names = dict(zip(self.axes, (name for name, _ in combination)))
            yield names, [each for _, overrides in combination for each in overrides]

    def _before(self, choices: Mapping[str, str], about: Mapping[str, Any]) -> DigitsFrom | None:
        """What a cell's digits come from, its overrides filled in."""
        before = self.digits_from.get(choices.get("extra", ""))
        return before and replace(before, set=tuple(each.format(**about) for each in before.set))

    @property
    def nats(self) -> Path:
        """Where the nats of each example behind the likelihoods lie."""
        return self.results.with_suffix(".safetensors")

    @property
    def seconds(self) -> Path:
        """Where the seconds of training and sampling of each group of cells lie, as one run has measured them."""
        return self.results.with_name(f"{self.results.stem}_seconds.json")

    @property
    def lock(self) -> Path:
        """Processes that run parts of the study write its table in turns."""
        return self.directory / ".results.lock"

    def evaluation(self, base: str) -> CellEvaluation:
        """How cells of a base are measured."""
        return CellEvaluation(**self.bases[base]["evaluate"])


_KIND = {tuple: "a list, [a, b]", int: "a whole number", str: "a text"}


def _with_evaluate(given: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with `evaluate` under that name, which older files call otherwise."""
    return {"evaluate" if key == "judge" else key: value for key, value in given.items()}


def _evaluation(given: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """Fields of `CellEvaluation` as a YAML has them. Raises ValueError on unknown ones."""
    named = {_FORMER.get(name, name): value for name, value in given.items()}
    if odd := sorted(map(str, set(named) - set(CellEvaluation.__dataclass_fields__))):
        raise ValueError(f"{file}: evaluate has no key {odd[0]!r}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in named.items()}
    for name, value in values.items():
        kind = type(CellEvaluation.__dataclass_fields__[name].default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{file}: evaluate.{name}={value!r} must be {_KIND.get(kind, kind.__name__)}")
    return values


def _digits_from(given: Mapping[str, Any], file: str | Path) -> DigitsFrom:
    """Raises ValueError on unknown keys."""
    if odd := sorted(map(str, set(given) - set(DigitsFrom.__dataclass_fields__))):
        raise ValueError(f"{file}: digits_from has no key {odd[0]!r}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return DigitsFrom(**values)
