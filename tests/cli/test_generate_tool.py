"""tools/generate.py: pictures, captions, texts; a mistake costs one line, exit code 2 and no file."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_world import write_picture
from tools_world import ROOT, drawings, here, model, run, text_model

from mmprime.cli import generate
from mmprime.engine import SAMPLERS

__all__ = ["drawings", "here", "model", "text_model"]  # fixtures


def test_pictures_film_captions_and_repaint(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    common = ["--model", model, "--steps", 3, "--num", 2, "--scale", 2]
    assert run(generate, [*common, "--prompt", "red apple", "--out", "a.png", "--trace", "a.gif"]) == 0
    said = capsys.readouterr()
    assert "NFE 5 each" in said.out  # three steps, of which linear guidance acts on two
    assert said.err == ""
    with Image.open("a.png") as sheet, Image.open("a.gif") as film:
        assert sheet.size == (2 * 64 + 3 * 2, 64 + 2 * 2)
        assert film.size == sheet.size
        assert film.n_frames == 3

    write_picture(here / "x.png", 40, 20)
    assert run(generate, [*common, "--image", "x.png"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
    box = ["--image", "x.png", "--region", "1,1,11,11"]
    assert run(generate, [*common, *box, "--prompt", "blue car", "--out", "b.png"]) == 0
    assert "is repainted as 0,8,16,24 of 32 x 32" in capsys.readouterr().out
    assert run(generate, [*common, *box, "--out", "c.png"]) == 0
    assert sorted(path.name for path in here.iterdir()) == ["a.gif", "a.png", "b.png", "c.png", "x.png"]


def test_the_box_lies_in_the_upright_picture(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6  # stored 40 x 20, shown 20 x 40
    with Image.open(write_picture(here / "x.png", 40, 20)) as picture:
        picture.save(here / "x.jpg", exif=exif)
    box = ["--image", "x.jpg", "--region", "1,21,11,31", "--prompt", "blue car", "--out", "b.png"]
    assert run(generate, ["--model", model, "--steps", 2, "--num", 1, *box]) == 0
    assert "region 1,21,11,31 of 20 x 40 is repainted as 8,16,24,32 of 32 x 32" in capsys.readouterr().out


def test_samplers_by_name(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(generate, ["--sampler", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SAMPLERS)
    assert any(line.startswith("remdm") and "eta=0.1" in line for line in lines)
    common = ["--model", model, "--steps", 3, "--num", 1, "--prompt", "red apple"]
    assert run(generate, [*common, "--out", "a.png", "--sampler", "remdm", "eta=0.4", "kind=conf"]) == 0
    assert Path("a.png").is_file()


@pytest.mark.parametrize(
    ("guidance", "nfe"),
    [
        (["--guidance", "0"], 4),
        (["--guidance", "image=3,text=1"], 7),
        (["--guidance", "text=1"], 4),
        (["--guidance", "2", "--guidance-schedule", "constant"], 8),
        (["--guidance-schedule", "interval:0.5:0.75"], 5),
    ],
)
def test_guidance_costs_what_it_does(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str], guidance: list[str], nfe: int
) -> None:
    """Four steps of equal size: interval:0.5:0.75 holds the third."""
    assert run(generate, ["--model", model, "--steps", 4, "--num", 1, "--prompt", "red apple", *guidance]) == 0
    assert f"NFE {nfe} each" in capsys.readouterr().out


def test_same_seed_same_file(model: Path, here: Path) -> None:
    from PIL import Image, ImageChops

    common = ["--model", model, "--steps", 3, "--prompt", "red apple", "--scale", 1]
    for number, name in ((1, "one.png"), (1, "again.png"), (3, "three.png")):
        assert run(generate, [*common, "--num", number, "--out", name]) == 0
    assert Path("one.png").read_bytes() == Path("again.png").read_bytes()
    with Image.open("one.png") as one, Image.open("three.png") as three:
        assert one.size == (32, 32), "one picture is no sheet"
        difference = ImageChops.difference(one, three.crop((1, 1, 33, 33))).getextrema()
    assert max(high for _, high in difference) <= 1


def test_texts(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", text_model, "--num", 2, "--steps", 3]
    assert run(generate, [*common, "--prompt", "The state", "--new-tokens", 4, "--out", "t.txt"]) == 0
    said = capsys.readouterr()
    assert Path("t.txt").read_text().startswith("The state")
    assert "2 texts; NFE 3 each" in said.err
    assert run(generate, [*common, "--prompt", "a ___ of", "--blank-tokens", 2]) == 0
    assert capsys.readouterr().out.startswith("a")


def test_a_sampler_strange_to_the_model_is_named(
    text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(text_model.parent, here / "copy") / text_model.name
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"trained_on": ["token_synchronous"]}))
    common = ["--model", folder, "--num", 1, "--steps", 2, "--new-tokens", 4, "--prompt", "The"]
    for sampler, warned in (("nested", True), ("p2", False)):
        assert run(generate, [*common, "--sampler", sampler]) == 0
        assert ("warning: the model was trained on whole tokens" in capsys.readouterr().err) == warned


def test_unknown_words_are_named(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(generate, ["--model", model, "--steps", 1, "--num", 1, "--prompt", "red appel", "--out", "a.png"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "'appel' (nearest: apple)" in lines[0]


MISTAKES = [
    ([], "nothing is asked"),
    (["--prompt", ""], "empty"),
    (["--prompt", "  "], "empty"),
    (["--prompt", "qqq zzz"], "no word of the prompt"),
    (["--prompt", "red apple red apple red apple"], "the length is 16"),
    (["--prompt", "red apple", "--model", "absent"], "no model at absent"),
    (["--prompt", "red apple", "--out", "a.xyz"], "no picture format"),
    (["--prompt", "red apple", "--trace", "a.mp4"], "a film is a .gif"),
    (["--prompt", "red apple", "--steps", "0"], "at least 1"),
    (["--prompt", "red apple", "--num", "many"], "not a whole number"),
    (["--prompt", "red apple", "--temperature", "-1"], "temperature"),
    (["--prompt", "red apple", "--top-p", "2"], "--top-p: '2' is no number in (0, 1]"),
    (["--prompt", "red apple", "--plan", "nested"], "--plan is called --sampler"),
    (["--prompt", "red apple", "--sampler", "p2", "steps=4"], "an option of its own, --steps 4"),
    (["--prompt", "red apple", "--sampler", "random"], "unknown sampler 'random'"),
    (["--prompt", "red apple", "--sampler", "remdm", "eta"], "'eta' is not key=value"),
    (["--prompt", "red apple", "--sampler", "remdm", "speed=3"], "no option 'speed'; it has unit, kind, eta, hold"),
    (["--prompt", "red apple", "--guidance", "-2"], "guidance must be a finite number >= -1, got -2"),
    (["--prompt", "red apple", "--guidance", "image:3"], "neither a number nor SPAN=NUMBER"),
    (["--prompt", "red apple", "--guidance", "image=1,image=2"], "each span once"),
    (["--prompt", "red apple", "--guidance", "image=1=2"], "neither a number nor SPAN=NUMBER"),
    (["--prompt", "red apple", "--guidance", "picture=3"], "no span 'picture'"),
    (["--prompt", "red apple", "--guidance-schedule", "interval:0.8:0.2"], "no guidance schedule 'interval:0.8:0.2'"),
    (["--prompt", "red apple", "--label", "3"], "label '3': this model knows no classes"),
    (["--region", "0,0,8,8"], "needs the --image"),
    (["--image", "absent.png"], "no image at absent.png"),
    (["--image", "text.png"], "text.png is not a readable image"),
    (["--image", "x.png", "--prompt", "red apple"], "needs --region"),
    (["--image", "x.png", "--region", "0,0,8"], "four whole numbers"),
    (["--image", "x.png", "--region", "8,0,8,8"], "is empty"),
    (["--image", "x.png", "--region", "0,0,33,8"], "leaves the image, which is 32 x 32"),
    (["--image", "x.png", "--region=-1,0,8,8"], "leaves the image"),
    (["--image", "x.png", "--region", "0,0,8,8", "--prompt", ""], "empty"),
    (["--image", "x.png", "--trace", "a.gif"], "this request makes text"),
]


@pytest.mark.parametrize(("arguments", "complaint"), MISTAKES, ids=[" ".join(m[0]) or "nothing" for m in MISTAKES])
def test_a_mistake_costs_one_line_and_no_file(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    write_picture(here / "x.png")
    (here / "text.png").write_text("no picture")
    chosen = [] if "--model" in arguments else ["--model", model]
    assert run(generate, [*chosen, *arguments]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert complaint in said.err
    assert sorted(path.name for path in here.iterdir()) == ["text.png", "x.png"]


def test_a_text_model_knows_no_pictures(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(here / "x.png")
    assert run(generate, ["--model", text_model, "--image", "x.png"]) == 2
    assert "knows no images" in capsys.readouterr().err
    assert run(generate, ["--model", text_model, "--prompt", "x" * 30]) == 2
    assert "no room" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["generate", "evaluate", "demo", "trace"])
def test_help_is_quick_and_loads_no_torch(tool: str) -> None:
    code = f"import sys; sys.argv = ['{tool}', '--help']\nfrom tools import {tool} as t\n"
    code += "try: t.main()\nexcept SystemExit: pass\n"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules, 'numpy' in sys.modules)"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "False False"
    assert "usage" in done.stdout
    assert after.ru_utime - before.ru_utime < 1
