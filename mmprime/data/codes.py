"""Images as packed VQ codes: hundreds of images an entry, because small entries read twenty times slower.

KEY.codes.npy   (m, L) int16 or int32      KEY.labels.npy  (m,) int64, -1 = unlabelled
KEY.meta.json   keys, captions, tags, vendors (and more_captions where an image has several): lists of length m
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmprime.io import parse_json

from .images import Captioned, ImageDataset, several
from .shards import Entry, Unit, build_dataset, canonical_json, digest, field_of, read_index, read_shard, split_shards

PACK = 512


class CodeTokenizer(Protocol):
    """What is asked of an image tokenizer."""

    @property
    def num_codes(self) -> int:
        """Size C of the code book."""

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the codes of one image."""

    def encode(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) in [0, 1] to int64 codes (B, h, w)."""

    def fingerprint(self) -> str:
        """A hash of everything that decides the codes."""


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _array(files: dict[str, bytes], extension: str, where: str) -> np.ndarray:
    try:
        return np.asarray(np.load(io.BytesIO(field_of(files, extension, where)), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{where}.{extension} is not a readable array: {error}") from error


@dataclass(kw_only=True)
class CodeDataset(Captioned):
    """Codes of captioned images in memory.

    codes: int32 (n, L), L = h·w in raster order; grid: (h, w); tokenizer_fingerprint: of the tokenizer that made (and
    alone can decode) the codes.
    """

    codes: Tensor
    grid: tuple[int, int]
    num_codes: int
    tokenizer_fingerprint: str

    @classmethod
    def load(cls, path: str | Path, split: str | None = None) -> CodeDataset:
        """Read one split (None: all) of a code dataset folder; every shard is verified.

        Raises ValueError for a missing or damaged folder, an unknown split, arrays that disagree, codes out of range.
        """
        index = read_index(path, "codes")
        height, width = index["grid"]
        num_codes = int(index["num_codes"])
        codes: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        metas: dict[str, list[Any]] = {name: [] for name in ("keys", "captions", "tags", "vendors")}
        splits: list[str] = []
        more: list[list[str]] = []
        for entry in split_shards(index, split):
            examples = 0
            for key, files in read_shard(path, entry):
                where = f"{entry['file']}: {key}"
                block, label = _array(files, "codes.npy", where), _array(files, "labels.npy", where)
                meta = parse_json(field_of(files, "meta.json", where), where)
                if block.ndim != 2 or block.shape[1] != height * width:
                    raise ValueError(f"{where} has codes of shape {block.shape}, expected (m, {height * width})")
                extra = meta.get("more_captions") or [[] for _ in block]
                if len({len(block), len(label), len(extra), *(len(meta.get(name, ())) for name in metas)}) != 1:
                    raise ValueError(f"{where}: codes, labels and meta differ in length")
                if block.min() < 0 or block.max() >= num_codes:
                    raise ValueError(f"{where} has codes in [{block.min()}, {block.max()}], allowed [0, {num_codes})")
                codes.append(block.astype(np.int32))
                labels.append(label.astype(np.int64))
                for name, values in metas.items():
                    values += meta[name]
                more += extra
                splits += [entry["split"]] * len(block)
                examples += len(block)
            if examples != entry["examples"]:
                raise ValueError(f"{entry['file']} packs {examples} examples, its index says {entry['examples']}")
        all_labels = torch.from_numpy(np.concatenate(labels))
        return cls(
            codes=torch.from_numpy(np.concatenate(codes)),
            grid=(height, width),
            num_codes=num_codes,
            tokenizer_fingerprint=index["tokenizer_fingerprint"],
            labels=all_labels if bool((all_labels >= 0).any()) else None,
            splits=splits,
            classes=list(index.get("classes", ())),
            more_captions=several(more),
            **metas,
        )


@torch.inference_mode()
def encode_images(images: Tensor, tokenizer: CodeTokenizer, batch: int = 64) -> Tensor:
    """uint8 images (n, 3, H, W) to codes int32 (n, L), on the tokenizer's own device.

    Raises ValueError if the images do not give the tokenizer's grid or a code is out of range.
    """
    device = torch.device("cpu")
    if isinstance(tokenizer, torch.nn.Module):
        tokenizer.eval()
        device = next((p.device for p in tokenizer.parameters()), device)
    blocks = []
    for part in images.split(batch):
        codes = tokenizer.encode(part.to(device).float() / 255)
        if tuple(codes.shape[1:]) != tuple(tokenizer.grid):
            raise ValueError(
                f"images of {images.shape[-2]}×{images.shape[-1]} px give codes of {tuple(codes.shape[1:])}, "
                f"but the tokenizer's grid is {tuple(tokenizer.grid)}: prepare the images at its size"
            )
        blocks.append(codes.flatten(1).to("cpu", torch.int32))
    result = torch.cat(blocks)
    if int(result.min()) < 0 or int(result.max()) >= tokenizer.num_codes:
        raise ValueError(f"the tokenizer gave codes outside [0, {tokenizer.num_codes})")
    return result


def _packed(images: ImageDataset, tokenizer: CodeTokenizer, prefix: str) -> Iterator[tuple[str, Entry]]:
    """Encode images of one split and pack them, PACK an entry."""
    dtype = np.int16 if tokenizer.num_codes <= 2**15 else np.int32
    for number, start in enumerate(range(0, len(images), PACK)):
        part = images.select(range(start, min(start + PACK, len(images))))
        labels = np.full(len(part), -1) if part.labels is None else part.labels.numpy()
        meta = {"keys": part.keys, "captions": part.captions, "tags": part.tags, "vendors": part.vendors}
        meta |= {"more_captions": part.more_captions} if part.more_captions else {}
        files = {
            "codes.npy": _npy(encode_images(part.images, tokenizer).numpy().astype(dtype)),
            "labels.npy": _npy(labels.astype(np.int64)),
            "meta.json": canonical_json(meta),
        }
        yield part.splits[0], Entry(f"{prefix}_{number:06d}", files, len(part))


def _header(tokenizer: CodeTokenizer, classes: list[str], **more: Any) -> dict[str, Any]:
    return {
        "num_codes": int(tokenizer.num_codes),
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
    return build_dataset(out, "codes", units, _header(tokenizer, list(index.get("classes", ())), **more), progress)
