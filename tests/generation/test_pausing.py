"""tools/generate.py with regions and paused runs: what goes on is what was, and what does not fit is refused."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tools_world import here, model, text_model

from mmprime.cli import generate
from mmprime.engine import Guidance, Region, sampler_of
from mmprime.engine.samplers import Regions
from mmprime.generation.pausing import FORMAT, load_paused, save_paused
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.sampling import SamplingConfig

__all__ = ["here", "model", "text_model"]  # fixtures


@pytest.fixture(scope="module")
def pipe(model: Path) -> Pipeline:
    return from_pretrained(model)


def run(*arguments: object) -> int:
    try:
        return generate.main([str(each) for each in arguments])
    except SystemExit as done:
        return int(done.code or 0)


def pixels(path: str) -> bytes:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.tobytes()


HALVES = "- {name: left, box: '0,0,16,32', window: '0, 0.5'}\n- {name: right, box: '16,0,32,32', window: '0.5, 1'}\n"


@pytest.mark.parametrize("sampler", [["nested"], ["ancestral"], ["confidence"], ["remdm"], ["entropy_bounded"]])
def test_a_paused_run_ends_as_one_that_never_stopped(model: Path, here: Path, sampler: list[str]) -> None:
    common = ["--model", model, "--prompt", "red apple", "--steps", 6, "--num", 2, "--sampler", *sampler]
    assert run(*common, "--out", "whole.png") == 0
    assert run(*common, "--out", "half.png", "--pause-at", 2) == 0
    assert run("--model", model, "--resume-from", "half.safetensors", "--out", "end.png", "--pause-at", 4) == 0
    assert run("--model", model, "--resume-from", "end.safetensors", "--out", "end.png") == 0
    assert pixels("end.png") == pixels("whole.png")
    assert pixels("half.png") != pixels("whole.png")


def test_left_now_and_right_after_a_look(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("halves.yaml").write_text(HALVES)
    common = ["--model", model, "--prompt", "red apple", "--steps", 6, "--num", 2]
    assert run(*common, "--regions", "halves.yaml", "--out", "whole.png") == 0
    assert run(*common, "--regions", "halves.yaml", "--pause-at", "left", "--out", "half.png") == 0
    assert "paused after step 3; go on with --resume-from half.safetensors" in capsys.readouterr().out
    canvas = from_pretrained(model).canvas
    state, left = load_file("half.safetensors")["state.y"], canvas.mask("image", box=(0, 0, 2, 4))
    right = canvas.mask("image") & ~left
    assert (state[:, left] >= 0).all()
    assert (state[:, right] < 0).all()
    assert run("--model", model, "--resume-from", "half.safetensors", "--out", "same.png") == 0
    assert pixels("same.png") == pixels("whole.png")
    assert run("--model", model, "--resume-from", "half.safetensors", "--prompt", "blue car", "--out", "b.png") == 0
    assert run("--model", model, "--resume-from", "half.safetensors", "--region", "0,0,8,8", "--out", "c.png") == 0
    assert len({pixels(name) for name in ("same.png", "b.png", "c.png")}) == 3


def test_regions_in_words_of_a_command_line(model: Path, here: Path) -> None:
    common = ["--model", model, "--prompt", "red apple", "--steps", 4, "--num", 1, "--scale", 1]
    rules = ["--region", "box=0,0,32,16", "window=0,0.5", "order=halton", "--region", "name=low", "box=0,16,32,32",
             "window=0.5,1", "temperature=0"]  # fmt: skip
    assert run(*common, *rules, "--out", "a.png", "--pause-at", "region 1") == 0
    with safe_open("a.safetensors", "pt") as file:
        assert FORMAT in file.metadata()["request"]
    assert run("--model", model, "--resume-from", "a.safetensors", "--out", "a.png") == 0


def test_a_text_that_waits(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", text_model, "--prompt", "ab ___ cd ___", "--blank-tokens", 2, "--num", 2, "--steps", 4]
    assert run(*common) == 0
    whole = capsys.readouterr().out.splitlines()
    first = ["--region", "name=one", "blanks=1", "window=0,0.5", "--region", "blanks=2", "window=0.5,1"]
    assert run(*common, *first, "--pause-at", "one", "--out", "t.txt") == 0
    for line in capsys.readouterr().out.splitlines()[:2]:
        assert line.startswith("ab")
        assert line.endswith("___")
    assert run("--model", text_model, "--resume-from", "t.safetensors") == 0
    assert all("___" not in line for line in capsys.readouterr().out.splitlines()[:2])
    assert len(whole) == 2


def test_a_file_keeps_the_request(pipe: Pipeline, tmp_path: Path) -> None:
    mask = pipe.canvas.mask("image", box=(0, 0, 2, 2))
    scale = torch.zeros(pipe.canvas.num_tokens)
    scale[-3:] = 2.0
    parts = (Region("corner", mask, (0.0, 1.0), sampler_of("halton", {"pace": "cosine"}), 2, 0.5, 1.5),)
    config = SamplingConfig(Regions(parts=parts), 5, Guidance(scale, "constant"), 0.9, 0.95, seed=3, pause=2)
    found = pipe.generate("red apple", 2, config)
    assert found.paused is not None
    save_paused(tmp_path / "run.safetensors", found.paused, pipe.card.weights)
    again = load_paused(tmp_path / "run.safetensors", pipe.card.weights)
    assert again.prompts == ("red apple", "red apple")
    assert again.step == 2
    assert isinstance(again.config.guidance, Guidance)
    assert torch.equal(again.config.guidance.scales(pipe.canvas), config.guidance.scales(pipe.canvas))  # type: ignore[union-attr]
    (region,) = again.config.regions
    assert torch.equal(region.mask, mask)
    assert {**vars(region), "mask": 0} == {**vars(parts[0]), "mask": 0}
    for name in ("steps", "temperature", "top_p", "seed"):
        assert getattr(again.config, name) == getattr(config, name), name
    assert again.state.keys() == found.paused.state.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume-from", "none.safetensors"], "no paused run at none.safetensors"),
        (["--resume-from", "halves.yaml"], "halves.yaml is no paused run"),
        (["--resume-from", "other.safetensors"], "was paused with weights 0123456789ab"),
        (["--resume-from", "plain.safetensors"], "is no paused run: its header says None"),
        (["--resume-from", "half.safetensors", "--steps", "9"], "--steps belongs to the paused run"),
        (["--resume-from", "half.safetensors", "--region", "box=0,0,8,8", "window=0,1"], "keeps its regions"),
        (["--resume-from", "half.safetensors", "--region", "0,0,99,8"], "leaves the picture of 32 x 32 pixels"),
        (["--prompt", "red apple", "--pause-at", "sky"], "no region 'sky' to pause after"),
        (["--prompt", "red apple", "--regions", "halves.yaml", "--sampler", "halton"], "leave out --sampler halton"),
        (["--prompt", "red apple", "--region", "box=0,0,8,8", "budget=0"], "budget"),
        (["--prompt", "red apple", "--region", "box=0,0,8,8", "window=0.5,0.2"], "window"),
        (["--prompt", "red apple", "--region", "box=0,0,8,8", "--region", "box=0,0,8,16", "order=halton"], "overlap"),
        (["--prompt", "red apple", "--region", "span=image", "window=0,0.5"], "window"),
        (["--prompt", "red apple", "--region", "span=image", "order=confidence"], "looks at the data"),
        (["--prompt", "red apple", "--top-p", "0"], "--top-p"),
        (["--prompt", "red apple", "--top-p", "1.5"], "1.5"),
    ],
)
def test_what_does_not_fit_costs_one_line(
    model: Path, pipe: Pipeline, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    Path("halves.yaml").write_text(HALVES)
    paused = pipe.generate("red apple", 1, SamplingConfig("nested", 4, pause=2)).paused
    assert paused is not None
    save_paused("half.safetensors", paused, pipe.card.weights)
    save_paused("other.safetensors", paused, "0123456789abcdef")
    save_file({"a": torch.zeros(1)}, "plain.safetensors")
    before = sorted(here.iterdir())
    assert run("--model", model, "--out", "out.png", *words) == 2
    error = capsys.readouterr().err.strip()
    assert said in error, error
    assert len(error.splitlines()) == 1
    assert sorted(here.iterdir()) == before
