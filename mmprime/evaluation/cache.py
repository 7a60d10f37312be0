"""What takes long to compute, kept in files whose names hold the hash of all it depends on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from torch import Tensor

from mmprime.io import cache_folder, warn, whole_file


def cached(
    name: str, compute: Callable[[], dict[str, Tensor]], needed: Collection[str], folder: Path | None = None
) -> dict[str, Tensor]:
    """The tensors of NAME.safetensors in the cache; `compute()` where it is not there, or lacks one of `needed`.

    A cache that cannot be read or written costs time, not results: it is a warning.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    path = (folder or cache_folder()) / f"{name}.safetensors"
    if path.is_file():
        try:
            stored = load_file(path)
            if missing := set(needed) - set(stored):
                raise KeyError(min(missing))
            return stored
        except (SafetensorError, KeyError, OSError) as error:
            warn(f"{path} cannot be read ({error}); it is computed again")
    computed = compute()
    try:
        with whole_file(path) as temporary:
            save_file(computed, temporary)
    except (OSError, SafetensorError) as error:
        warn(f"the cache {path.parent} cannot be written ({error}); set MMPRIME_CACHE to a folder that can")
    return computed
