"""The documentation is true: its blocks run and print what it shows, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_world import MARKER, ROOT, Block, Page, files_entered, missing_line, parse_command, same_line
from pipeline_world import write_text_image_model
from test_layout import PROSE

from mmprime.cli import generate
from mmprime.engine.samplers import listing
from mmprime.evaluation import read_rows, table

PAGES = {path.name: Page(path) for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
RUN = [(name, block) for name, page in PAGES.items() for block in page.blocks if block.is_run]
HEADERS = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "benchmarks/studies").rglob("*.yaml")]
COMMANDS = {c for page in PAGES.values() for b in page.blocks if b.kind == "bash" for c in b.commands()}
COMMANDS |= {c for path in HEADERS for c in re.findall(r"^#   ((?:mmprime|python) .+)$", path.read_text(), re.M)}
COMMANDS |= {f"python {c}" for c in re.findall(r"\$\(PY\) (-m mmprime .+)", (ROOT / "Makefile").read_text())}
TIME = re.compile(r"\b(\d+|an?|few|twenty|half an?) (seconds|minutes?|hours?)\b", re.I)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    for name, page in PAGES.items():
        page.settle(tmp_path_factory.mktemp(name.replace(".", "_")))
    return PAGES


def ids(cases: list[tuple[str, Block]]) -> list[str]:
    return [f"{name}:{block.line}" for name, block in cases]


def runs(name: str, block: Block, folders: dict[str, Page], slow: bool) -> None:
    found = folders[name].run_until(block, slow)
    if block.output is not None:
        line = missing_line(block.output.text, found)
        assert line is None, f"{name}:{block.output.line} shows\n{line}\nwhere this was printed:\n{found}"


QUICK = [(name, block) for name, block in RUN if not block.is_slow]
SLOW = [(name, block) for name, block in RUN if block.is_slow]


@pytest.mark.parametrize(("name", "block"), QUICK, ids=ids(QUICK))
def test_blocks_run_and_print_what_is_shown(name: str, block: Block, folders: dict[str, Page]) -> None:
    runs(name, block, folders, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), SLOW, ids=ids(SLOW))
def test_slow_blocks_run_and_print_what_is_shown(name: str, block: Block, folders: dict[str, Page]) -> None:
    runs(name, block, folders, slow=True)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_lines_are_known_to_their_commands(command: str) -> None:
    parse_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "mmprime prepare bpe --data absent --speed 3 --out absent",
        "mmprime prepare bpe --data absent",
        "python tools/prepare.py bpe --data absent --vocab-size many --out absent",
        "python tools/prepare.py pictures absent --out absent",
    ],
)
def test_a_path_that_is_absent_hides_no_other_mistake(command: str) -> None:
    with pytest.raises(AssertionError, match=r"--speed 3|--out|many|pictures"):
        parse_command(command)


def test_every_block_is_run_or_says_why_not() -> None:
    """Blocks are marked by kind; output stands under what printed it; few are left out."""
    blocks = [(name, block) for name, page in PAGES.items() for block in page.blocks]
    for name, block in blocks:
        where = f"{name}:{block.line}"
        assert not block.marker or MARKER.fullmatch(block.marker), f"{where}: unknown marker {block.marker!r}"
        assert block.kind in ("bash", "python") or block.marker.startswith("file: "), f"{where}: output of nothing"
    kept = [where for where, block in blocks if block.marker.startswith("not run")]
    assert len(QUICK) >= 20
    assert len(kept) <= NOT_RUN, "blocks that are not run need a good reason"


NOT_RUN = 36


def test_no_block_escapes_the_reader() -> None:
    """Every fence opens a block that is read here; code that is indented would not be."""
    for name, page in PAGES.items():
        source = page.path.read_text()
        count = len(page.blocks) + sum(block.output is not None for block in page.blocks)
        assert len(re.findall(r"^\s*```", source, re.M)) == 2 * count, name
        assert not re.search(r"^    (\$ |python |pip |make )", source, re.M), f"{name}: an indented command"


@pytest.mark.parametrize(("name", "block"), SLOW, ids=ids(SLOW))
def test_what_takes_long_says_so(name: str, block: Block) -> None:
    source = PAGES[name].path.read_text()
    start = source.index(block.text)
    before = source[:start].split("\n\n")[-2:]
    after = source[start + len(block.text) :].split("\n\n")[:2]
    assert TIME.search(" ".join("".join([*before, block.text, *after]).split())), (
        f"{name}:{block.line} takes long and does not say how long"
    )
    assert re.search(r"\b(cores?|CPU|GPU)\b", source), f"{name} names no machine"


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("4 pictures in a.png; NFE 31 each", "4 pictures in a.png; NFE 31 each", True),
        ("4 pictures in a.png; NFE 31 each", "4 pictures in a.png; NFE 32 each", False),
        ("bound 3.970 nats", "bound 3.974 nats", True),
        ("bound 3.970 nats", "bound 4.370 nats", False),
        ("bound 3.970 nats", "joint 3.970 nats", False),
    ],
)
def test_lines_are_compared_by_words_and_numbers(shown: str, found: str, same: bool) -> None:
    assert same_line(shown, found) is same


def test_lines_that_were_not_printed_are_found() -> None:
    assert missing_line("a\nb 0.31 s\n", "a\nb 2.7 s\n") is None
    assert missing_line("a\n...\nc\n", "a\nb\nc\n") is None
    assert missing_line("a\nc\n", "a\nb\nc\n") == "c"
    assert missing_line("a\n", "a\nb\n") == "(and b)"
    assert missing_line("a\n...\n", "a\nb\n") is None
    assert missing_line("...\na\nc\n", "a\nb\na\nc\n") is None
    assert missing_line("...\nb\n...\n", "a\nb\na\nc\n") is None
    assert missing_line("...\nb\n", "a\nb\na\nc\n") == "b"
    assert missing_line("a\n...\nd\n", "a\nb\n") == "d"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page: Path = PAGES[name].path
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target).exists(), f"{name}: {target}"


def test_tests_that_are_named_exist() -> None:
    named = {n for page in PAGES.values() for n in re.findall(r"`(tests/\S+\.py(?:::\w+)?)`", page.path.read_text())}
    assert len(named) > 10
    for name in named:
        file, _, function = name.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text() if function else (ROOT / file).is_file(), name


def test_the_printed_table_is_the_recorded_one() -> None:
    """The rows that the README shows were printed by its first command, which the results quote too."""
    recorded = read_rows(ROOT / "benchmarks/measured/likelihood.json")
    printed = [line.split() for line in table(recorded).splitlines()]
    shown = re.findall(r"^\| val_vendor.*\|$", PAGES["README.md"].path.read_text(), re.M)
    assert len(shown) > 3
    assert all(line.split() in printed for line in shown)
    command = recorded[0].command.split(" --json")[0].replace("'", '"')
    command = re.sub(r"^python tools/(\w+)\.py", r"mmprime \1", command)
    assert command in {c for b in PAGES["results.md"].blocks for c in b.commands()}


def test_pages_use_the_words_of_the_field() -> None:
    """As the package does; names in code spans, such as those of extras, are left alone."""
    notes = sorted((ROOT / "benchmarks").rglob("*.md"))
    wrong = []
    for path in [*(page.path for page in PAGES.values()), *notes, *HEADERS]:
        source = path.read_text()
        source = re.sub(r"```.*?```|`[^`]*`", "", source, flags=re.S) if path.suffix == ".md" else source
        wrong += [f"{path.relative_to(ROOT)}: {match[0]}" for match in PROSE.finditer(source)]
    assert not wrong, "\n".join(wrong)


def test_documentation_holds_pages_and_pictures_alone() -> None:
    """Data of a measurement lies in benchmarks/."""
    assert {path.suffix for path in (ROOT / "docs").rglob("*") if path.is_file()} <= {".md", ".png", ".webp"}


def test_the_table_of_samplers_is_the_registry() -> None:
    """Its first three columns are what `--sampler list` prints."""
    expected = []
    for line in listing().splitlines():
        name, about, options = re.fullmatch(r"(\w+) +(.*?)(?:  \[(.*)\])?", line).groups()
        words = [f"`{word}`" for word in re.split(r", (?=\w+=)", options)] if options else []
        expected.append(f"| `{name}` | {about} | {', '.join(words)}")
    source = PAGES["samplers.md"].path.read_text()
    head = "| sampler | what it does | options and defaults | source | exact |"
    shown = source[source.index(head) :].split("\n\n")[0].splitlines()[2:]
    assert [line.rsplit(" | ", 2)[0] for line in shown] == expected


def test_every_folder_of_the_package_is_on_the_maps() -> None:
    folders = {path.parent.relative_to(ROOT / "mmprime").as_posix() for path in (ROOT / "mmprime").rglob("*.py")}
    for name in ("README.md", "method.md"):
        source = PAGES[name].path.read_text()
        absent = {folder for folder in folders - {"."} if f"{folder.split('/')[-1]}/`" not in source}
        assert not absent, name


def test_a_prompt_goes_the_way_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the table run when a prompt becomes a picture; what runs and is not in it holds no request."""
    source = PAGES["method.md"].path.read_text()
    way = source[source.index("### A prompt's way") :].split("\n## ")[0]
    shown = set(re.findall(r"`([a-z_0-9/]+\.py)`", way))
    monkeypatch.chdir(tmp_path)
    model = write_text_image_model(tmp_path / "model")
    words = ["--model", str(model), "--prompt", "red apple", "--num", "1", "--sampler", "p2", "--steps", "2"]
    generate.main(words)  # imports what is loaded late
    entered = files_entered(ROOT / "mmprime", lambda: generate.main(words))
    assert shown <= entered
    inside = {name for name in entered - shown if name.startswith(("engine/", "generation/"))}
    assert inside <= HELPERS


HELPERS = {
    "engine/heads/__init__.py", "engine/masking/__init__.py", "engine/samplers/base.py", "engine/samplers/regions.py",
    "engine/schedule.py",
    "generation/hub.py", "generation/model_folder.py", "generation/pipeline.py", "generation/prompts.py",
}  # fmt: skip
