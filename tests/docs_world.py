"""Code blocks of the documentation: read, checked, run, and compared with the output that the page shows.

A line before a block says what is special about it:

    <!-- not run: REASON -->    needs what is not here; its commands are still parsed
    <!-- slow -->               run on demand (pytest -m slow); the page says time and machine beside it
    <!-- slow, with KEY=VALUE... -->    the same, its trainings cut short by these overrides
    <!-- file: NAME -->         the block is a file that the commands of the page take
    <!-- goes on -->            Python that uses the names of the Python block before

Other `bash` and `python` blocks are run in the order of the page, in one folder for each page. A `text` block right
after a block is its output; `...` stands for lines left out.

    python tests/docs_world.py [--slow] PAGE...    write the shown output anew
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^(?:<!-- (?P<marker>[^\n]*?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
MARKER = re.compile(r"not run: (?P<reason>.+)|slow(?:, with (?P<overrides>.+))?|file: (?P<file>\S+)|goes on")
SECONDS = re.compile(r"\d+(?:\.\d+)? s\b")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
LINKED = (
    "LICENSE",
    "assets",
    "benchmarks",
    "configs",
    "docs",
    "mmprime",
    "tests",
    "tools",
    "README.md",
    "Makefile",
    "pyproject.toml",
)


@dataclass
class Block:
    """kind: bash, python, text or another; line: where it starts; output: the `text` block right after it."""

    kind: str
    text: str
    marker: str
    line: int
    span: tuple[int, int]
    output: Block | None = None

    @property
    def is_run(self) -> bool:
        return self.kind in ("bash", "python") and not self.marker.startswith("not run")

    @property
    def is_slow(self) -> bool:
        return self.marker.startswith("slow")

    @property
    def overrides(self) -> str:
        """What is added to the command line of a training."""
        return self.marker.partition(", with ")[2]

    def commands(self) -> list[str]:
        """The lines of a bash block, those that end in a backslash joined."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@dataclass
class Page:
    """A page and the folder its blocks are run in."""

    path: Path
    folder: Path | None = None
    blocks: list[Block] = field(default_factory=list)
    done: dict[int, str] = field(default_factory=dict)  # line of a block -> what it printed
    names: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        source = self.path.read_text(encoding="utf-8")
        end = -1
        for found in BLOCK.finditer(source):
            line = source.count("\n", 0, found.start()) + 1
            block = Block(found["kind"], found["text"], found["marker"] or "", line, found.span("text"))
            if block.kind == "text" and not block.marker and self.blocks and not source[end : found.start()].strip():
                self.blocks[-1].output = block
            else:
                self.blocks.append(block)
            end = found.end()

    def settle(self, folder: Path) -> None:
        """Make the folder look like a clone, and write the files that the page shows."""
        self.folder = folder
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        for block in self.blocks:
            if found := re.fullmatch(r"file: (\S+)", block.marker):
                (folder / found[1]).parent.mkdir(parents=True, exist_ok=True)
                (folder / found[1]).write_text(block.text)

    def run_until(self, last: Block, slow: bool) -> str:
        """Run what comes before a block and was not run yet, then the block; what it printed."""
        for block in self.blocks:
            if block.is_run and block.line not in self.done and (slow or not block.is_slow or block is last):
                self.done[block.line] = self._run(block)
            if block is last:
                break
        return self.done[last.line]

    def _run(self, block: Block) -> str:
        assert self.folder is not None, "the page has no folder yet"
        with working_in(self.folder):
            if block.kind == "bash":
                return "".join(run_command(command, block.overrides) for command in block.commands())
            self.names = self.names if block.marker == "goes on" else {"__name__": "__main__"}
            with printed() as out:
                exec(compile(block.text, f"{self.path.name}:{block.line}", "exec"), self.names)
            return out.getvalue()


@contextlib.contextmanager
def working_in(folder: Path) -> Any:
    """The folder as the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def printed() -> Any:
    """Standard output and standard error as one text."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        yield out


def module_of(name: str) -> ModuleType:
    """A command as a module."""
    return importlib.import_module(f"mmprime.cli.{name}")


def split_call(command: str) -> tuple[str, list[str]] | None:
    """(NAME, arguments) of `mmprime NAME ARGUMENTS` and its other spellings; None for another command."""
    words = shlex.split(command.replace("python -m mmprime ", "mmprime "), comments=True)
    if {"|", "||", "&&", ";"} & set(words):
        return None
    if len(words) > 1 and words[0] == "mmprime" and words[1].isidentifier():
        return words[1], words[2:]
    if len(words) > 1 and words[0] == "python" and (found := re.fullmatch(r"tools/(\w+)\.py", words[1])):
        return found[1], words[2:]
    return None


