"""What the folders of a dataset of pictures say: splits, classes, captions.

    DIR/cat/1.png                      class folders: label = rank of the class, numbers in numeric order
    DIR/train/cat/1.png  DIR/val/...   split folders, with class folders in them or not
    DIR/1.png  DIR/1.txt               captions (`captions.py`); a picture without one takes the name of its class

A folder that holds all others (DIR/images/train/...) is passed through, and so is one called images, pictures or the
like (`WRAPPERS`) that is the only one in DIR or in all its split folders (DIR/train/images/1.png). Split folders are
told by their names (`SPLITS`, without case), where no other folder with pictures lies beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .captions import find_captions
from .folders import OTHER, PICTURES, LeftOut, display_name, few, left_out_line, list_folder, natural
from .shards import digest

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
WRAPPERS = {"images", "imgs", "img", "pictures", "photos"}


@dataclass(frozen=True)
class FolderImage:
    """A picture of a folder: where it lies, its captions (perhaps none), its class (-1: none), its split."""

    path: Path
    name: str
    captions: tuple[str, ...]
    label: int
    split: str


@dataclass(frozen=True)
class PictureFolder:
    """The pictures, the names of the classes by label, what was left out, and lines for the user on all that."""

    images: list[FolderImage]
    classes: list[str]
    left_out: LeftOut = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def scan_folder(folder: str | Path, split_fraction: float = 0.05) -> PictureFolder:
    """List a folder's pictures with splits, classes and captions.

    Where no folder is a "val" split, `split_fraction` of "train" becomes it (`held_out`).
    Raises ValueError when there are no pictures, and as `find_captions` does.
    """
    root = Path(folder)
    listing = list_folder(root, PICTURES)
    others = listing.left_out.pop(OTHER, [])
    names = listing.files
    if not names:
        line = left_out_line(root, {**listing.left_out, OTHER: others})
        raise ValueError(
            f"{display_name(root)} holds no pictures ({', '.join(PICTURES)})" + (f"; {line}" if line else "")
        )
    written = find_captions(root, names, others)
    roles = _roles(names)
    if len({role.class_name for role in roles}) == 1 and all(written.by_picture.get(name) for name in names):
        roles = [replace(role, class_name=None) for role in roles]  # one folder of captioned pictures is no class
    classes = sorted({role.class_name for role in roles if role.class_name is not None}, key=natural)
    rank = {name: label for label, name in enumerate(classes)}
    splits = _splits(names, roles, split_fraction)
    images = []
    for name, role, split in zip(names, roles, splits):
        label = -1 if role.class_name is None else rank[role.class_name]
        class_caption = [] if label < 0 else [display_name(classes[label]).replace("_", " ")]
        captions = tuple(written.by_picture.get(name) or class_caption)
        images.append(FolderImage(root / name, name, captions, label, split))
    left_out = {**listing.left_out, **written.left_out}
    notes = [left_out_line(root, left_out), *_split_notes(roles, splits), *_class_notes(images, classes)]
    notes += _caption_notes(images)
    return PictureFolder(images, [display_name(name) for name in classes], left_out, [note for note in notes if note])


# ------------------------------------------------------------------------------------------------ splits, classes


@dataclass(frozen=True)
class _Role:
    """What the folders above a picture say: its split and class, None where they say nothing."""

    split: str | None
    class_name: str | None


def _roles(names: Sequence[str]) -> list[_Role]:
    folders = [tuple(name.split("/")[:-1]) for name in names]
    depth = len(_base(folders))
    inner = [folder[depth:] for folder in folders]
    tops = {folder[0] for folder in inner if folder}
    if tops and all(top.lower() in SPLITS for top in tops):
        splits, inner = [SPLITS[f[0].lower()] if f else None for f in inner], [f[1:] for f in inner]
    else:
        splits = [None] * len(inner)
    if all(inner) and len({f[0] for f in inner}) == 1 and inner[0][0].lower() in WRAPPERS:
        inner = [f[1:] for f in inner]
    return [_Role(split, f[0] if f else None) for split, f in zip(splits, inner)]


def _base(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The folder in which split or class folders lie: the deepest that holds all pictures in folders of it."""
    first, last = min(folders), max(folders)
    same = [a == b for a, b in zip(first, last)]
    common = first[: [*same, False].index(False)]
    for depth, part in enumerate(common):
        if part.lower() in SPLITS:
            return common[:depth]
    return () if common in folders else common


def _splits(names: Sequence[str], roles: Sequence[_Role], fraction: float) -> list[str]:
    splits = [role.split or "train" for role in roles]
    if "val" in splits:
        return splits
    held = held_out([name for name, split in zip(names, splits) if split == "train"], fraction)
    return ["val" if name in held else split for name, split in zip(names, splits)]


def held_out(names: Sequence[str], fraction: float) -> set[str]:
    """The names whose hash falls into a fraction; at least one if it is above 0, and never all.

    Whether a name is held out depends on itself alone, but where that would leave one side empty.
    """
    order = sorted(names, key=digest)
    count = sum(int(digest(name)[:8], 16) < fraction * 16**8 for name in order)
    return set(order[: min(max(count, int(fraction > 0)), len(order) - 1)])


# ------------------------------------------------------------------------------------------------ what is said


def _split_notes(roles: Sequence[_Role], splits: Sequence[str]) -> list[str]:
    if any(role.split for role in roles):
        counts = ", ".join(
            f"{name} {splits.count(name):,}" for name in dict.fromkeys(SPLITS.values()) if name in splits
        )
        held = "val" in splits and not any(role.split == "val" for role in roles)
        return [f"splits as the folders are called{', val held out of train' if held else ''}: {counts}"]
    mistaken = sorted({p.class_name for p in roles if p.class_name and p.class_name.lower() in SPLITS})
    if len(mistaken) < 2:
        return []
    beside = sorted({p.class_name for p in roles if p.class_name} - set(mistaken))
    names = ", ".join(map(display_name, mistaken))
    return [f"{names} are taken for classes, not splits, because {few(beside)} lies beside them"]


def _class_notes(images: Sequence[FolderImage], classes: Sequence[str]) -> list[str]:
    if not classes:
        return []
    trained = {image.label for image in images if image.split == "train"}
    untrained = [name for label, name in enumerate(classes) if label not in trained]
    unlabelled = [image.name for image in images if image.label < 0]
    notes = [f"{len(classes):,} classes: {few(classes)}"]
    if untrained:
        notes.append(f"{len(untrained):,} classes without a training picture: {few(untrained)}")
    if unlabelled:
        notes.append(f"{len(unlabelled):,} of {len(images):,} pictures lie in no class folder: {few(unlabelled)}")
    return notes


def _caption_notes(images: Sequence[FolderImage]) -> list[str]:
    bare = [image.name for image in images if not image.captions]
    several = [image.name for image in images if len(image.captions) > 1]
    notes = []
    if bare:
        notes.append(
            f"{len(bare):,} of {len(images):,} pictures have no caption ({few(bare)}): they are kept, and training on "
            "captions leaves them out. A caption is a line of NAME.txt beside NAME.png, or text of metadata.jsonl"
        )
    if several:
        notes.append(f"{len(several):,} of {len(images):,} pictures have several captions ({few(several)})")
    return notes
