"""The one home of atomic writes, hashes and text files: a file or folder appears whole under its name, or not at all.

What is being written lies beside its target under a temporary name, ``.NAME.PID.tmp.EXT``; it is flushed to the disk
and renamed. A killed process leaves only such temporary names behind, which :func:`clear_leftovers` removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from omegaconf import DictConfig

Item = TypeVar("Item")
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.[^.]+)?")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The temporary path to write to; it becomes `path` when the block ends well and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path, manifest: str = "config.json") -> Iterator[Path]:
    """The temporary folder to fill; it becomes `path` when the block ends well and is removed when it does not.

    Where `path` is a folder already, its files are replaced one by one, `manifest`, which holds the hashes of others,
    last; what else lies in it stays.
    """
    path = Path(path).resolve()
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        files = sorted((f for f in temporary.rglob("*") if f.is_file()), key=lambda f: (f.name == manifest, f))
        for file in files:
            flush(file)
        flush(temporary)
        if path.is_dir():
            for file in files:
                target = path / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
            flush(path)
        else:
            os.replace(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def parse_json(text: bytes | str, where: str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError naming `where` when it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a JSON object is needed, this is a {type(value).__name__}: {str(value)[:60]!r}")
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError naming the file when it holds none."""
    return parse_json(Path(path).read_bytes(), str(path))


def read_yaml(path: str | Path) -> DictConfig:
    """The mapping in a YAML file, unresolved. Raises ValueError with file, line and column where it is none."""
    import yaml
    from omegaconf import DictConfig, OmegaConf

    try:
        text = Path(path).read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = OmegaConf.create(text) if isinstance(root, yaml.MappingNode) else None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{path}{where}: not valid YAML: {reason}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply") from error
    except Exception as error:  # a number of 5,000 digits, a key that is a list, a broken interpolation
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig):
        what = {yaml.SequenceNode: "a list", type(None): "nothing"}.get(type(root), "a single value")
        raise ValueError(f"{path}: must be a mapping (key: value), not {what}")
    return content


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file, without a byte order mark.

    Raises ValueError naming the file, the first byte that is no UTF-8 (or NUL: a binary file, or UTF-16 without a mark)
    and the way out.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        coding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise ValueError(
            f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at position {error.start} (from 0, line "
            f"{data[: error.start].count(10) + 1}); if it is "
            f"{coding}, convert it: iconv -f {coding} -t UTF-8 {path.name} > new.txt"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{path} has a NUL byte at position {data.index(0)} (from 0), so it is no text: a binary file, UTF-16 "
            f"without its mark (iconv -f UTF-16LE -t UTF-8 {path.name} > new.txt), or to be cleaned (tr -d '\\000')"
        )
    return text


def split_lines(text: str) -> list[str]:
    r"""Lines of a text, ended by \n, \r\n or \r and by nothing else (`str.splitlines` also cuts at U+2028, U+0085, form
    feeds and separators, which stand inside sentences and inside JSON strings).

    >>> split_lines("a\u2028b\r\nc\n")
    ['a\u2028b', 'c']
    """
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def remove_folder(path: Path) -> None:
    """Remove a folder; killed on the way, what is left bears a temporary name and not the folder's."""
    temporary = _temporary(path)
    os.replace(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path) -> list[Path]:
    """Remove what killed writers left in `folder` (not below it); returns the paths that are gone.

    Only the one process that writes there may call this.
    """
    leftovers = [entry for entry in sorted(folder.glob(".*")) if _TEMPORARY.fullmatch(entry.name)]
    for entry in leftovers:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return [entry for entry in leftovers if not entry.exists()]


def sha256(*paths: str | Path) -> str:
    """64 hex digits: the SHA-256 of the files' contents, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def is_hub_name(name: str) -> bool:
    """Whether it is "user/name" and no path here."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).parent.exists()


def cache_folder() -> Path:
    """$MMPRIME_CACHE, else $XDG_CACHE_HOME/mmprime, else ~/.cache/mmprime."""
    if "MMPRIME_CACHE" in os.environ:
        return Path(os.environ["MMPRIME_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmprime"


def flush(path: Path) -> None:
    """Ask the system to put a file, or the names in a folder, on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def bar(items: Iterable[Item], what: str, unit: str, enabled: bool = True, total: int | None = None) -> Iterable[Item]:
    """The items, with a progress bar on a terminal while they last; a file that catches stderr gets none."""
    from tqdm import tqdm

    return tqdm(items, desc=what, unit=unit, total=total, leave=False, disable=None if enabled else True)


def ticks(what: str, unit: str, total: int | None, enabled: bool = True, initial: int = 0) -> Any:
    """Such a bar without items, `initial` of them done: `update()` it after each, `close()` it at the end."""
    from tqdm import tqdm

    return tqdm(desc=what, unit=unit, total=total, initial=initial, leave=False, disable=None if enabled else True)


def warn(message: str | None) -> None:
    """Print a warning, if there is one, to stderr."""
    if message:
        print(f"warning: {message}", file=sys.stderr)
