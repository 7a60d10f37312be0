"""mmprime COMMAND: quick help, one name for each command, configs by name, and what a start imports."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tools_world import here, model

from mmprime import __version__, cli
from mmprime.cli import console

__all__ = ["here", "model"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def mmprime(*words: object, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mmprime", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, cwd=where)


@pytest.mark.parametrize(
    "words", [[], *([name] for name in cli.COMMANDS)], ids=lambda words: " ".join(words) or "mmprime"
)
def test_help_is_quick(words: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = mmprime(*words, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" ".join(["usage: mmprime", *words]))
    assert after.ru_utime - before.ru_utime < 0.3  # seconds of computing: a busy machine is not the command's fault


def test_a_mistake_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["paint"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'paint'" in line
    assert all(name in line for name in cli.COMMANDS)
    assert mmprime("--version").stdout == f"mmprime {__version__}\n"


def test_a_command_gets_its_options_and_imports_nothing_that_only_training_needs(model: Path, tmp_path: Path) -> None:
    assert mmprime("generate", "--model", "absent", "--prompt", "a", where=tmp_path).returncode == 2
    code = (
        "import sys, json\nfrom mmprime import cli\ncode = cli.main(sys.argv[1:])\n"
        "names = ('vector_quantize_pytorch', 'torch._dynamo', 'webdataset', 'timm', 'torchvision')\n"
        "print(json.dumps([code, [name for name in names if name in sys.modules]]))"
    )
    words = ["generate", "--model", str(model), "--prompt", "red apple", "--num", "1", "--steps", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert done.stdout.startswith("1 picture in out/sample.png; NFE 3 each"), done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


def test_configs_that_ship_are_found_by_name(here: Path) -> None:
    for name in ("toy", "emoji_t2i", "configs/text_sotu.yaml"):
        assert Path(console.config_file(name)).is_file()
    with pytest.raises(ValueError, match=r"CONFIG nothing does not exist; those that ship: .*emoji_t2i, .*toy"):
        console.config_file("nothing")
    Path("toy").write_text("mine")
    assert console.config_file("toy") == "toy"


def test_the_default_model_lies_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert console.model_folder(console.DEFAULT_MODEL) == console.DEFAULT_MODEL
    monkeypatch.setattr(console, "DEFAULT_MODEL", "/absent/assets/models/emoji_t2i")
    with pytest.raises(ValueError, match="checkout of the repository, assets/models; give --model DIR"):
        console.model_folder(console.DEFAULT_MODEL)


NAMED = [
    "generate --model user/tiny --prompt apple",
    "trace --model user/tiny --prompt apple --out OUT",
    "demo --model user/tiny",
    "report schedule --model user/tiny --steps 2 --out OUT/schedule.png",
    "report calibration --model user/tiny --out OUT/calibration.png",
    "prepare codes --images OUT --tokenizer user/tiny --out OUT/codes",
    "prepare tokens --data OUT --tokenizer user/tiny --length 4 --out OUT/tokens",
    "prepare shards-check OUT --text-tokenizer user/tiny",
    "prepare codec --source head --model user/tiny --tokenizer user/tiny --data OUT --out OUT/codec.safetensors",
    "evaluate tokenizer --tokenizer user/tiny",
    *(f"evaluate {name} --model user/tiny" for name in ("likelihood", "captions", "text", "calibration", "samples")),
    "evaluate imagenet --model user/tiny --out OUT/drawn",
    "evaluate geneval --model user/tiny --out OUT/drawn --prompts OUT/prompts.jsonl",
]


@pytest.mark.parametrize("line", NAMED)
def test_commands_take_names_on_the_hub(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each asks the hub for a name that is no path here, and without a network says so in one line."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    from mmprime.models import folders

    asked = []

    def unreached(name: str, **_: object) -> str:
        asked.append(name)
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(folders, "snapshot_download", unreached)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "apple"}\n')
    monkeypatch.setattr(sys, "argv", sys.argv)  # which a command sets
    assert cli.main(line.replace("OUT", str(tmp_path)).split()) == 2
    assert asked == ["user/tiny"]
    assert "user/tiny: the hub cannot be reached; connect to the network" in (said := capsys.readouterr().err)
    assert len(said.strip().splitlines()) == 1


def test_the_folder_of_a_name_is_what_the_hub_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmprime.models import folders

    monkeypatch.setattr(folders, "snapshot_download", lambda name, **_: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no model at user/tiny \(no config.json there\)"):
        console.model_folder("user/tiny")
    (tmp_path / "config.json").write_text('{"tokenizers": {"text": "text_tokenizer"}}')
    assert console.model_folder("user/tiny") == console.pretrained("user/tiny") == str(tmp_path)
    (tmp_path / "config.json").write_text('{"tokenizers": {"text": "../text_tokenizer"}}')
    with pytest.raises(ValueError, match=r"its tokenizer '../text_tokenizer' lies outside"):
        console.model_folder("user/tiny")
    (tmp_path / "user").mkdir()  # a path that is not there yet is no name
    assert console.local_folder("user/tiny") == "user/tiny"


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(model: Path, tmp_path: Path) -> None:
    """Built, installed into an empty environment that borrows only the dependencies, and used from elsewhere."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: object) -> str:
        return subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        ).stdout

    build = ["-m", "pip", "wheel", ROOT, "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path]
    run(sys.executable, *build)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python, site = tmp_path / "venv/bin/python", next((tmp_path / "venv/lib").glob("python*")) / "site-packages"
    (wheel,) = tmp_path.glob("*.whl")
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    code = (
        f"import mmprime; print(mmprime.__file__); p = mmprime.from_pretrained({str(model)!r}); print(p.generate('red')"
    )
    assert run(python, "-c", f"{code}.images.shape)").splitlines() == [
        str(site / "mmprime/__init__.py"),
        "torch.Size([1, 3, 32, 32])",
    ]
    command = tmp_path / "venv/bin/mmprime"
    assert "1 picture" in run(command, "generate", "--model", model, "--prompt", "red apple", "--num", 1, "--steps", 1)
    assert "loss/model" in run(command, "train", "toy", "--dry-run")
