"""tools/trace.py: what it writes, and its mistakes."""

from __future__ import annotations

import html
import json
from importlib import util
from pathlib import Path

import pytest
from pipeline_world import write_picture
from tools_world import drawings, here, model, run, text_model

from mmprime.cli import trace
from mmprime.engine import SAMPLERS
from mmprime.evaluation.provenance import model_hash

__all__ = ["drawings", "here", "model", "text_model"]  # fixtures


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
    assert found["command"].startswith("mmprime trace --model")
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
    (["--label", "3"], "label '3': this model knows no classes"),
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
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SAMPLERS)
    monkeypatch.setattr("mmprime.evaluation.plots.util.find_spec", lambda name: None)
    assert run(trace, ["--model", text_model, "--prompt", "a"]) == 2
    assert capsys.readouterr().err == "error: drawing needs matplotlib: pip install 'mmprime[plots]'\n"
    assert list(here.iterdir()) == []
