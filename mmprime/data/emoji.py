"""The captioned emoji set: vector drawings of many vendors, one official caption each, rendered to small images.

Sources are two npm packages, unpacked by the user: `@iconify/json` (SVG bodies, one JSON per vendor) and
`emojibase-data` (official English labels, tags, groups). An icon belongs to a code point either by its vendor's own
`chars` map or, where a vendor has none, by its name. Left out: skin-tone variants, share-alike sets, icons without
an official caption, and images that equal an earlier one of the same vendor pixel by pixel.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .shards import Sample, Unit, build_dataset, canonical_json, digest

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
NAMED_BY = {"fluent-emoji": "fluent-emoji-flat"}  # the 3D set has no chars map, but the names of the flat one
NAME_SOURCES = ("twemoji", "noto", "fluent-emoji-flat")
HELD_OUT_VENDOR = "fxemoji"
HELD_OUT_CAPTIONS = 0.03
LOSSY_QUALITY = 88
PACKAGES = {"iconify": ("@iconify/json", "2.2.535"), "emojibase": ("emojibase-data", "17.0.0")}


@dataclass(frozen=True)
class Emoji:
    """One code point sequence with its official caption; `group` is the class label, 0..9."""

    hexcode: str
    caption: str
    tags: tuple[str, ...]
    group: int


@dataclass(frozen=True)
class Drawing:
    """One vendor's SVG of one emoji, self-contained, and the flips an alias asks for."""

    emoji: Emoji
    svg: str
    flips: tuple[str, ...] = ()


def _package_file(folder: str | Path, which: str, inside: str) -> Path:
    """A file of an unpacked npm package; `folder` may be the package itself or the folder that `tar x` filled."""
    name, version = PACKAGES[which]
    for root in (Path(folder), Path(folder) / "package", Path(folder) / "node_modules" / name):
        if (root / inside).is_file():
            return root / inside
    archive = f"{name.replace('@', '').replace('/', '-')}-{version}.tgz"
    raise ValueError(
        f"--{which} {folder}: {inside} not found there; it must be the unpacked npm package {name}: "
        f"`npm pack {name}@{version} && tar xzf {archive}` makes it as ./package"
    )


def _normal(hexcode: str) -> str:
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower().replace("&", "and")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def load_catalogue(emojibase: str | Path) -> dict[str, Emoji]:
    """Official emojis by normal hexcode (upper case, no FE0F), in emojibase order; no skin tones, no bare letters."""
    entries = json.loads(_package_file(emojibase, "emojibase", "en/data.json").read_text(encoding="utf-8"))
    return {
        _normal(e["hexcode"]): Emoji(_normal(e["hexcode"]), e["label"], tuple(e.get("tags", ())), e["group"])
        for e in entries
        if "group" in e and "skin tone" not in e["label"]
    }


def group_names(emojibase: str | Path) -> list[str]:
    """Names of the emojibase groups, in the order of their numbers."""
    groups = json.loads(_package_file(emojibase, "emojibase", "meta/groups.json").read_text(encoding="utf-8"))
    return [groups["groups"][str(i)] for i in range(len(groups["groups"]))]


def held_out_caption(caption: str) -> bool:
    """Whether a caption belongs to the held-out 3 %: decided by its hash alone, so for all vendors alike."""
    return int(hashlib.sha256(caption.encode()).hexdigest()[:8], 16) < HELD_OUT_CAPTIONS * 16**8


def split_of(vendor: str, caption: str) -> str:
    """`val_vendor` for the vendor never trained on, `val_caption` for captions never trained on, else `train`."""
    if vendor == HELD_OUT_VENDOR:
        return "val_vendor"
    return "val_caption" if held_out_caption(caption) else "train"


