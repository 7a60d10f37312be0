"""The captioned emoji set: vector icons of many vendors, one official caption each, rendered to small images.

Left out: skin-tone variants, share-alike sets, icons without an official caption, and images that equal an earlier one
of the same vendor pixel by pixel. Held out: one vendor, and for all vendors a few captions chosen by their hash.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmprime.io import bar

from ..building import build_dataset
from ..pictures import read_picture
from ..shards import Entry, Unit, canonical_json, digest
from .emoji_icons import NAME_SOURCES, NAMED_BY, PACKAGES, EmojiSource, Icon, group_names

if TYPE_CHECKING:
    from PIL.Image import Image

VENDORS = (
    "twemoji",
    "noto",
    "noto-v1",
    "fluent-emoji-flat",
    "fluent-emoji",
    "emojione",
    "fxemoji",
    "streamline-emojis",
)
HELD_OUT_VENDOR = "fxemoji"
HELD_OUT_CAPTIONS = 0.03
LOSSY_QUALITY = 88


def held_out_caption(caption: str) -> bool:
    """Whether a caption belongs to the held-out 3 %: decided by its hash alone, so for all vendors alike."""
    return int(hashlib.sha256(caption.encode()).hexdigest()[:8], 16) < HELD_OUT_CAPTIONS * 16**8


def split_of(vendor: str, caption: str) -> str:
    """`val_vendor` for the vendor never trained on, `val_caption` for captions never trained on, else `train`."""
    if vendor == HELD_OUT_VENDOR:
        return "val_vendor"
    return "val_caption" if held_out_caption(caption) else "train"


def vendor_recipe(source: EmojiSource, vendor: str, size: int) -> str:
    """Hash of all that decides the shards of a vendor."""
    import resvg_py

    sources = {vendor, NAMED_BY.get(vendor, vendor), *NAME_SOURCES}
    hashes = [hashlib.sha256(source.file(f"json/{name}.json").read_bytes()).digest() for name in sorted(sources)]
    catalogue = canonical_json([list(vars(e).values()) for e in source.catalogue.values()])
    settings = (size, LOSSY_QUALITY, HELD_OUT_VENDOR, HELD_OUT_CAPTIONS, getattr(resvg_py, "__version__", ""))
    return digest("emoji 1", vendor, catalogue, canonical_json(settings), *hashes)


def render(icon: Icon, size: int) -> Image:
    """An icon as an RGB image of size × size on white."""
    import resvg_py
    from PIL import ImageOps

    png = resvg_py.svg_to_bytes(
        svg_string=icon.svg, width=size, height=size, background="#ffffff", skip_system_fonts=True
    )
    image = read_picture(bytes(png), icon.emoji.caption)
    if image.size != (size, size):  # an icon that is not square is fitted, never stretched
        image = ImageOps.pad(image, (size, size), color="#ffffff")
    for flip in icon.flips:
        image = ImageOps.mirror(image) if flip == "hFlip" else ImageOps.flip(image)
    return image


def encode_webp(image: Image, quality: int = LOSSY_QUALITY) -> bytes:
    """WebP bytes: lossless unless the lossy form at `quality` is smaller."""
    options: tuple[dict[str, Any], ...] = ({"lossless": True, "quality": 100}, {"quality": quality})
    encoded = []
    for option in options:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", method=6, **option)
        encoded.append(buffer.getvalue())
    return min(encoded, key=len)


def _render_encoded(size: int, icon: Icon) -> tuple[str, bytes]:
    try:
        image = render(icon, size)
    except (ValueError, OSError) as error:
        raise ValueError(f"the icon of {icon.emoji.caption!r} cannot be rendered: {error}") from error
    return hashlib.sha256(image.tobytes()).hexdigest(), encode_webp(image)


def vendor_samples(
    vendor: str, icons: list[Icon], size: int, workers: int = 1, progress: bool = False
) -> Iterator[tuple[str, Entry]]:
    """Render one vendor's icons; yield (split, sample), leaving out images seen before."""
    job = functools.partial(_render_encoded, size)
    rendered: Iterable[tuple[str, bytes]]

    count = len(icons)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            rendered = list(bar(pool.map(job, icons, chunksize=16), vendor, "image", progress, count))
    else:
        rendered = bar(map(job, icons), vendor, "image", progress, count)
    known: set[str] = set()
    for icon, (pixels, webp) in zip(icons, rendered):
        if pixels in known:
            continue
        known.add(pixels)
        emoji = icon.emoji
        split = split_of(vendor, emoji.caption)
        about = {
            "caption": emoji.caption,
            "tags": list(emoji.tags),
            "vendor": vendor,
            "hexcode": emoji.hexcode,
            "group": emoji.group,
            "split": split,
        }
        key = f"{vendor}_{emoji.hexcode.lower()}"
        yield split, Entry(key, {"webp": webp, "json": canonical_json(about)})


def prepare_emoji(
    iconify: str | Path,
    emojibase: str | Path,
    out: str | Path,
    size: int = 64,
    vendors: Iterable[str] = VENDORS,
    workers: int = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """Render the shippable emoji set into image shards under `out`; return the index.

    One unit, hence one licence, a vendor. Raises ValueError when a package is not where it is said to be.
    """
    source = EmojiSource(iconify, emojibase)
    vendors = list(vendors)
    if unknown := sorted(set(vendors) - set(VENDORS)):
        raise ValueError(f"unknown vendors {unknown}; choose from {list(VENDORS)}")

    def maker(vendor: str) -> Callable[[], Iterable[tuple[str, Entry]]]:
        return lambda: vendor_samples(vendor, source.icons(vendor), size, workers, progress)

    units = [Unit(v, vendor_recipe(source, v, size), maker(v), {"vendor": v}) for v in vendors]
    header = {
        "name": "emoji",
        "image_size": size,
        "encoding": f"webp, lossless unless lossy quality {LOSSY_QUALITY} is smaller, method 6; RGB on white",
        "classes": group_names(emojibase),
        "label": "group",
        "sources": {which: f"npm {name}" for which, (name, _) in PACKAGES.items()},
        "licences": {vendor: source.licence(vendor) for vendor in vendors},
    }
    return build_dataset(out, "images", units, header, progress)
