"""An index for webdataset tars of pictures that others have written, so that they are streamed and verified as ours.

The tars stay as they are, `.tar`, `.tar.gz` or `.tar.xz`; what they hold is counted and hashed once, by `index_tars`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmprime.io import bar, sha256, write_json

from .building import count_splits
from .folders import display_name, few, list_folder
from .images import known_image
from .picture_folder import SPLITS
from .shards import FORMAT, INDEX, SHARD, read_shard


def index_tars(folder: str | Path, progress: bool = False) -> dict[str, Any]:
    """Write and return the index of a folder of tars; the split is the first word of a name, else train.

    Raises ValueError where an index stands already, for a tar that cannot be read, and for a sample without a picture.
    """
    root = Path(folder)
    if (root / INDEX).exists():
        raise ValueError(f"{root / INDEX} is there already; remove it first to index the tars again")
    names = [name for name in list_folder(root, (".tar", ".gz", ".xz")).files if ".tar" in name.lower()]
    if odd := [name for name in names if not SHARD.fullmatch(name)]:
        raise ValueError(
            f"{display_name(root)}: tars to be indexed lie in the folder itself and are called NAME.tar (.gz, .xz), "
            f"NAME of letters, digits, '-' and '_'; rename {few(odd)}"
        )
    if not names:
        raise ValueError(f"{display_name(root)} holds no tars")
    shards = []
    for name in bar(names, "tars", "tar", progress):
        word = re.split(r"[-_.]", name.lower())[0]
        entry: dict[str, Any] = {"file": name, "bytes": (root / name).stat().st_size, "sha256": sha256(root / name)}
        keys = set()
        for key, files in read_shard(root, {**entry, "entries": None}):
            known_image(files, f"{name}: {key}")
            keys.add(key)
            entry["entries"] = entry.get("entries", 0) + 1
        if len(keys) != entry.get("entries", 0):
            raise ValueError(f"{name}: {entry['entries'] - len(keys)} keys come twice")
        shards.append({**entry, "examples": len(keys), "split": SPLITS.get(word, "train"), "unit": name.split(".")[0]})
    index = {"format": FORMAT, "kind": "images", "name": root.resolve().name, "splits": count_splits(shards)}
    write_json(root / INDEX, {**index, "shards": shards})
    return {**index, "shards": shards}
