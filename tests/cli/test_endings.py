"""How a command ends: one line and one exit code for each kind of error, and no result that is lost on output."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from mmprime.cli import console
from mmprime.generation import prompts

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("generate", "evaluate", "trace", "report", "study", "train", "prepare", "demo", "draw_toy")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("width\n must be 3"), 2, "error: width must be 3"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.yaml"), 2, "x.yaml"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "free some space"),
        (OSError(errno.EROFS, "Read-only file system", "/cdrom"), 3, "write to another place"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 3, "free some space"),
        (OSError(errno.EFBIG, "process 1: File too large", "runs/x"), 3, "too large: 'runs/x'; free some space"),
        (RuntimeError("gloo: Connection closed by peer [127.0.0.1]:1"), 1, "another process of this run has ended"),
        (SafetensorError("header too large"), 2, "header too large"),
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 4e15"), 2, "out of memory"),
        (MemoryError(), 2, "out of memory"),
        (Image.DecompressionBombError("Image size exceeds limit"), 2, "exceeds limit"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "not UTF-8"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
        (ModuleNotFoundError("No module named 'gguf'", name="gguf"), 2, "the package gguf is missing"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_known_kind_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.run(raising(error)) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "bug" not in line


def test_an_unknown_kind_is_a_bug_with_its_details_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(raising(IndexError("list index out of range"))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "this is a bug of mmprime" in line
    file = Path(line.rsplit(" ", 1)[-1])
    assert "Traceback" in file.read_text()
    file.unlink()


def test_output_that_cannot_be_encoded_or_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert console.run(lambda: print("1.0 ± 0.1 \udcff")) == 0
    assert raw.getvalue() == b"1.0 ? 0.1 ?\n"

    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    done = []
    assert console.run(lambda: (print("x" * 100_000), print("y", flush=True), done.append(1))[2]) == 0
    assert done == [1]


def test_a_full_disk_behind_stdout_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
    assert console.run(lambda: print("a number")) == 3
    assert "printing failed" in capsys.readouterr().err


IMPORTS = "    import torch, torchvision\n    import time; time.sleep(60)\n"
SWALLOWS = "try:\n    import time; time.sleep(60)\nexcept BaseException:\n    time.sleep(60)\n"


@pytest.mark.parametrize(
    ("moment", "work"),
    [(0.0, IMPORTS), (0.3, IMPORTS), (1.0, IMPORTS), (0.3, "    import swallows\n")],
    ids=["start", "early", "later", "an import that swallows it"],
)
def test_ctrl_c_during_imports_and_work(moment: float, work: str, tmp_path: Path) -> None:
    """Twice, as people do; SIGINT is sent when the handler stands, then `moment` later."""
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    code = (
        f"import sys\nfrom mmprime.cli import console\nsys.path.append({str(tmp_path)!r})\n"
        f"def work():\n    print('go', flush=True)\n{work}"
        "raise SystemExit(console.run(work))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell lets what runs behind ignore it
    process = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", code], env=ENVIRONMENT, preexec_fn=listen, **pipes
    )
    assert process.stdout.readline() == "go\n"
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "stopped by Ctrl-C\n")


@pytest.mark.parametrize("tool", TOOLS)
def test_parsing_loads_no_torch(tool: str, tmp_path: Path) -> None:
    code = (
        f"import sys, runpy\nsys.argv = ['{tool}', '--help']\n"
        f"try: runpy.run_path('tools/{tool}.py', run_name='__main__')\nexcept SystemExit as done: print(done.code)\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]


MISSING = [
    ("generate", "--prompt", "a", "--model", "absent"),
    ("generate", "--image", "absent.png"),
    ("generate", "--prompt", "a", "--regions", "absent.yaml"),
    ("evaluate", "likelihood", "--model", "absent"),
    ("evaluate", "likelihood", "--data", "absent"),
    ("evaluate", "samples", "--generated", "absent", "--reference", "."),
    ("evaluate", "captions", "--data", "absent"),
    ("evaluate", "scenes", "--data", "absent"),
    ("evaluate", "text", "--texts", "absent", "--data", "."),
    ("evaluate", "tokenizer", "--tokenizer", "absent"),
    ("evaluate", "imagenet", "--model", "absent", "--out", "out"),
    ("evaluate", "calibration", "--data", "absent"),
    ("trace", "--prompt", "a", "--model", "absent"),
    ("report", "table", "absent.json"),
    ("report", "calibration", "--model", "absent", "--data", ".", "--out", "a.png"),
    ("study", "run", "absent.yaml"),
    ("train", "absent.yaml"),
    ("prepare", "folder", "absent", "--out", "out"),
    ("prepare", "text", "absent", "--out", "out"),
    ("prepare", "codes", "--images", "absent", "--tokenizer", ".", "--out", "out"),
    ("prepare", "scenes", "--images", "absent", "--out", "out"),
    ("prepare", "views", "--images", "absent", "--out", "out"),
    ("prepare", "bpe", "--data", "absent", "--out", "out"),
    ("prepare", "codec", "--data", "absent", "--out", "out"),
    ("prepare", "shards-check", "absent"),
    ("demo", "--model", "absent"),
    ("demo", "--page", "--models", "absent"),
]


@pytest.mark.parametrize("words", MISSING, ids=" ".join)
def test_what_is_missing_is_told_before_anything_heavy_loads(words: tuple[str, ...], tmp_path: Path) -> None:
    code = f"import sys\nfrom tools import {words[0]} as t\n"
    code += "code = t.main(sys.argv[1:])\nprint(code, 'torch' in sys.modules)"
    arguments = [sys.executable, "-c", code, *words[1:]]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1:] == ["2 False"], done.stderr
    (line,) = done.stderr.splitlines()
    assert "absent" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (console.positive, ["0", "-1", "1.5", "x", "", "9" * 30, "2000000000"]),
        (console.whole, ["-1", "1.5", str(2**63), "9" * 5000]),
        (console.temperature, ["nan", "inf", "-1", "warm"]),
        (console.top_p, ["0", "1.01", "nan"]),
        (console.share, ["1", "-0.1", "nan"]),
        (console.scale, ["nan", "inf", "image=nan", "a=1=2", "=1", "image=1,image=2"]),
        (console.device, ["banana", "cuda:x", "mps", ""]),
        (console.sentence, ["\udcff"]),
    ],
    ids=["positive", "whole", "temperature", "top_p", "share", "scale", "device", "sentence"],
)
def test_values_that_options_refuse(kind: Callable[[str], object], bad: list[str]) -> None:
    for text in bad:
        with pytest.raises(console.argparse.ArgumentTypeError):
            kind(text)


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert console.out_file(str(tmp_path / "new/deep/rows.json"))
    for bad in (tmp_path, f"{tmp_path}/new/", tmp_path / "file/rows.json", "/dev/null", ""):
        with pytest.raises((console.argparse.ArgumentTypeError, OSError)):
            console.out_file(str(bad))
    with pytest.raises(console.argparse.ArgumentTypeError):
        console.out_folder(str(tmp_path / "file"))
    assert not (tmp_path / "new").exists()


def test_a_command_line_is_recorded_as_utf_8() -> None:
    line = console.typed("generate", ["--prompt", "a b", "\udcff.png"])
    assert line == r"mmprime generate --prompt 'a b' '\udcff.png'"
    json.dumps(line, ensure_ascii=False).encode()


def test_many_unknown_words_are_told_at_once() -> None:
    known = frozenset(f"word{number}" for number in range(3000))
    prompt = " ".join(f"strange{number}" for number in range(2000)) + " word7"
    began = time.process_time()
    line = prompts.check_prompt(prompt, known)
    assert time.process_time() - began < 2
    assert line is not None
    assert line.endswith("and 1,992 more")
