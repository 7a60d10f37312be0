"""Model folders by name: read from the Hugging Face Hub and pushed to it, by the mixin of huggingface_hub.

What cannot be had, without a network too, is one sentence. Only JSON, safetensors and text are fetched, and a folder
that comes from the hub may not name files outside of itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard as Page
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)  # fmt: skip

from mmprime.io import read_json

from .model_folder import PAGE, load_tokenizers, read_card
from .model_page import model_page
from .requests import ModelRequests
from .saving import write_model_folder

_FETCH_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")
_CLIENTS = ("httpx", "httpx2", "requests")  # whose errors huggingface_hub passes on, by its version
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.bpe", PAGE)


class HubModel(ModelRequests, ModelHubMixin, library_name="mmprime"):
    """A pipeline that is read from a folder or a name on the hub, saved as a folder, and pushed."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """The model in a folder, or of a name such as "user/model" on the hub.

        options: device ("cpu"), and those of `huggingface_hub.ModelHubMixin`: revision, token, cache_dir,
        force_download, local_files_only. Raises ValueError naming the file that is missing or does not fit, and in one
        sentence what the hub refuses.
        """
        name = str(pretrained_model_name_or_path)
        if _is_path(name):
            return cls._from_pretrained(model_id=name, **options)
        with in_one_sentence(name):
            return super().from_pretrained(name, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, device: torch.device | str = "cpu", **options: Any) -> Any:
        from mmprime.models import load_model
        from mmprime.models.device import find_device

        folder, remote = find_folder(model_id, **options), not _is_path(model_id)
        device = find_device(device)
        model, canvas, config = load_model(folder, device)
        card = read_card(folder, config, canvas)
        card = replace(card, name=model_id) if remote else card
        return cls(model, canvas, *load_tokenizers(folder, config, canvas, device), card)

    def _save_pretrained(self, save_directory: Path) -> None:
        tokenizers = (self.text_tokenizer, self.image_tokenizer)
        write_model_folder(save_directory, self.model, self.canvas, self.card, self.sampling, tokenizers)

    def generate_model_card(self, *_: Any, **__: Any) -> Page:
        """README.md of the folder it was read from, else one made of what is known."""
        parameters = sum(weight.numel() for weight in self.model.parameters())
        return Page(self.card.page or model_page(self.card, self.canvas, parameters))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push the folder of `save_pretrained` to a name on the hub; returns the address of the commit.

        options: those of `huggingface_hub.ModelHubMixin.push_to_hub`. Raises ValueError in one sentence on what the hub
        refuses.
        """
        with in_one_sentence(repo_id):
            return str(super().push_to_hub(repo_id, **options))


def find_folder(name: str, **options: Any) -> Path:
    """The folder of a model: the path itself, or what the hub has under the name; the options are those of a fetch.

    Raises ValueError where the path holds no model, and in one sentence what the hub refuses.
    """
    folder = Path(name)
    if not _is_path(name):
        asked = {key: options[key] for key in _FETCH_OPTIONS if options.get(key) is not None}
        with in_one_sentence(name):
            folder = Path(snapshot_download(name, allow_patterns=list(FETCHED), **asked))
        _refuse_outside(name, folder)
        return folder
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name}: there is no model folder here (a config.json beside model.safetensors)")
    return folder


def _refuse_outside(name: str, folder: Path) -> None:
    """Raises ValueError where a folder from the hub takes a tokenizer from elsewhere."""
    config = folder / "config.json"
    paths = read_json(config).get("tokenizers", {}) if config.is_file() else {}
    for path in paths.values() if isinstance(paths, dict) else ():
        if os.path.normpath(path).startswith(("..", "/")):
            raise ValueError(f"{name}: its tokenizer {path!r} lies outside; push what save_pretrained writes")


def _is_path(name: str) -> bool:
    return Path(name).is_dir() or Path(name).is_absolute() or name.count("/") > 1 or name.startswith(".")


@contextmanager
def in_one_sentence(name: str) -> Iterator[None]:
    """What goes wrong between here and the hub, as a ValueError of one sentence that says what can be done."""
    unreached = f"{name}: the hub cannot be reached; connect to the network, or give the path of a model folder"
    try:
        yield
    except HFValidationError:
        sentence = f"{name!r} is no folder here and no name on the hub; give a path, or user/model"
    except GatedRepoError:
        sentence = f"{name}: ask for access on its page of the hub, then log in: hf auth login"
    except RevisionNotFoundError:
        sentence = f"{name}: the hub has no such revision of it; leave out revision"
    except RepositoryNotFoundError:
        sentence = f"the hub has no model {name}, or it is private: hf auth login, or give a path"
    except (LocalEntryNotFoundError, ConnectionError):
        sentence = unreached
    except HfHubHTTPError as error:
        refused = error.response is not None and error.response.status_code in (401, 403)
        login = "; log in as one who may: hf auth login" if refused else ""
        sentence = f"{name}: the hub answers: {str(error).splitlines()[0]}{login}"
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _CLIENTS:
            raise
        sentence = unreached
    else:
        return
    raise ValueError(sentence)
