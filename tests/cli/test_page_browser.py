"""The page in headless Chromium: it types, paints, waits, looks at pixels and reads."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_world import Visitor, visitor, what_is_missing
from PIL import Image

from mmprime.cli.page import views
from mmprime.cli.page.requests import OF_MODEL, Asked, PageRequests

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())]

OWN = Asked("emoji_t2i", OF_MODEL, steps=8, guidance=0.5, temperature=0.8)
Both = tuple[Visitor, PageRequests]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with visitor() as pair:
        yield pair


@pytest.fixture
def guest(both: Both) -> Visitor:
    """A visitor of the page as it is at first."""
    both[0].open()
    return both[0]


def pictures_of(desk: PageRequests, prompt: str, asked: Asked) -> list[Image.Image]:
    """What a request shows step by step, without the page."""
    return [views.enlarged(growth.picture()) for growth in desk.paint(prompt, asked)]


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and a.tobytes() == b.tobytes()


def redness(picture: Image.Image) -> float:
    """The share of pixels that are red."""
    red, green, blue = np.asarray(picture.convert("RGB")).astype(int).transpose(2, 0, 1)
    return float(((red > 150) & (green < 110) & (blue < 110)).mean())


def test_a_canvas_grows_and_can_be_scrubbed(guest: Visitor, both: Both) -> None:
    asked = Asked("emoji_t2i", "nested", steps=12, guidance=3.0, temperature=0.8)
    want = pictures_of(both[1], "red apple", asked)
    seen: list[tuple[str, Image.Image]] = []

    def look() -> None:
        if (line := guest.read("status")) and (not seen or seen[-1][0] != line):
            seen.append((line, guest.picture("canvas")))

    guest.write("prompt", "red apple")
    guest.choose(".sampler", "nested")
    guest.number(".guidance", 3)
    guest.number(".steps", 12)
    line = guest.run("draw", look=look)
    assert "step 12 · 100% known; 23 passes" in line
    guest.page.wait_for_timeout(2000)
    end = guest.picture("canvas")
    assert same(end, want[-1]), "what the page shows is what the library draws, to the pixel"
    assert redness(end) > 0.2
    assert len(seen) >= 4, "it is seen growing"
    assert redness(seen[0][1]) < redness(end)
    assert same(guest.picture("then"), want[-1])
    guest.number("#scrub", 5)
    guest.page.wait_for_timeout(3000)
    assert same(guest.picture("then"), want[4])
    for growth in both[1].paint("red apple", asked):
        last = growth
    rank, entropy = views.maps(last, both[1].pipes["emoji_t2i"].canvas, 5)
    assert same(guest.picture("rank"), rank)
    assert same(guest.picture("entropy"), entropy)


def test_a_brush_and_a_rule(guest: Visitor, both: Both) -> None:
    guest.run("draw")
    guest.page.wait_for_timeout(2000)
    before = guest.picture("canvas")
    guest.brush([(0.3, 0.15), (0.7, 0.15)])
    guest.choose("rule", "freeze")
    guest.write("prompt", "blue heart")
    assert guest.run("repaint").endswith("rule: freeze")
    after = guest.picture("canvas")
    changed = (np.asarray(before) != np.asarray(after)).any(-1)
    side = before.width // 8  # of a code
    codes = changed.reshape(8, side, 8, side).any((1, 3))
    assert not codes[1, 2:6].any(), "what is brushed is frozen"
    assert codes[4:, :].mean() > 0.5, "the rest is drawn again"


def test_pause_and_go_on(guest: Visitor, both: Both) -> None:
    guest.write("prompt", "sun")
    guest.press("draw")
    guest.wait("status", lambda text: "step" in text)
    guest.press("pause")
    guest.page.wait_for_timeout(4000)
    line = guest.read("status")
    assert line.startswith("under way")
    step = int(line.split("step ")[1].split()[0])
    want = pictures_of(both[1], "sun", OWN)
    assert same(guest.picture("canvas"), want[step - 1])
    guest.page.wait_for_timeout(1000)
    assert guest.read("status") == line, "it stands still"
    guest.run("go-on")
    assert same(guest.picture("canvas"), want[-1]), "as if it had not paused"


def test_a_caption_is_read_from_a_file(guest: Visitor, both: Both, tmp_path: Path) -> None:
    *_, apple = both[1].paint("red apple", OWN)
    views.enlarged(apple.picture()).convert("RGBA").resize((700, 700)).save(tmp_path / "apple.png")
    guest.page.set_input_files("#open input[type=file]", tmp_path / "apple.png")
    guest.wait("status", lambda text: text == "a picture from a file")
    guest.press("read")
    text = guest.wait("caption", bool)
    file = both[1].read_picture_file(tmp_path / "apple.png", OWN.model)
    best, _ = both[1].caption(file, 4, OWN)
    assert text.startswith(best[0][0])
    assert "red" in text.splitlines()[0]
    assert "4 readings, 16 passes each" in text


def test_two_samplers_side_by_side(guest: Visitor, both: Both) -> None:
    guest.tab("Side by side")
    assert "step 8 · 100% known; 15 passes" in guest.run("both", "status-A")
    assert "step 8 · 100% known; 16 passes" in guest.wait("status-B", lambda text: text.startswith("done"))
    guest.page.wait_for_timeout(1000)
    for side, asked in (("A", replace(OWN, sampler="token_synchronous", guidance=3.0, temperature=1.0)), ("B", OWN)):
        assert same(guest.picture(f"side-{side}"), pictures_of(both[1], "red heart", asked)[-1])


def test_gaps_are_filled(guest: Visitor) -> None:
    guest.tab("Text")
    guest.write("gaps", "The President of the ___ States.")
    assert "100% known" in guest.run("fill", "text-status")
    text = guest.read("filled")
    assert text.startswith("The President of the")
    assert text.endswith("States.")
    assert "___" not in text


def test_mistakes_are_told_in_a_sentence(guest: Visitor, tmp_path: Path) -> None:
    def told(sentence: str) -> None:
        guest.page.locator(".toast-body", has_text=sentence).first.wait_for(timeout=60_000)

    guest.write("prompt", "")
    guest.press("draw")
    told("the prompt is empty; type a few words")
    guest.write("prompt", "red apple")
    guest.press("go-on")
    told("nothing is paused; draw, and press Pause before the picture is finished")
    guest.press("repaint")
    told("there is no picture to repaint; draw one or open a file")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    guest.page.set_input_files("#open input[type=file]", tmp_path / "broken.png")
    told("the file is not a readable image")


def test_nothing_is_asked_of_another_machine(guest: Visitor) -> None:
    guest.run("draw")
    abroad = {url for url in guest.asked if not url.startswith((guest.address, "data:", "blob:"))}
    assert len(guest.asked) > 20
    assert not abroad


def answer(address: str, event: int, data: list[Any], mark: str) -> dict[str, Any]:
    """What the page's server says to a request that no widget would send."""
    body = json.dumps({"data": data, "fn_index": event, "session_hash": mark}).encode()
    post = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(post).read()
    except urllib.error.HTTPError as error:
        return {"success": False, "output": {"error": error.read().decode()}}
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={mark}") as stream:
        for line in io.TextIOWrapper(stream):
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def test_files_outside_are_not_served(guest: Visitor, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    for path in (tmp_path / "secret.png", Path("/etc/hostname"), Path(__file__), Path("README.md")):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{guest.address}gradio_api/file={urllib.parse.quote(str(path))}")
    config = json.loads(urllib.request.urlopen(f"{guest.address}config").read())
    event = {each["api_name"]: each["id"] for each in config["dependencies"]}
    for path in ("/etc/hostname", str(tmp_path / "secret.png")):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        said = answer(guest.address, event["opened"], [file, "emoji_t2i"], f"file{len(path)}")
        assert not said["success"], "a file that was not uploaded is not read"
    said = answer(guest.address, event["painting"], ["red", "emoji_t2i", "fast", 16, 0, 1, 0], "sampler")
    assert not said["success"]
    assert "fast" in json.dumps(said)
    said = answer(guest.address, event["painting"], ["red", "emoji_t2i", OF_MODEL, 10**9, 0, 1, 0], "steps")
    assert not said["success"]
