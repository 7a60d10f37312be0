"""The model a run starts from, ``model.init``: a folder, or a name on the hub; whether the data fit it, and how.

Its spans and code books must be those of the data, coded by the same tokenizers. Digits, lengths and the names of
classes may be others; a line says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmprime.engine import Canvas, Codec
from mmprime.generation.model_folder import recorded_fingerprints
from mmprime.io import read_json
from mmprime.models import Network, Retrofit, check_codes, load_model
from mmprime.models.folders import find_folder

from .config import ConfigError, resolve
from .corpus import Corpus
from .schema import DataConfig, ModelConfig


@dataclass(frozen=True)
class Pretrained:
    """name: as the config has it; config: its config.json."""

    name: str
    folder: Path
    model: Network
    config: dict[str, Any]

    def codec(self, span: str) -> Codec:
        return self.model.canvas.span(span).codec

    def checkpoint(self, train: str) -> dict[str, Any]:
        """The entry of config.json that adapters of it are written beside; {} where they are to be merged."""
        known = self.config.get("checkpoint", {}) if train == "lora" and isinstance(self.model, Retrofit) else {}
        return dict(known)

    def codec_origins(self) -> dict[str, Any]:
        """By span, how its codecs were made, as config.json has it."""
        return {s.name: self.config.get("codecs", {}).get(s.name, {"kind": "init"}) for s in self.model.canvas.spans}

    def check(self, corpus: Corpus) -> None:
        """Raises ValueError on other spans, code books or tokenizers than those of the data, with the way out."""
        check_codes({s.name: s.codec.num_codes for s in self.model.canvas.spans}, corpus.num_codes)
        recorded = recorded_fingerprints(self.folder, self.config)
        for span, made in corpus.tokenizers.items():
            if recorded.get(span, made) != made:
                raise ValueError(
                    f"its {span} tokenizer ({recorded[span]}) is not that of the data ({made}), so codes mean "
                    f"something else: encode the data with the {span} tokenizer of {self.name}, or leave out init"
                )

    def notices(self, canvas: Canvas, corpus: Corpus, model: Network, train: str) -> list[str]:
        """Lines for the start of a run: what is trained, and what is not as it was."""
        sizes = [weight.numel() for weight in model.parameters()]
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        lines = [f"starting from {self.name}; model.train={train}: {trained:,} of {sum(sizes):,} weights are trained"]
        if unknown := sorted(corpus.tokenizers.keys() - recorded_fingerprints(self.folder, self.config).keys()):
            lines.append(f"{self.name} does not say which tokenizers it was trained with: not compared: {unknown}")
        for new in canvas.spans:
            old = self.model.canvas.span(new.name)
            if old.codec != new.codec:
                lines.append(f"{new.name}: other digits than in {self.name}; their tables are set from its tokens")
            if old.length != new.length:
                lines.append(
                    f"{new.name}: length {new.length}, {old.length} in {self.name}; other positions are new to it"
                )
        classes = self.config.get("classes", [])
        if corpus.num_classes and classes != corpus.classes:
            lines.append(
                f"classes {corpus.classes[:4]} take over those of {self.name}, {classes[:4]}, by their numbers"
            )
        return lines


def take_tokenizer(data: DataConfig, init: str) -> None:
    """Name the text tokenizer of the model to start from, where there is text and ``data.text_tokenizer`` is empty.

    Raises ConfigError for an init that cannot be read.
    """
    if not init or data.text_tokenizer or not data.text_length:
        return
    try:
        folder = find_folder(str(resolve(init)))
        name = read_json(folder / "config.json").get("tokenizers", {}).get("text")
    except ValueError as error:
        raise ConfigError(f"model.init={init}: {error}") from error
    data.text_tokenizer = str(folder / name) if isinstance(name, str) else ""


def read_start(config: ModelConfig, corpus: Corpus | None = None) -> Pretrained | None:
    """What ``config.init`` names, None where it is empty.

    Raises ConfigError for what cannot be read or does not fit the ``corpus``, and for a ``train`` without an init.
    """
    if not config.init:
        if config.train != "all":
            raise ConfigError(f"model.train={config.train} is for a trained model: name one by model.init")
        return None
    try:
        folder = find_folder(str(resolve(config.init)))
        model, _, entries = load_model(folder)
        start = Pretrained(config.init, folder, model, entries)
        if corpus is not None:
            start.check(corpus)
    except ValueError as error:
        raise ConfigError(f"model.init={config.init}: {error}") from error
    return start
