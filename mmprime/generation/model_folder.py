"""What a model folder says beside the weights, and its tokenizers: whether they are those it was trained with.

    config.json         canvas, model and the entries of `ModelCard`        model.safetensors        weights, or
    adapter_model.safetensors, adapter_config.json                          adapters of a checkpoint that lies elsewhere
    text_tokenizer/     image_tokenizer/                                    generation_config.json   how it is sampled
    README.md           the model card for people                           training.json            its training

A model only knows codes by their numbers, so another tokenizer of as many codes would turn them into noise without a
complaint. config.json records the fingerprints; a folder without them is compared with the codes it was trained on,
where these are at hand. A folder may name tokenizers outside of itself (`"tokenizers": {"text": "../bpe"}`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmprime.engine import MASKINGS, Canvas
from mmprime.io import read_json, read_text

from .defaults import read_sampling
from .prompts import collect_words
from .sampling import SamplingConfig

if TYPE_CHECKING:
    from mmprime.tokenizers import ImageTokenizerBase, TextTokenizer

PAGE, TRAINING = "README.md", "training.json"
_FORMER = {"masking": "law", "level_powers": "place_powers"}  # keys of older folders


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model. masking: the process of its bounds; trained_on: those it was trained on (empty: this
    one); level_powers: of its schedule, one for each digit level (empty: one schedule). words: of its training captions
    (empty if not recorded); classes: their names (may be empty); labels: "vendors" where they say who drew a picture.
    data: the folder of its data; weights: the hash of their file. sampling: how to sample each span (empty: the
    defaults of the masking process). codecs, training_data: where its digits and its data come from, as config.json has
    them; base: the network of another library it began as; checkpoint: that network's format, name and sha256, as
    `mmprime.models.retrofit.base` has them; adapter: the folder holds adapters of it. training: what training.json
    says; page: the README.md of the folder; name: of the folder.
    """

    masking: str = "nested"
    trained_on: tuple[str, ...] = ()
    level_powers: tuple[float, ...] = ()
    words: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()
    labels: str = ""
    data: Path | None = None
    weights: str = ""
    sampling: Mapping[str, SamplingConfig] = field(default_factory=dict)
    codecs: Mapping[str, Any] = field(default_factory=dict)
    training_data: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    adapter: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    page: str = ""
    name: str = ""

    def entries(self) -> dict[str, Any]:
        """What config.json says of it; the folder of the data is left out, as it lies elsewhere."""
        known = {
            "masking": self.masking, "trained_on": list(self.trained_on), "level_powers": list(self.level_powers),
            "codecs": dict(self.codecs), "training_data": dict(self.training_data), "base": self.base,
            "checkpoint": dict(self.checkpoint),
            "words": sorted(self.words), "classes": list(self.classes), "labels": self.labels,
        }  # fmt: skip
        return {name: value for name, value in known.items() if value}


def read_card(directory: Path, config: dict[str, Any], canvas: Canvas) -> ModelCard:
    """From the files of a folder. Raises ValueError naming the file and the entry that is of another kind."""
    entries = {key: config[old] for key, old in _FORMER.items() if old in config} | config
    _check(directory / "config.json", entries)
    data = directory / entries["data"] if entries.get("data") else None
    masking, powers = entries.get("masking", "nested"), tuple(entries.get("level_powers", ()))
    training, page = directory / TRAINING, directory / PAGE
    return ModelCard(
        masking=masking,
        trained_on=tuple(entries.get("trained_on", ())) or (masking,),
        level_powers=powers,
        words=_training_words(entries, data),
        classes=tuple(entries.get("classes", ())),
        labels=entries.get("labels", ""),
        data=data,
        weights=entries["weights_sha256"],
        sampling=read_sampling(directory, canvas, masking, powers),
        codecs=entries.get("codecs", {}),
        training_data=entries.get("training_data") or describe_data(data),
        base=entries.get("base", ""),
        checkpoint=entries.get("adapter_of", entries.get("checkpoint", {})),
        adapter="adapter_of" in entries,
        training=read_json(training) if training.is_file() else {},
        page=read_text(page) if page.is_file() else "",
        name=directory.resolve().name,
    )


def describe_data(data: Path | None) -> dict[str, Any]:
    """Name, sizes and licences of a data set, as its index has them; {} where it is not at hand or of another kind."""
    from mmprime.data.shards import read_index

    if data is None or not data.exists():
        return {}
    index: dict[str, Any] = {}
    with suppress(ValueError):
        index = read_index(data)
    return {"name": data.resolve().name} | {key: index[key] for key in ("name", "splits", "licences") if key in index}


