"""Pictures as they come: in folders (`picture_folder`), or inside uncompressed tars, where they are read in place.

A tar holds KEY.jpg (or another ending of a picture) and perhaps KEY.txt (a caption), KEY.cls (the number of its class),
KEY.json (label, caption), as webdataset writes them. Without class numbers the class is the folder in the tar, else the
name of the tar itself (ImageNet: n01440764.tar), unless tars are numbered (train-000017.tar). The split is the folder
above the tar, or the first word of its name, where that is one (train, val, test, …).
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmprime.io import parse_json

from .folders import PICTURES, LeftOut, display_name, few, list_folder, natural
from .images import captions_of
from .picture_folder import SPLITS, held_out, scan_folder
from .shards import MAX_MEMBER

_NUMBERED = re.compile(r"(.*[-_])?\d+")
_LABELS = ("cls", "json", "txt")


@dataclass(frozen=True)
class StoredPicture:
    """A picture in a file, from byte `offset` on where that is a tar; size: its bytes; label: -1 where it has none."""

    path: Path
    name: str
    size: int
    split: str
    captions: tuple[str, ...] = ()
    label: int = -1
    offset: int = 0

    def read(self) -> bytes:
        """Its bytes. Raises ValueError when the file has changed since it was listed."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(self.size + 1 if not self.offset else self.size)
        if len(data) != self.size:
            raise ValueError(
                f"{self.name} has not the {self.size:,} bytes it was listed with: do not change the source"
            )
        return data


@dataclass(frozen=True)
class PictureListing:
    """The pictures in the order of their names, names of classes by label, what was left out, lines for the user."""

    pictures: list[StoredPicture]
    classes: list[str]
    left_out: LeftOut = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def list_pictures(folder: str | Path, split_fraction: float = 0.05) -> PictureListing:
    """The pictures under a folder: those in its tars, where it holds tars, else its files.

    Where there is no split "val", `split_fraction` of "train" becomes it. Raises ValueError as `scan_folder` does, and
    for a tar that cannot be read.
    """
    root = Path(folder)
    tars = list_folder(root, (".tar", ".tgz", ".gz"))
    names = [name for name in tars.files if re.search(r"\.(tar|tgz|tar\.gz)$", name.lower())]
    if names:
        if packed := [name for name in names if not name.lower().endswith(".tar")]:
            raise ValueError(f"{display_name(root / packed[0])}: pictures are read in place, unpack it: gunzip")
        return _in_tars(root, names, split_fraction)
    scanned = scan_folder(root, split_fraction)
    pictures = [
        StoredPicture(
            item.path, display_name(item.name), item.path.stat().st_size, item.split, item.captions, item.label
        )
        for item in scanned.images
    ]
    return PictureListing(pictures, scanned.classes, scanned.left_out, scanned.notes)


@dataclass(frozen=True)
class _Member:
    """A picture of a tar with what lies beside it."""

    tar: str
    key: str
    ending: str
    offset: int
    size: int
    beside: dict[str, bytes]

    def label(self) -> int | None:
        where = f"{self.tar}: {self.key}"
        text = self.beside["cls"].decode(errors="replace").strip() if "cls" in self.beside else None
        value: Any = text if text is not None else _record(self).get("label")
        if value is None:
            return None
        if not re.fullmatch(r"-?\d{1,9}", str(value)):
            raise ValueError(f"{where}: the class is no number: {str(value)[:40]!r}")
        return int(value)

    def captions(self) -> list[str]:
        text = self.beside.get("txt", b"").decode(errors="replace").strip()
        return [text] if text else captions_of(_record(self))


def _record(member: _Member) -> dict[str, Any]:
    return parse_json(member.beside["json"], f"{member.tar}: {member.key}.json") if "json" in member.beside else {}


def _in_tars(root: Path, names: Sequence[str], fraction: float) -> PictureListing:
    members, others = [], 0
    for name in names:
        inside, odd = _members_of(root / name, name)
        members += inside
        others += odd
    if not members:
        raise ValueError(f"{display_name(root)}: no picture ({', '.join(PICTURES)}) in {len(names)} tars")
    labels = [member.label() for member in members]
    if all(label is None for label in labels):
        groups = _groups(members)
        classes = sorted({group for group in groups if group}, key=natural)
        rank = {group: label for label, group in enumerate(classes)}
        numbers = [rank.get(group, -1) for group in groups]
    else:
        numbers = [-1 if label is None else label for label in labels]
        classes = [str(label) for label in range(max(numbers) + 1)]
    splits = [_split(member.tar) for member in members]
    if "val" not in splits:
        held = held_out([f"{m.tar}/{m.key}" for m, split in zip(members, splits) if split == "train"], fraction)
        splits = ["val" if f"{m.tar}/{m.key}" in held else split for m, split in zip(members, splits)]
    pictures = []
    for member, label, split in zip(members, numbers, splits):
        captions = tuple(member.captions()) or ((classes[label].replace("_", " "),) if label >= 0 else ())
        where = f"{member.tar}/{member.key}{member.ending}"
        pictures.append(StoredPicture(root / member.tar, where, member.size, split, captions, label, member.offset))
    notes = [f"{len(pictures):,} pictures in {len(names):,} tars; {len(classes):,} classes: {few(classes)}"]
    notes += [f"left out of {display_name(root)}: {others:,} files in tars that are no pictures"] if others else []
    return PictureListing(pictures, [display_name(name) for name in classes], {}, notes)


def _members_of(path: Path, name: str) -> tuple[list[_Member], int]:
    """Pictures of a tar, and the number of its other files. Raises ValueError for one that ends too early."""
    pictures: dict[str, tuple[str, int, int]] = {}
    beside: dict[str, dict[str, bytes]] = {}
    others, end = 0, path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, ending = posixpath.splitext(member.name.removeprefix("./"))
                if not member.isreg():
                    continue
                if member.size > MAX_MEMBER or member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{member.name} of {member.size:,} bytes does not lie in it: cut short?")
                stream = tar.extractfile(member) if ending[1:].lower() in _LABELS else None
                if ending.lower() in PICTURES:
                    if key in pictures:
                        raise tarfile.ReadError(f"two pictures are called {key}")
                    pictures[key] = (ending, member.offset_data, member.size)
                elif stream is not None:
                    beside.setdefault(key, {})[ending[1:].lower()] = stream.read()
                else:
                    others += 1
            if tar.offset + tarfile.BLOCKSIZE > end:
                raise tarfile.ReadError("its end is missing: cut short?")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{display_name(path)} is not a readable tar: {error}") from error
    return [_Member(name, key, *where, beside.get(key, {})) for key, where in pictures.items()], others


def _groups(members: Sequence[_Member]) -> list[str]:
    """The class names: folders in tars, else the names of tars that are not numbered; "" for none."""
    folders = [posixpath.dirname(member.key).rpartition("/")[2] for member in members]
    if all(folders):
        return folders
    stems = [posixpath.splitext(posixpath.basename(member.tar))[0] for member in members]
    if (
        len(set(stems)) < 2
        or all(_NUMBERED.fullmatch(stem) for stem in stems)
        or all(s.lower() in SPLITS for s in stems)
    ):
        return [""] * len(members)
    return stems


def _split(tar: str) -> str:
    words = [*tar.lower().split("/")[:-1], *re.split(r"[-_.]", posixpath.basename(tar).lower())[:1]]
    return next((SPLITS[word] for word in words if word in SPLITS), "train")
