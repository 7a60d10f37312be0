"""The page without its widgets: runs step by step, edits, rules of a brush, limits, what is shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from pipeline_world import write_picture, write_text_image_model, write_text_model
from tools_world import here, model, run, text_model

from mmprime import from_pretrained
from mmprime.cli import console, demo
from mmprime.cli.page import views
from mmprime.cli.page.growth import Growth
from mmprime.cli.page.limits import Limits, brushed_codes
from mmprime.cli.page.requests import PLANS, Asked, PageRequests
from mmprime.cli.page.rules import RULES

__all__ = ["here", "model", "text_model"]  # fixtures

HOW = Asked("pictures", "nested", steps=6, guidance=2.0, seed=3)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> PageRequests:
    pictures, texts = (
        from_pretrained(write(tmp_path_factory.mktemp("page"))) for write in (write_text_image_model, write_text_model)
    )
    return PageRequests({"pictures": pictures, "texts": texts})


@pytest.fixture
def left() -> torch.Tensor:
    """Codes (4, 4): the left half is brushed."""
    return (torch.arange(4) < 2).expand(4, 4).clone()


def last(growths: object) -> Growth:
    *_, end = growths  # type: ignore[misc]
    return end


def image_of(desk: PageRequests, values: torch.Tensor) -> torch.Tensor:
    """(N,) -> (4, 4, 2): of the image span."""
    return desk.pipes["pictures"].canvas.view(values[None], "image")[0].view(4, 4, 2)


@pytest.mark.parametrize("sampler", ["nested", "p2", "entropy_bounded"])
def test_a_run_that_is_watched_is_the_run_that_is_not(desk: PageRequests, sampler: str) -> None:
    growths = list(desk.paint("red apple", replace(HOW, sampler=sampler)))
    pipe = desk.pipes["pictures"]
    _, config = desk._sampling("image", replace(HOW, sampler=sampler))
    whole = pipe.generate("red apple", 1, replace(config, trace=True))
    assert torch.equal(growths[-1].picture(), whole.images[0])
    assert growths[-1].passes == int(whole.nfe[0])
    assert torch.equal(growths[-1].rank, whole.rank[0])
    assert whole.trace is not None
    assert torch.equal(growths[-1].entropy.nan_to_num(-1), whole.trace.entropy[0].nan_to_num(-1))
    assert [each.steps for each in growths] == list(range(1, len(whole.trace.y) + 1))
    for each, y in zip(growths, whole.trace.y[:, 0]):
        assert each.known == pytest.approx(float((y[pipe.canvas.mask("image")] >= 0).double().mean()))
    assert growths[-1].paused is None


def test_half_known_codes_are_their_average(desk: PageRequests) -> None:
    from mmprime.generation.images import partial_images

    pipe = desk.pipes["pictures"]
    first = next(desk.paint("red apple", HOW))
    assert first.paused is not None
    y = first.paused.state["y"]
    halves = (pipe.canvas.view(y, "image") >= 0).sum(-1)
    assert bool((halves == 1).any()), "nested shows no half-known code here"
    assert torch.equal(first.picture(), partial_images(y, pipe.canvas, pipe.image_tokenizer)[0])


def test_pause_look_edit_go_on(desk: PageRequests, left: torch.Tensor) -> None:
    growths = desk.paint("red apple", HOW)
    paused = [next(growths) for _ in range(4)][-1]
    end = last(desk.resume(paused, left, "blue car"))
    before, after = image_of(desk, paused.rank), image_of(desk, end.rank)
    kept = (before >= 0) & ~left[..., None]
    assert bool(kept.any())
    assert torch.equal(before[kept], after[kept])
    assert bool((after[left] > 4).all()), "what is brushed is drawn after the edit"
    assert (end.prompt, end.paused, end.known) == ("blue car", None, 1.0)
    assert end.steps == 6
    assert end.passes > paused.passes
    assert end.frames[:4] == paused.frames
    plain = last(desk.resume(paused, None, "red apple"))
    assert torch.equal(plain.picture(), last(desk.paint("red apple", HOW)).picture())
    with pytest.raises(ValueError, match="nothing is paused; draw"):
        desk.resume(end, None, "red apple")
    with pytest.raises(ValueError, match="nothing is paused"):
        desk.resume(None, None, "red apple")


def test_rules(desk: PageRequests, left: torch.Tensor) -> None:
    image = last(desk.paint("red apple", HOW)).picture()
    pipe = desk.pipes["pictures"]
    codes = pipe.encode_images(image[None])[0]
    right, ranks = ~left, {}
    for rule in RULES:
        end = last(desk.repaint(image, left, rule, "green apple", HOW))
        ranks[rule] = image_of(desk, end.rank)
        assert end.known == 1.0
        pixels = end.picture()
        for part, same in ((left, rule == "freeze"), (right, rule == "paint anew")):
            inside = part.repeat_interleave(8, 0).repeat_interleave(8, 1)
            assert torch.equal(pixels[:, inside], image[:, inside]) == same
    assert bool((ranks["paint anew"][right] == 0).all())
    assert bool((ranks["paint anew"][left] > 0).all())
    assert bool((ranks["freeze"][left] == 0).all())
    assert bool((ranks["freeze"][right] > 0).all())
    coarse, fine = ranks["coarse until the middle"][left].unbind(-1)
    assert (int(coarse.min()), int(coarse.max())) == (1, 3)
    assert (int(fine.min()), int(fine.max())) == (4, 6)
    assert int(ranks["first"][left].max()) == 3
    assert int(ranks["first"][right].min()) == 4
    assert int(ranks["last"][left].min()) == 4
    assert int(ranks["last"][right].max()) == 3
    assert codes.shape == left.shape


def test_two_side_by_side(desk: PageRequests) -> None:
    pairs = list(desk.compare("red apple", replace(HOW, steps=2), replace(HOW, steps=5, guidance=0.0)))
    assert [(a.steps, b.steps) for a, b in pairs] == [(1, 1), (2, 2), (2, 3), (2, 4), (2, 5)]
    assert (pairs[-1][0].passes, pairs[-1][1].passes) == (3, 5)
    assert pairs[-1][0] is pairs[1][0]


def test_captions_and_texts(desk: PageRequests) -> None:
    image = last(desk.paint("red apple", HOW)).picture()
    best, spent = desk.caption(image, 3, replace(HOW, steps=4))
    assert 1 <= len(best) <= 3
    assert [nats for _, nats in best] == sorted(nats for _, nats in best)
    assert spent.startswith("3 readings, ")
    growths = list(desk.fill("a ___ b", 2, Asked("texts", steps=4)))
    assert "___" in str(growths[0].frames[-1])
    text = str(growths[-1].frames[-1])
    assert text.startswith("a")
    assert text.endswith(" b")
    assert "___" not in text


# ---------------------------------------------------------------- what is refused, in one sentence


NAN = float("nan")
TEXTS = Asked("texts")
PAINTED = [  # the prompt, what is asked for otherwise than in HOW, what is said
    ("  ", {}, "the prompt is empty; type"),
    ("a" * 10**6, {}, "the prompt has 1,000,000 characters, and at most 300"),
    ("red apple " * 9, {}, "longer than the 15 tokens"),
    ("zzzz", {}, "occurs in the training captions"),
    ("red \udcff", {}, "is no UTF-8"),
    ("red", {"sampler": "fast"}, "no sampler is called 'fast'; there are as the model says, ancestral"),
    ("red", {"model": "texts"}, "no model of pictures is called 'texts'; there are pictures"),
    ("red", {"steps": 65}, "steps must be a whole number from 1 to 64, not '65'"),
    ("red", {"steps": 1.5}, "steps must be a whole number from 1 to 64, not '1.5'"),
    ("red", {"guidance": NAN}, "guidance must be a number from 0 to 10, not 'nan'"),
    ("red", {"seed": -1}, "the seed must be a whole number from 0 to"),
    ("red", {"temperature": None}, "temperature must be a number from 0 to 4, not 'None'"),
]


@pytest.mark.parametrize(("prompt", "other", "sentence"), PAINTED, ids=[each[2][:24] for each in PAINTED])
def test_prompts_and_options_that_are_refused(
    desk: PageRequests, prompt: str, other: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        desk.paint(prompt, replace(HOW, **other))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_other_requests_that_are_refused(desk: PageRequests) -> None:
    image, whole = torch.zeros(3, 32, 32), torch.ones(4, 4, dtype=torch.bool)
    for rule, steps, sentence in (
        ("gently", 6, "no rule is called 'gently'; there are paint anew, freeze"),
        ("last", 6, "all of the picture is brushed, so 'last' leaves no rest; brush less"),
        (RULES[2], 1, "cuts the run into two halves; give at least 2 steps"),
    ):
        with pytest.raises(ValueError, match=sentence):
            desk.repaint(image, whole, rule, "red", replace(HOW, steps=steps))
    with pytest.raises(ValueError, match="the number of readings must be a whole number from 1 to 16, not '99'"):
        desk.caption(image, 99, HOW)
    with pytest.raises(ValueError, match="the picture has 64 x 64 pixels, the model 'pictures' takes 32 x 32; draw"):
        desk.caption(torch.zeros(3, 64, 64), 2, HOW)
    for text, width, sentence in (
        ("no gap", 2, "the text has no gap to fill; write ___"),
        ("a" * 40 + "___", 2, "the text has 42 tokens with its blanks, the model holds 24"),
        ("a ___", 17, "the tokens of a gap must be a whole number from 1 to 16, not '17'"),
        ("", 2, "the text is empty"),
    ):
        with pytest.raises(ValueError, match=sentence):
            list(desk.fill(text, width, TEXTS))


def test_pictures_of_every_kind(desk: PageRequests, tmp_path: Path) -> None:
    def read(name: str) -> torch.Tensor:
        return desk.read_picture_file(tmp_path / name, "pictures")

    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(tmp_path / "transparent.png")
    assert bool((read("transparent.png") == 1).all())  # on white
    Image.new("I;16", (40, 40), 32896).save(tmp_path / "deep.png")
    assert read("deep.png").unique().tolist() == pytest.approx([128 / 255])
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read("moving.gif")[:, 0, 0].tolist() == [1, 0, 0]  # the first frame
    write_picture(tmp_path / "wide.png", 300, 20)
    assert read("wide.png").shape == (3, 32, 32)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    (tmp_path / "words.png").write_text("no picture at all")
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    for name, sentence in (
        ("broken.png", "the file is not a readable image"),
        ("words.png", "it is none of PNG, JPEG"),
        ("huge.png", r"the picture has 5000 x 5000 pixels, and at most 16,777,216 are taken; make it smaller"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read(name)
    with pytest.raises(ValueError, match=r"the file has .* bytes, and at most 10 are taken"):
        Limits(upload=10).picture(tmp_path / "wide.png", 32)
    with pytest.raises(ValueError, match="there is no picture; give a file"):
        desk.read_picture_file(None, "pictures")


def test_a_brush_touches_codes() -> None:
    image, layer = torch.zeros(3, 32, 32), Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    layer.paste((200, 0, 0, 90), (40, 8, 60, 24))  # columns 1, row 0 of a 4 x 4 grid of 32 pixels
    want = torch.zeros(4, 4, dtype=torch.bool)
    want[0, 1] = True
    assert torch.equal(brushed_codes([layer], image, (4, 4), 128), want)
    assert views.is_brushed([layer])
    empty = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    assert not views.is_brushed([empty])
    for layers in ([], None, [empty]):
        with pytest.raises(ValueError, match="nothing is brushed; paint over"):
            brushed_codes(layers, image, (4, 4), 128)
    with pytest.raises(ValueError, match=r"the brush layer has 64 x 128 pixels, the picture 128 x 128; clear"):
        brushed_codes([Image.new("RGBA", (64, 128))], image, (4, 4), 128)


# ---------------------------------------------------------------- what is shown


def test_maps_show_what_was_known_at_a_step(desk: PageRequests) -> None:
    end = last(desk.paint("red apple", HOW))
    canvas, ranks = desk.pipes["pictures"].canvas, image_of(desk, end.rank)
    rank_map, entropy_map = views.maps(end, canvas, 2)
    cell = views.SIDE // 8
    grey = tuple(round(255 * part) for part in views.UNKNOWN)
    for picture in (rank_map, entropy_map):
        assert picture.size == (2 * 4 * cell + cell // 4, 4 * cell)
        for level in range(2):
            for y in range(4):
                for x in range(4):
                    at = (level * (4 * cell + cell // 4) + x * cell + cell // 2, y * cell + cell // 2)
                    assert (picture.getpixel(at) == grey) == (int(ranks[y, x, level]) > 2)


def test_colours_run_from_low_to_high() -> None:
    picture = views.heat_map(torch.tensor([[[0.0, 2.0], [torch.nan, 3.0]]]), 3.0)
    cell = views.SIDE // 4
    colours = [picture.getpixel((cell * x + 5, cell * y + 5)) for y in (0, 1) for x in (0, 1)]
    ramp = [tuple(round(255 * part) for part in colour) for colour in (*views.RAMP, views.UNKNOWN)]
    assert colours == [ramp[0], ramp[2], ramp[4], ramp[3]]


def test_the_line_tells_steps_passes_and_seconds(desk: PageRequests) -> None:
    growths = list(desk.paint("red apple", HOW))
    assert views.status_line(growths[0]).startswith("under way · step 1 · ")
    line = views.status_line(growths[-1], None, "a note")
    assert line.startswith("done · step 6 · 100% known; 11 passes, ")
    assert line.endswith(" s · a note")
    assert desk.notes(HOW, "red shiny apple") == "words that occur in no training caption: 'shiny' (nearest: none)"


def test_samplers_of_the_page_are_those_that_need_no_more(desk: PageRequests) -> None:
    assert "regions" not in PLANS
    for name in PLANS:
        growth = next(desk.paint("red apple", replace(HOW, sampler=name, steps=2)))
        assert growth.steps == 1


def test_the_page_without_gradio(
    model: Path, text_model: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    monkeypatch.setattr(console, "DEFAULT_MODEL", "/absent/assets/models/emoji_t2i")
    monkeypatch.setattr(demo, "SHIPPED", (console.DEFAULT_MODEL,))
    for arguments, sentence in (
        ([], "the default model lies in a checkout of the repository, assets/models; give --models DIR"),
        (["--models", model], "the page needs gradio; pip install 'mmprime[demo]'"),
        (["--models", model, text_model], "two folders are called 'model'; rename one"),
        (["--models", model, "--port", "70000"], "--port 70000: ports end at 65535"),
    ):
        assert run(demo, ["--page", *arguments]) == 2
        assert capsys.readouterr().err.startswith("error: ")
        assert run(demo, ["--page", *arguments]) == 2
        assert sentence in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_the_container_starts_the_page() -> None:
    root = Path(__file__).resolve().parents[2]
    lines = (root / ".space/Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = line.split()[2:]
            assert all((root / source).exists() for source in sources), line
    assert any("install --directory --owner=user /home/user/app" in line for line in lines)  # pip builds there
    assert "WORKDIR /home/user/app" in lines
    (command,) = (json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD"))
    assert command[:2] == ["mmprime", "demo"]
    options = demo.parse(command[2:])
    front = yaml.safe_load((root / ".space/README.md").read_text().split("---")[1])
    assert (options.page, options.host, options.port) == (True, "0.0.0.0", front["app_port"])
    assert f"EXPOSE {options.port}" in lines
    assert front["sdk"] == "docker"
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # that the hub knows
    assert {front["colorFrom"], front["colorTo"]} <= colours
    assert len(front["short_description"]) <= 60  # as the hub asks