class EmojiSource:
    """The two unpacked packages; knows which icon draws which emoji."""

    def __init__(self, iconify: str | Path, emojibase: str | Path) -> None:
        self.iconify, self.emojibase = iconify, emojibase
        self.catalogue = load_catalogue(emojibase)
        self.collections = json.loads(self._file("collections.json").read_text(encoding="utf-8"))

    def _file(self, inside: str) -> Path:
        return _package_file(self.iconify, "iconify", inside)

    def icon_set(self, vendor: str) -> dict[str, Any]:
        """The raw JSON of one set (icons, aliases, sizes, perhaps chars)."""
        return cast(dict[str, Any], json.loads(self._file(f"json/{vendor}.json").read_bytes()))

    def licence(self, vendor: str) -> dict[str, str]:
        """Author, licence and home of a set, as its package states them."""
        about = self.collections[vendor]
        return {
            "name": about["name"],
            "author": about["author"]["name"],
            "home": about["author"].get("url", ""),
            "licence": about["license"]["spdx"],
            "licence_url": about["license"].get("url", ""),
        }

    @functools.cached_property
    def hexcode_of_name(self) -> dict[str, str]:
        """Icon name to hexcode: official label, else a name from a set with a `chars` map, else without dashes."""
        table = {_slug(emoji.caption): code for code, emoji in reversed(self.catalogue.items())}
        for vendor in NAME_SOURCES:
            icons = self.icon_set(vendor)
            for code, name in icons["chars"].items():
                if _normal(code) in self.catalogue:
                    table.setdefault(name, _normal(code))
            for alias, target in icons.get("aliases", {}).items():
                if target["parent"] in table and len(target) == 1:
                    table.setdefault(alias, table[target["parent"]])
        for code, emoji in self.catalogue.items():
            table.setdefault(_slug(emoji.caption).replace("-", ""), code)
        return table

    def _by_name(self, name: str) -> str | None:
        return self.hexcode_of_name.get(re.sub(r"^flag-for-(flag-)?", "flag-", name))

    def _matches(self, vendor: str, icons: dict[str, Any]) -> dict[str, str]:
        """hexcode -> icon (or alias) name, one icon an emoji."""
        chars = icons.get("chars")
        if chars is None and vendor in NAMED_BY:
            chars = self.icon_set(NAMED_BY[vendor])["chars"]
        aliases = icons.get("aliases", {})
        found: dict[str, str] = {}
        for code, name in (chars or {}).items():
            if name in icons["icons"] or name in aliases:
                found.setdefault(_normal(code), name)
        if not chars:
            for name in (*icons["icons"], *aliases):
                if code := self._by_name(name):
                    found.setdefault(code, name)
        return found

    def drawings(self, vendor: str) -> list[Drawing]:
        """All captioned drawings of one vendor in emojibase order."""
        icons = self.icon_set(vendor)
        found = self._matches(vendor, icons)
        return [Drawing(emoji, *_svg(icons, found[code])) for code, emoji in self.catalogue.items() if code in found]

    def recipe(self, vendor: str, size: int) -> str:
        """Hash of all that decides the shards of a vendor."""
        import resvg_py

        sources = {vendor, NAMED_BY.get(vendor, vendor), *NAME_SOURCES}
        hashes = [hashlib.sha256(self._file(f"json/{name}.json").read_bytes()).digest() for name in sorted(sources)]
        catalogue = canonical_json([list(vars(e).values()) for e in self.catalogue.values()])
        settings = (size, LOSSY_QUALITY, HELD_OUT_VENDOR, HELD_OUT_CAPTIONS, getattr(resvg_py, "__version__", ""))
        return digest("emoji 1", vendor, catalogue, canonical_json(settings), *hashes)


def _svg(icons: dict[str, Any], name: str) -> tuple[str, tuple[str, ...]]:
    """The SVG text of an icon and the flips on the way from an alias to it."""
    flips: list[str] = []
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        flips += [flip for flip in ("hFlip", "vFlip") if alias.get(flip)]
        name = alias["parent"]
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
    ), tuple(flips)


def render(drawing: Drawing, size: int) -> Image:
    """A drawing as an RGB image of size × size on white."""
    import resvg_py
    from PIL import Image, ImageOps

    png = resvg_py.svg_to_bytes(
        svg_string=drawing.svg, width=size, height=size, background="#ffffff", skip_system_fonts=True
    )
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if image.size != (size, size):  # a drawing that is not square is fitted, never stretched
        image = ImageOps.pad(image, (size, size), color="#ffffff")
    for flip in drawing.flips:
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


def _render_encoded(size: int, drawing: Drawing) -> tuple[str, bytes]:
    try:
        image = render(drawing, size)
    except (ValueError, OSError) as error:
        raise ValueError(f"the drawing of {drawing.emoji.caption!r} cannot be rendered: {error}") from error
    return hashlib.sha256(image.tobytes()).hexdigest(), encode_webp(image)


def vendor_samples(
    vendor: str, drawings: list[Drawing], size: int, workers: int = 1, progress: bool = False
) -> Iterator[tuple[str, Sample]]:
    """Render one vendor's drawings; yield (split, sample), leaving out images seen before."""
    job = functools.partial(_render_encoded, size)
    rendered: Iterable[tuple[str, bytes]]

    def bar(results: Iterable[tuple[str, bytes]]) -> Iterable[tuple[str, bytes]]:
        from tqdm import tqdm

        return tqdm(results, desc=vendor, total=len(drawings), unit="image", leave=False, disable=not progress)

    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            rendered = list(bar(pool.map(job, drawings, chunksize=16)))
    else:
        rendered = bar(map(job, drawings))
    seen: set[str] = set()
    for drawing, (pixels, webp) in zip(drawings, rendered):
        if pixels in seen:
            continue
        seen.add(pixels)
        emoji = drawing.emoji
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
        yield split, Sample(key, {"webp": webp, "json": canonical_json(about)})


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

    def maker(vendor: str) -> Callable[[], Iterable[tuple[str, Sample]]]:
        return lambda: vendor_samples(vendor, source.drawings(vendor), size, workers, progress)

    units = [Unit(v, source.recipe(v, size), maker(v), {"vendor": v}) for v in vendors]
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