def run_command(command: str, overrides: str = "") -> str:
    """What a command printed: ours in this process, anything else by bash. Raises AssertionError if it failed.

    overrides: key=value words, added to a training.
    """
    called = split_call(command)
    if called is None or called[0] == "train":  # training takes over signals
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        if called is not None and overrides:
            command = f"{command.partition(' #')[0]} {overrides}"
        done = subprocess.run(
            ["bash", "-euc", f'mmprime() {{ python -m mmprime "$@"; }}\n{command}'],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr
    name, arguments = called
    with printed() as out:
        try:
            code = module_of(name).main(arguments)
        except SystemExit as done:
            code = done.code
    assert not code, f"{command}\n{out.getvalue()}"
    return out.getvalue()


@contextlib.contextmanager
def any_paths() -> Any:
    """Option types that ask for what is there take every path: what the commands before make is not there yet."""
    from mmprime.cli import console

    names = ("folder", "pretrained", "existing", "out_file", "out_folder")
    before = {name: getattr(console, name) for name in names}
    for name in names:
        setattr(console, name, str)
    try:
        yield
    finally:
        for name, kind in before.items():
            setattr(console, name, kind)


def parse_command(command: str) -> None:
    """Read a command line as the command does. Raises AssertionError for what it does not know."""
    called = split_call(command)
    if called is None:
        for word in shlex.split(command, comments=True):
            if re.fullmatch(r"(tools|benchmarks|configs|tests)/\S+\.\w+", word):
                assert (ROOT / word).is_file(), f"{command}: there is no {word}"
        return
    name, arguments = called
    with printed() as out, any_paths():
        try:
            _parse(name, arguments)
        except (SystemExit, ValueError) as refused:
            raise AssertionError(f"{command}\n{out.getvalue()}{refused}") from refused


def _parse(name: str, arguments: list[str]) -> None:
    module = module_of(name)
    if name == "train":
        from mmprime.training.config import load_config

        options = module.parse(arguments)
        if (ROOT / options.config).is_file():
            try:
                load_config(ROOT / options.config, options.overrides)
            except ValueError as error:  # what the commands before it make is not there yet
                if not re.search(r"=(data|runs)/\S+: no such file", str(error)):
                    raise
        else:
            assert not options.config.startswith("configs/"), options.config
    elif name == "generate":
        module.parse(arguments, "")
    elif name == "prepare":
        module.parser().parse_args(arguments)
    elif arguments or name != "draw_toy":
        module.parse(arguments)


def files_entered(folder: Path, work: Callable[[], object]) -> set[str]:
    """The Python files of a folder of which some function ran; imports do not count."""
    entered: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name != "<module>" and path.startswith(f"{folder}/"):
            entered.add(path[len(str(folder)) + 1 :])

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return entered


def lines_of(text: str) -> list[str]:
    """Lines without what depends on the clock, the width of a table or a progress bar."""
    lines = [
        re.sub(r"(?<=-)-+", "-", re.sub(r"\s+", " ", SECONDS.sub("# s", line)).strip()) for line in text.splitlines()
    ]
    return [line for line in lines if line and "it/s" not in line and "s/it" not in line]


def same_line(shown: str, found: str) -> bool:
    """Equal but for numbers with decimals, which may differ by 2 % and 0.01: other processors round otherwise."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", found):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(found))
    return all(a == b or ("." in a and abs(_float(a) - _float(b)) <= 0.01 + 0.02 * abs(_float(b))) for a, b in pairs)


def _float(number: str) -> float:
    return float(number.replace(",", ""))


def missing_line(shown: str, found: str) -> str | None:
    """The first line of what a page shows that was not printed there; None if all were."""
    parts: list[list[str]] = [[]]
    for line in lines_of(shown):
        if line == "...":
            parts.append([])
        else:
            parts[-1].append(line)
    printed_lines, start = lines_of(found), 0
    for number, part in enumerate(parts):
        last = len(printed_lines) - len(part)
        first = last if part and number and number == len(parts) - 1 else start  # the end must be the end
        places = [first] if number == 0 or first == last else range(first, last + 1)
        place = next((i for i in places if start <= i <= last and _same_lines(part, printed_lines[i:])), None)
        if place is None:
            there = printed_lines[start:] if len(places) == 1 else printed_lines
            return next(
                (line for i, line in enumerate(part) if not _is_among(line, there, i, len(places) == 1)), part[0]
            )
        start = place + len(part)
    if parts[-1] and start < len(printed_lines):
        return f"(and {printed_lines[start]})"
    return None


def _is_among(line: str, lines: list[str], number: int, exactly: bool) -> bool:
    return any(same_line(line, each) for each in (lines[number : number + 1] if exactly else lines))


def _same_lines(shown: list[str], found: list[str]) -> bool:
    return all(same_line(a, b) for a, b in zip(shown, found))


def rewrite(page: Page, slow: bool) -> list[str]:
    """Write what the blocks print now under them; the lines of blocks with lines left out that no longer hold."""
    source, odd = page.path.read_text(encoding="utf-8"), []
    for block in reversed([each for each in page.blocks if each.output and each.is_run and (slow or not each.is_slow)]):
        assert block.output is not None
        found = page.run_until(block, slow)
        line = missing_line(block.output.text, found)
        if line is not None and "..." in block.output.text.split("\n"):
            odd.append(f"{page.path.name}:{block.output.line}: {line}\n{found}")
        elif line is not None:
            start, end = block.output.span
            source = source[:start] + found.rstrip("\n") + "\n" + source[end:]
    page.path.write_text(source, encoding="utf-8")
    return odd


if __name__ == "__main__":
    import tempfile

    for argument in [each for each in sys.argv[1:] if each != "--slow"]:
        with tempfile.TemporaryDirectory() as temporary:
            chosen = Page(Path(argument).resolve())
            chosen.settle(Path(temporary))
            print("\n".join(rewrite(chosen, "--slow" in sys.argv)))
