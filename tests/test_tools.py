"""The command lines of tools/: what they write, and that a mistake costs one line, exit code 2 and no file."""

from __future__ import annotations

import html
import json
import resource
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from pipeline_world import CAPTIONS, tiny_image_tokenizer, write_picture, write_text_image_model, write_text_model

from mmprime import console
from mmprime.data import encode_dataset, prepare_folder, prepare_text
from mmprime.evaluation.provenance import model_hash
from tools import demo, evaluate, generate, prepare, trace

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_image_model(tmp_path_factory.mktemp("t2i"))


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that a stray file would be seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(tool: object, arguments: list[object]) -> int:
    """The exit code of a tool, whether it returns or exits."""
    try:
        return tool.main([str(each) for each in arguments])  # type: ignore[attr-defined]
    except SystemExit as done:
        return int(done.code or 0)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with captioned drawings in `images` and their codes by the tiny tokenizer in `codes`."""
    folder = tmp_path_factory.mktemp("drawings")
    (folder / "raw").mkdir()
    lines = []
    for number in range(12):
        write_picture(folder / "raw" / f"{number}.png", shade=20 * number)
        lines.append(json.dumps({"file_name": f"{number}.png", "text": CAPTIONS[number % 3]}))
    (folder / "raw" / "metadata.jsonl").write_text("\n".join(lines))
    prepare_folder(folder / "raw", folder / "images", size=32, split_fraction=0.4)
    encode_dataset(folder / "images", tiny_image_tokenizer(), folder / "codes")
    return folder


# ---------------------------------------------------------------- generate


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


def test_samplers_by_name(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(generate, ["--sampler", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(console.PLANS)
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
        place = (1, 1, 33, 33)
        difference = ImageChops.difference(one.crop(place), three.crop(place)).getextrema()
    assert max(high for _, high in difference) <= 1


def test_texts(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", text_model, "--num", 2, "--steps", 3]
    assert run(generate, [*common, "--prompt", "The state", "--new-tokens", 4, "--out", "t.txt"]) == 0
    said = capsys.readouterr()
    assert Path("t.txt").read_text().startswith("The state")
    assert "2 texts; NFE 3 each" in said.err
    assert run(generate, [*common, "--prompt", "a ___ of", "--blank-tokens", 2]) == 0
    assert capsys.readouterr().out.startswith("a")


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
    (["--prompt", "red apple", "--top-p", "2"], "top_p"),
    (["--prompt", "red apple", "--plan", "random"], "unknown sampler 'random'"),
    (["--prompt", "red apple", "--sampler", "remdm", "eta"], "'eta' is not key=value"),
    (["--prompt", "red apple", "--sampler", "remdm", "speed=3"], "no option 'speed'; it has kind, eta, hold"),
    (["--prompt", "red apple", "--guidance", "-2"], "guidance must be a finite number >= -1, got -2"),
    (["--prompt", "red apple", "--guidance", "image:3"], "neither a number nor SPAN=NUMBER"),
    (["--prompt", "red apple", "--guidance", "image=1,image=2"], "each span once"),
    (["--prompt", "red apple", "--guidance", "image=1=2"], "neither a number nor SPAN=NUMBER"),
    (["--prompt", "red apple", "--guidance", "picture=3"], "no span 'picture'"),
    (["--prompt", "red apple", "--guidance-schedule", "interval:0.8:0.2"], "no guidance schedule 'interval:0.8:0.2'"),
    (["--prompt", "red apple", "--label", "3"], "cannot be conditioned on label"),
    (["--region", "0,0,8,8"], "needs the --image"),
    (["--image", "absent.png"], "no image at absent.png"),
    (["--image", "text.png"], "not an image"),
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


# ---------------------------------------------------------------- trace

needs_plots = pytest.mark.skipif(util.find_spec("matplotlib") is None, reason="matplotlib (extra `plots`) is missing")


@needs_plots
def test_trace_of_pictures(model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    common = ["--model", model, "--prompt", "red apple", "--steps", 3, "--out", "t"]
    assert run(trace, [*common, "--num", 2, "--scale", 1, "--sampler", "halton", "pace=cosine", "--seed", 5]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 traced, 3 steps, NFE 5 each")
    names = ["entropy.png", "film.gif", "order.png", "strip.png", "trace.json"]
    assert said[1:] == [f"t/{name}" for name in names]
    assert sorted(path.name for path in (here / "t").iterdir()) == names
    with Image.open("t/strip.png") as strip, Image.open("t/film.gif") as film:
        assert strip.width == 3 * (32 + 4) + 4  # three steps side by side
        assert strip.height > 2 * 32
        assert film.n_frames == 3
    found = json.loads(Path("t/trace.json").read_text())
    assert (found["sampler"], found["seed"], found["guidance"], found["num_steps"]) == ("halton pace=cosine", 5, "3", 3)
    assert found["model_hash"] == model_hash(model)
    assert found["command"].startswith("python tools/trace.py --model")
    image = found["examples"][1]["spans"]["image"]
    assert {rank for token in image["rank"] for rank in token} == {1, 2, 3}
    assert all(0 < each <= 1 for token in image["confidence"] for each in token)


@needs_plots
@pytest.mark.parametrize("prompt", ["<script>a", "a ___ </b>"])
def test_trace_of_texts(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str], prompt: str) -> None:
    common = ["--model", text_model, "--steps", 4, "--num", 2, "--out", "t"]
    assert run(trace, [*common, "--prompt", prompt, "--new-tokens", 4]) == 0
    assert sorted(path.name for path in (here / "t").iterdir()) == ["entropy.png", "trace.html", "trace.json"]
    page, found = Path("t/trace.html").read_text(), json.loads(Path("t/trace.json").read_text())
    assert prompt not in page
    assert html.escape(prompt) in page
    data = json.loads(page.partition('id="trace">')[2].partition("</script>")[0])
    drawn = [[token for token in text if token["digits"][0]["rank"] > 0] for text in data["texts"]]
    assert [len(text) for text in drawn] == [4, 4]
    assert len(found["examples"]) == 2
    assert all(text["changes"][0] == [0, "00", "░░░"] for text in drawn[0])
    ranks = [[digit["rank"] for digit in token["digits"]] for token in drawn[0]]
    for (step, known, _), rank in (
        (change, rank) for token, rank in zip(drawn[0], ranks) for change in token["changes"]
    ):
        assert known == "".join(str(int(each <= step)) for each in rank)


TRACE_MISTAKES = [
    ([], "nothing is asked"),
    (["--prompt", " "], "empty"),
    (["--prompt", "red apple", "--model", "absent"], "no model at absent"),
    (["--prompt", "red apple", "--num", "17"], "at most 16"),
    (["--prompt", "red apple", "--steps", "0"], "at least 1"),
    (["--prompt", "red apple", "--sampler", "random"], "unknown sampler 'random'"),
    (["--prompt", "red apple", "--sampler", "halton", "pace"], "'pace' is not key=value"),
    (["--prompt", "red apple", "--out", "x.png"], "x.png is a file"),
    (["--prompt", "qqq zzz"], "no word of the prompt"),
    (["--label", "3"], "cannot be conditioned on label"),
]


@needs_plots
@pytest.mark.parametrize(("arguments", "complaint"), TRACE_MISTAKES, ids=[" ".join(m[0]) for m in TRACE_MISTAKES])
def test_trace_mistakes(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    write_picture(here / "x.png")
    chosen = [] if "--model" in arguments else ["--model", model]
    assert run(trace, [*chosen, *arguments]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert complaint in said.err
    assert [path.name for path in here.iterdir()] == ["x.png"]


@needs_plots
def test_trace_of_a_text_needs_a_prompt(
    text_model: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(trace, ["--model", text_model, "--label", "1"]) == 2
    assert "needs a --prompt" in capsys.readouterr().err
    assert run(trace, ["--sampler", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(console.PLANS)
    monkeypatch.setattr("mmprime.evaluation.plots.util.find_spec", lambda name: None)
    assert run(trace, ["--model", text_model, "--prompt", "a"]) == 2
    assert capsys.readouterr().err == "error: drawing needs matplotlib: pip install 'mmprime[plots]'\n"
    assert list(here.iterdir()) == []


# ---------------------------------------------------------------- evaluate and demo


def test_likelihood_rows(model: Path, drawings: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = drawings / "codes"
    arguments = ["likelihood", "--model", model, "--data", data, "--steps", "2", "--laws", "nested", "--limit", "2"]
    assert run(evaluate, [*arguments, "--json", "r.json"]) == 0
    rows = json.loads(Path("r.json").read_text())
    names = {(row["metric"], row["unit"]) for row in rows}
    assert ("val: nelbo image|text continuous nested", "bits/dimension (of codes)") in names
    assert ("val: nelbo text|image T=2 nested", "perplexity (bound)") in names
    assert ("val: joint_loss joint nested", "nats/token, no bound") in names
    assert all(row["stderr"] is not None and row["num_samples"] == 2 for row in rows)
    assert all(row["command"].startswith("python tools/evaluate.py likelihood --model") for row in rows)
    said = capsys.readouterr().out
    assert "no bound on the negative log-likelihood" in said
    assert not any("joint_loss" in metric and "perplexity" in unit for metric, unit in names)


def test_likelihood_under_place_powers(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.txt").write_text("the state of the union is as it was " * 8)
    arguments = ["likelihood", "--model", text_model, "--data", "a.txt", "--steps", "2", "--laws", "independent"]
    assert run(evaluate, [*arguments, "--place-powers", "1,2.5", "--json", "r.json"]) == 0
    names = {row["metric"] for row in json.loads(Path("r.json").read_text())}
    for time in ("continuous", "T=2"):
        assert {f"a: nelbo text {time} independent", f"a: nelbo text {time} independent places 1,2.5"} <= names
    capsys.readouterr()
    assert run(evaluate, [*arguments, "--place-powers", "1,2,3"]) == 2
    assert "place powers [1.0, 2.0, 3.0]: one for each digit" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main(["likelihood", "--place-powers", "1,-2"])
    assert "'1,-2' is no list of numbers > 0" in capsys.readouterr().err


def test_likelihood_of_text(text_model: Path, here: Path) -> None:
    (here / "docs").mkdir()
    for number in range(4):
        (here / "docs" / f"{number}.txt").write_text("the state of the union is as it was " * 4)
    prepare_text([here / "docs"], here / "texts")
    split = "train"
    arguments = [
        "likelihood",
        "--model",
        text_model,
        "--data",
        "texts",
        "--split",
        split,
        "--steps",
        "2",
        "--json",
        "r.json",
    ]
    assert run(evaluate, [*arguments, "--limit", "4"]) == 0
    rows = {(row["metric"], row["unit"]): row["value"] for row in json.loads(Path("r.json").read_text())}
    name = "train: nelbo text continuous independent"
    bits = rows[name, "nats/token"] / 0.6931471805599453
    assert rows[name, "bits/byte"] == pytest.approx(bits, rel=0.1)  # a byte tokenizer: one token a byte, but for ends


def test_caption_accuracy(
    model: Path, drawings: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMPRIME_CACHE", str(here / "cache"))
    arguments = ["captions", "--model", model, "--data", drawings / "images", "--num", "3", "--steps", "2"]
    assert run(evaluate, [*arguments, "--save", "drawn", "--json", "r.json"]) == 0
    generated, chance = json.loads(Path("r.json").read_text())
    assert (generated["num_samples"], generated["nfe"]) == (3, 3)
    assert 0 <= generated["value"] <= 1
    assert chance["value"] == pytest.approx(1 / 3)
    assert len(list(Path("drawn").glob("*.png"))) == 3
    capsys.readouterr()
    assert run(evaluate, [*arguments, "--num", "4"]) == 2
    assert "asked for 4 captions, the data has 3" in capsys.readouterr().err


def test_demo(model: Path, drawings: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    data = ["--images", drawings / "images", "--data", drawings / "codes", "--split", "val"]
    assert run(demo, ["--model", model, *data, "--steps", "2", "--limit", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0].strip(":") for line in said] == ["model", "drawn", "read", "NELBO", "NELBO", "all"]
    assert all(" ± " in line and "nats/token" in line for line in said[3:5])
    with Image.open("out/demo.png") as sheet:
        assert sheet.width > 3 * 128
    assert [path.name for path in here.rglob("*.*")] == ["demo.png"]


def test_evaluation_mistakes(model: Path, drawings: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = drawings / "codes"
    before = sorted(here.rglob("*"))
    score = ["likelihood", "--model", model]
    for arguments, complaint in (
        (score, "give --data PATH"),
        ([*score, "--data", data, "--split", "test"], "no split 'test'"),
        ([*score, "--data", data, "--tasks", "sound"], "no task 'sound'"),
        ([*score, "--data", data, "--laws", "sorted"], "unknown 'sorted'"),
        ([*score, "--data", here / "absent"], "absent"),
        (["likelihood", "--model", "absent"], "no model at absent"),
        (["samples", "--generated", "a", "--reference", "b"], "--inception"),
        (["samples", "--generated", "a", "--reference", "b", "--metric", "fd-effnet-lite0"], "no folder at a"),
        (["captions", "--model", "absent"], "no model at absent"),
        ([], "required"),
    ):
        assert run(evaluate, [*arguments, *(["--json", "r.json"] if arguments else [])]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert complaint in said
    assert sorted(here.rglob("*")) == before


def test_demo_without_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(demo, ["--model", "absent"]) == 2
    assert "no model at absent" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_place_powers_are_searched_and_kept(text_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.txt").write_text("the state of the union is as it was " * 8)
    before = {file: file.read_bytes() for file in text_model.iterdir()}
    arguments = ["schedule", "--model", text_model, "--data", "a.txt", "--limit", "6", "--samples", "1"]
    arguments += ["--iterations", "4", "--batch", "4", "--ratios", "0.5,1", "--steps", "4", "--out", "p.json"]
    assert run(prepare, arguments) == 0
    said = capsys.readouterr().out
    assert "a: text, 6 examples, T = 4" in said
    assert said.count("minus powers of 1") == 3
    stored = json.loads(Path("p.json").read_text())
    assert f"--place-powers {','.join(f'{power:.4g}' for power in stored['place_powers'])}" in said
    assert (stored["steps"], stored["num_examples"], len(stored["path"])) == (4, 6, 4)
    assert len(stored["model_hash"]) == 16
    assert {file: file.read_bytes() for file in text_model.iterdir()} == before
    assert run(prepare, [*arguments, "--ratios", "40"]) == 2
    assert "between 1/16 and 16, got [40.0]" in capsys.readouterr().err
