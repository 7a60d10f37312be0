"""Folders of other people's files: a path, or a name on the Hugging Face Hub, fetched once.

What cannot be had, without a network too, is one sentence. Only JSON, safetensors and text are fetched, and a folder
that comes from the hub may not name files outside of itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)  # fmt: skip

from mmprime.io import is_hub_name, read_json

_FETCH_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")
_CLIENTS = ("httpx", "httpx2", "requests")  # whose errors huggingface_hub passes on, by its version
_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.bpe", "README.md")


def find_folder(name: str, **options: Any) -> Path:
    """The folder of a model: the path itself, or what the hub has under the name; the options are those of a fetch.

    Raises ValueError where the path holds no model, and in one sentence what the hub refuses.
    """
    folder = Path(name)
    if not is_path(name):
        asked = {key: options[key] for key in _FETCH_OPTIONS if options.get(key) is not None}
        with in_one_sentence(name):
            folder = Path(snapshot_download(name, allow_patterns=list(_FETCHED), **asked))
        _refuse_outside(name, folder)
        return folder
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name}: there is no model folder here (a config.json beside model.safetensors)")
    return folder


def fetched(name: str | Path) -> Path:
    """The path itself; for "user/name" that is no path here the folder to which the hub's files are fetched.

    Raises ValueError in one sentence on what the hub refuses.
    """
    return find_folder(str(name)) if is_hub_name(str(name)) else Path(name)


def _refuse_outside(name: str, folder: Path) -> None:
    """Raises ValueError where a folder from the hub takes a tokenizer from elsewhere."""
    config = folder / "config.json"
    paths = read_json(config).get("tokenizers", {}) if config.is_file() else {}
    for path in paths.values() if isinstance(paths, dict) else ():
        if os.path.normpath(path).startswith(("..", "/")):
            raise ValueError(f"{name}: its tokenizer {path!r} lies outside; push what save_pretrained writes")


def is_path(name: str) -> bool:
    """Whether a name can only be that of a folder here."""
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