def describe_all_data(data: Path | None, also: Sequence[Path] = (), split: str = "train") -> dict[str, Any]:
    """What `describe_data` says, of a data set and of those whose `split` was trained on as well; licences by set."""
    parts = [describe_data(path) for path in (data, *also)]
    if len(parts) == 1:
        return parts[0]
    splits = dict(parts[0].get("splits", {}))
    splits[split] = sum(part.get("splits", {}).get(split, 0) for part in parts)
    licences = {
        f"{part['name']}/{key}".rstrip("/"): entry for part in parts for key, entry in part.get("licences", {}).items()
    }
    return {"name": " + ".join(part["name"] for part in parts if part), "splits": splits, "licences": licences}


def load_tokenizers(
    directory: Path, config: dict[str, Any], canvas: Canvas, device: torch.device | str = "cpu"
) -> tuple[TextTokenizer | None, ImageTokenizerBase | None]:
    """Those that config.json names, relative to the directory, for the spans there are.

    Raises ValueError on a file that is missing, and on another tokenizer than that of the training.
    """
    from mmprime.tokenizers import TextTokenizer, load_image_tokenizer

    paths = {name: directory / path for name, path in config.get("tokenizers", {}).items() if canvas.has(name)}
    wanted = recorded_fingerprints(directory, config)
    text = TextTokenizer.load(paths["text"]) if "text" in paths else None
    image = load_image_tokenizer(paths["image"]) if "image" in paths else None
    for name, tokenizer in (("text", text), ("image", image)):
        if tokenizer is not None and wanted.get(name, made := tokenizer.fingerprint()) != made:
            raise ValueError(
                f"the {name} tokenizer at {paths[name]} ({made}) is not the one that the model at {directory} was "
                f"trained with ({wanted[name]}): its codes mean something else"
            )
    return text, None if image is None else image.to(device)


def check_sizes(canvas: Canvas, text: TextTokenizer | None, image: ImageTokenizerBase | None) -> None:
    """Raises ValueError on a tokenizer of another number of codes than its span has."""
    codes = {"text": text and text.vocab_size, "image": None if image is None else image.num_codes}
    for name, count in codes.items():
        if count is not None and count != (wanted := canvas.span(name).codec.num_codes):
            raise ValueError(
                f"the {name} tokenizer has {count} codes, the model {wanted}: not the one it was trained on"
            )


def _check(file: Path, entries: dict[str, Any]) -> None:
    def words(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)

    def names(value: object) -> bool:
        return isinstance(value, dict) and words(list(value.values()))

    def powers(value: object) -> bool:
        return isinstance(value, list) and all(type(each) in (int, float) and 0 < each < math.inf for each in value)

    def entry(value: object) -> bool:
        return isinstance(value, dict)

    checks: dict[str, Callable[[Any], bool]] = {
        "tokenizers": names, "fingerprints": names, "words": words, "classes": words, "level_powers": powers,
        "codecs": entry, "training_data": entry, "checkpoint": entry, "adapter_of": entry,
        "data": lambda value: isinstance(value, str) and "\0" not in value,
        "base": lambda value: isinstance(value, str),
        "masking": lambda value: isinstance(value, str) and value in MASKINGS,
        "trained_on": lambda value: words(value) and set(value) <= set(MASKINGS),
    }  # fmt: skip
    for name, fits in checks.items():
        if name in entries and not fits(entries[name]):
            raise ValueError(f"{file}: {name} cannot be {str(entries[name])[:60]!r}")


def recorded_fingerprints(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Fingerprints of the tokenizers by span: those of config.json, else that of the codes the model was trained on."""
    from mmprime.data.shards import read_index

    fingerprints = dict(config.get("fingerprints", {}))
    data = directory / config["data"] if config.get("data") else None
    if "image" not in fingerprints and data is not None:
        with suppress(ValueError):  # the data is not at hand, damaged or of another kind: the model works without it
            fingerprints["image"] = read_index(data, "codes")["tokenizer_fingerprint"]
    return fingerprints


def _training_words(config: dict[str, Any], data: Path | None) -> frozenset[str]:
    """The words of the training captions: from the config, else from the dataset it names, else none."""
    if "words" in config:
        return frozenset(config["words"])
    if data is None or not (data / "index.json").is_file():
        return frozenset()
    from mmprime.data.codes import CodeDataset

    try:
        return collect_words(CodeDataset.load(data, "train").captions)
    except ValueError:
        return frozenset()
