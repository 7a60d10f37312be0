"""Which icon draws which emoji: the two unpacked packages behind the captioned emoji set.

Sources are two npm packages, unpacked by the user: `@iconify/json` (SVG bodies, one JSON per vendor) and
`emojibase-data` (official English labels, tags, groups). An icon belongs to a code point either by its vendor's own
`chars` map or, where a vendor has none, by its name.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

NAMED_BY = {"fluent-emoji": "fluent-emoji-flat"}  # the 3D set has no chars map, but the names of the flat one
NAME_SOURCES = ("twemoji", "noto", "fluent-emoji-flat")
PACKAGES = {"iconify": ("@iconify/json", "2.2.535"), "emojibase": ("emojibase-data", "17.0.0")}


@dataclass(frozen=True)
class Emoji:
    """One code point sequence with its official caption; `group` is the class label, 0..9."""

    hexcode: str
    caption: str
    tags: tuple[str, ...]
    group: int


@dataclass(frozen=True)
class Icon:
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


class EmojiSource:
    """The two unpacked packages; knows which icon draws which emoji."""

    def __init__(self, iconify: str | Path, emojibase: str | Path) -> None:
        self.iconify, self.emojibase = iconify, emojibase
        self.catalogue = load_catalogue(emojibase)
        self.collections = json.loads(self.file("collections.json").read_text(encoding="utf-8"))

    def file(self, inside: str) -> Path:
        """A file of the icon package."""
        return _package_file(self.iconify, "iconify", inside)

    def icon_set(self, vendor: str) -> dict[str, Any]:
        """The raw JSON of one set (icons, aliases, sizes, perhaps chars)."""
        return cast(dict[str, Any], json.loads(self.file(f"json/{vendor}.json").read_bytes()))

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
        matches: dict[str, str] = {}
        for code, name in (chars or {}).items():
            if name in icons["icons"] or name in aliases:
                matches.setdefault(_normal(code), name)
        if not chars:
            for name in (*icons["icons"], *aliases):
                if code := self._by_name(name):
                    matches.setdefault(code, name)
        return matches

    def icons(self, vendor: str) -> list[Icon]:
        """All captioned icons of one vendor in emojibase order."""
        drawn = self.icon_set(vendor)
        names = self._matches(vendor, drawn)
        return [Icon(emoji, *_svg(drawn, names[code])) for code, emoji in self.catalogue.items() if code in names]


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
