"""Images as packed codes: hundreds of images an entry, because small entries read twenty times slower.

KEY.codes.npy   (m, L) int16 or int32; of a tokenizer with digits and more than 2^15 codes, in its place
KEY.digits.npy  (m, bytes) uint8: the digits (m, L, S), bit by bit (`digit_packing`)
KEY.labels.npy  (m,) int64, -1 = unlabelled
KEY.meta.json   keys, captions, tags, vendors (and more_captions where an image has several): lists of length m
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from mmprime.engine import Codec
from mmprime.io import parse_json

from .building import build_dataset
from .digit_packing import pack_digits, unpack_digits
from .images import EACH, Captioned, ImageDataset, several
from .shards import Entry, Unit, canonical_json, digest, field_of, read_index, read_shard, split_shards
from .storage import RETRIES

PACK = 512
MOST_INTEGERS = 2**15  # codes of a tokenizer with digits that are stored as integers
VENDORS = "vendors"  # labels that say who drew an image


class CodeTokenizer(Protocol):
    """What is asked of an image tokenizer."""

    @property
    def num_codes(self) -> int:
        """Size C of the code book."""

    @property
    def radices(self) -> tuple[int, ...]:
        """Bases of the digits a code has by construction; () for a learned code book."""

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the codes of one image."""

    def encode(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] to int64 codes (B, h, w)."""

    def encode_digits(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] to int64 digits (B, h, w, S)."""

    def fingerprint(self) -> str:
        """A hash of everything that decides the codes."""


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def array_of(files: dict[str, bytes], extension: str, where: str) -> np.ndarray:
    """The array in a member of a sample. Raises ValueError naming the sample when it is absent or unreadable."""
    try:
        return np.asarray(np.load(io.BytesIO(field_of(files, extension, where)), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{where}.{extension} is not a readable array: {error}") from error


@dataclass(kw_only=True)
class CodeDataset(Captioned):
    """Codes of captioned images in memory.

    tokens: int32 codes (n, L), L = h·w in raster order, or digits (n, L, S), uint8 where they fit; grid: (h, w);
    radices: bases of the digits that a code has by construction, () for a code book; tokenizer_fingerprint: of the
    tokenizer that made (and alone can decode) the codes.
    """

    tokens: Tensor
    grid: tuple[int, int]
    num_codes: int
    radices: tuple[int, ...] = ()
    tokenizer_fingerprint: str

    @property
    def codes(self) -> Tensor:
        """Codes (n, L), int32 where they fit, else int64. Raises ValueError where there are more than 2^62."""
        if self.tokens.ndim == 2:
            return self.tokens
        codes = torch.cat([self.codec().decode(part.long()) for part in self.tokens.split(PACK)])
        return codes.int() if self.num_codes <= 2**31 else codes

    @property
    def digits(self) -> Tensor:
        """Digits (n, L, S), one of C values for a code book; uint8 where they fit."""
        if self.tokens.ndim == 3:
            return self.tokens
        dtype = _memory_dtype(self.codec().radices)
        return torch.cat([self.codec().encode(part).to(dtype) for part in self.tokens.split(PACK)])

    def codec(self) -> Codec:
        """All combinations of the digits."""
        return Codec.product(self.radices or (self.num_codes,))

    @classmethod
    def load(cls, path: str | Path, split: str | None = None) -> CodeDataset:
        """Read one split (None: all) of a code dataset folder; every shard is verified.

        Raises ValueError for a missing or damaged folder, an unknown split, arrays that disagree, codes out of range.
        """
        index = read_index(path, "codes")
        return cls.join([part for entry in split_shards(index, split) for part in code_blocks(path, index, entry)])

    @classmethod
    def join(cls, parts: Sequence[CodeDataset]) -> CodeDataset:
        """Parts of one data set as one."""
        labels = torch.cat([torch.full((len(p),), -1) if p.labels is None else p.labels for p in parts])
        return replace(
            parts[0],
            tokens=torch.cat([part.tokens for part in parts]),
            labels=labels if bool((labels >= 0).any()) else None,
            more_captions=several([more for p in parts for more in p.more_captions or [[]] * len(p)]),
            **cast(Any, {name: [value for part in parts for value in getattr(part, name)] for name in EACH}),
        )

    def select(self, chosen: Tensor) -> CodeDataset:
        """The images of these numbers, (m,) int64, in this order."""
        pick = chosen.tolist()
        return replace(
            self,
            tokens=self.tokens[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            more_captions=several([self.more_captions[i] for i in pick]) if self.more_captions else [],
            **cast(Any, {name: [getattr(self, name)[i] for i in pick] for name in EACH}),
        )


def code_blocks(
    path: str | Path, index: dict[str, Any], entry: dict[str, Any], retries: int = RETRIES
) -> Iterator[CodeDataset]:
    """The packed entries of one verified shard, in its order. Raises ValueError as `CodeDataset.load` does."""
    examples = 0
    for key, files in read_shard(path, entry, retries):
        where = f"{entry['file']}: {key}"
        block, label = _tokens(files, index, where), array_of(files, "labels.npy", where).astype(np.int64)
        meta = parse_json(field_of(files, "meta.json", where), where)
        extra = meta.get("more_captions") or [[] for _ in block]
        lists = {name: meta.get(name, ()) for name in ("keys", "captions", "tags", "vendors")}
        if len({len(block), len(label), len(extra), *map(len, lists.values())}) != 1:
            raise ValueError(f"{where}: codes, labels and meta differ in length")
        examples += len(block)
        yield CodeDataset(
            tokens=block,
            grid=(index["grid"][0], index["grid"][1]),
            num_codes=int(index["num_codes"]),
            radices=tuple(index.get("radices", ())),
            tokenizer_fingerprint=index["tokenizer_fingerprint"],
            labels=torch.from_numpy(label) if (label >= 0).any() else None,
            splits=[entry["split"]] * len(block),
            classes=list(index.get("classes", ())),
            more_captions=several(extra),
            **lists,
        )
    if examples != entry["examples"]:
        raise ValueError(f"{entry['file']} packs {examples} examples, its index says {entry['examples']}")


def _tokens(files: dict[str, bytes], index: dict[str, Any], where: str) -> Tensor:
    """Codes (m, L) int32 or digits (m, L, S) of an entry. Raises ValueError for another shape, and out of range."""
    num_codes, radices, length = int(index["num_codes"]), tuple(index.get("radices", ())), math.prod(index["grid"])
    if "digits.npy" in files and radices:
        try:
            digits = unpack_digits(array_of(files, "digits.npy", where), length, radices)
        except ValueError as error:
            raise ValueError(f"{where} has {error}") from error
        return torch.from_numpy(digits.astype(np.int32) if digits.dtype != np.uint8 else digits)
    block = array_of(files, "codes.npy", where)
    if block.ndim != 2 or block.shape[1] != length:
        raise ValueError(f"{where} has codes of shape {block.shape}, expected (m, {length})")
    if block.size and (block.min() < 0 or block.max() >= num_codes):
        raise ValueError(f"{where} has codes in [{block.min()}, {block.max()}], allowed [0, {num_codes})")
    return torch.from_numpy(block.astype(np.int32))


def vendors_of(index: dict[str, Any], split: str) -> list[str]:
    """Who drew the images of a split, by name, as the index of a dataset has it; [] where it does not."""
    return sorted({entry["vendor"] for entry in split_shards(index, split) if "vendor" in entry})


def vendor_labels(vendors: Sequence[str], classes: Sequence[str]) -> Tensor:
    """(n,) int64: the number of each vendor among the classes, -1 of one that is not there."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers.get(vendor, -1) for vendor in vendors])


def _memory_dtype(radices: Sequence[int]) -> torch.dtype:
    return torch.uint8 if max(radices) <= 2**8 else torch.int32


def stored_as_digits(tokenizer: CodeTokenizer) -> bool:
    """Whether the tokens of a tokenizer are kept as digits, not as integers."""
    return bool(tokenizer.radices) and tokenizer.num_codes > MOST_INTEGERS


def device_of(tokenizer: object) -> torch.device:
    """Where a tokenizer computes."""
    if not isinstance(tokenizer, torch.nn.Module):
        return torch.device("cpu")
    return next(chain(tokenizer.parameters(), tokenizer.buffers()), torch.empty(0)).device


@torch.inference_mode()
def encode_images(images: Tensor, tokenizer: CodeTokenizer, batch: int = 64) -> Tensor:
    """uint8 images (n, 3, H, W) to codes int32 (n, L), on the tokenizer's own device; digits (n, L, S) where
    `stored_as_digits`.

    Raises ValueError if the images do not give the tokenizer's grid or a code is out of range.
    """
    device = device_of(tokenizer)
    if isinstance(tokenizer, torch.nn.Module):
        tokenizer.eval()
    digits = stored_as_digits(tokenizer)
    bounds = torch.tensor(tokenizer.radices if digits else tokenizer.num_codes)
    blocks = []
    for part in images.split(batch):
        pixels = part.to(device).float() / 255
        codes = tokenizer.encode_digits(pixels) if digits else tokenizer.encode(pixels)
        if tuple(codes.shape[1:3]) != tuple(tokenizer.grid):
            raise ValueError(
                f"images of {images.shape[-2]}×{images.shape[-1]} px give codes of {tuple(codes.shape[1:3])}, "
                f"but the tokenizer's grid is {tuple(tokenizer.grid)}: prepare the images at its size"
            )
        codes = codes.flatten(1, 2).cpu()
        if ((codes < 0) | (codes >= bounds)).any():
            raise ValueError(f"the tokenizer gave codes outside [0, {bounds.tolist()})")
        blocks.append(codes.to(_memory_dtype(tokenizer.radices) if digits else torch.int32))
    return torch.cat(blocks)


def packed_entry(key: str, tokens: Tensor, labels: np.ndarray, meta: dict[str, Any], tokenizer: CodeTokenizer) -> Entry:
    """An entry of codes (m, L) or digits (m, L, S), labels (m,) and lists of length m."""
    dtype = np.int16 if tokenizer.num_codes <= 2**15 else np.int32
    member = ("codes.npy", tokens.numpy().astype(dtype))
    if tokens.ndim == 3:
        member = ("digits.npy", pack_digits(tokens.numpy(), tokenizer.radices))
    files = {
        member[0]: npy(member[1]),
        "labels.npy": npy(labels.astype(np.int64)),
        "meta.json": canonical_json(meta),
    }
    return Entry(key, files, len(tokens))


def _packed(images: ImageDataset, tokenizer: CodeTokenizer, prefix: str) -> Iterator[tuple[str, Entry]]:
    """Encode images of one split and pack them, PACK an entry."""
    for number, start in enumerate(range(0, len(images), PACK)):
        part = images.select(range(start, min(start + PACK, len(images))))
        labels = np.full(len(part), -1) if part.labels is None else part.labels.numpy()
        meta = {"keys": part.keys, "captions": part.captions, "tags": part.tags, "vendors": part.vendors}
        meta |= {"more_captions": part.more_captions} if part.more_captions else {}
        tokens = encode_images(part.images, tokenizer)
        yield part.splits[0], packed_entry(f"{prefix}_{number:06d}", tokens, labels, meta, tokenizer)


def codes_header(tokenizer: CodeTokenizer, classes: list[str], **more: Any) -> dict[str, Any]:
    """What an index says of all codes."""
    return {
        "num_codes": int(tokenizer.num_codes),
        **({"radices": list(tokenizer.radices)} if tokenizer.radices else {}),
        "grid": list(tokenizer.grid),
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "classes": classes,
        **more,
    }


def encode_dataset(
    source: str | Path, tokenizer: CodeTokenizer, out: str | Path, progress: bool = False
) -> dict[str, Any]:
    """Encode an image dataset folder shard by shard (memory holds one shard); return the index.

    Raises ValueError for a damaged source and for images that do not fit the tokenizer.
    """
    index = read_index(source, "images")

    def maker(entry: dict[str, Any], name: str) -> Callable[[], Iterable[tuple[str, Entry]]]:
        return lambda: _packed(ImageDataset.from_shards(source, index, [entry]), tokenizer, name)

    units = []
    for entry in index["shards"]:
        about = {"vendor": entry["vendor"]} if "vendor" in entry else {}
        name = entry["file"].removesuffix(".tar.gz")
        recipe = digest("codes 1", tokenizer.fingerprint(), entry["sha256"])
        units.append(Unit(name, recipe, maker(entry, name), about))
    more = {key: index[key] for key in ("name", "image_size", "sources", "licences") if key in index}
    return build_dataset(out, "codes", units, codes_header(tokenizer, list(index.get("classes", ())), **more), progress)
