"""The page of a traced text: nothing gets out of its element, nothing is fetched, all can be read and reached."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmprime.generation.trace_page import INK, Digit, Token, page, shade

NASTY = ["<script>", "</script><script>alert(1)</script>", "<!--", "\"quoted'", "&amp;", "<img src=x onerror=alert(1)>"]
VOID = {"meta", "input", "img"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text directly in it), in order of their start."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.elements[self.open[-1]][2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (found, "".join(text))
            for name, found, text in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]


def token(text: str) -> Token:
    return Token([Digit(3, 0, None, None), Digit(1, 2, 0.5, 0.25)], [(0, "10", "a" + text), (2, "11", text)])


def made(texts: list[list[Token]] | None = None) -> str:
    texts = texts or [[token(text) for text in NASTY], [token("b")]]
    return page("A <script> title", {"command": "<b>&"}, texts, [(1, "nothing drawn", "–"), (2, "0.5", "0.2")], b"x")


def test_what_is_shown_is_escaped() -> None:
    found = Page(made())
    assert not found.open
    assert [text for _, text in found.all("span", role="option")] == [*NASTY, "b"]
    assert len(found.all("script")) == 2
    assert len(found.all("img")) == 1
    assert found.all("h1")[0][1] == "A <script> title"
    assert found.all("dd")[0][1] == "<b>&"
    data = json.loads(found.all("script", id="trace")[0][1])
    assert [each["changes"][-1][2] for each in data["texts"][0]] == NASTY
    assert data["texts"][1][0]["digits"][1] == {"value": 1, "rank": 2, "entropy": 0.5, "confidence": 0.25}


def test_no_network_and_only_its_own_script() -> None:
    source = made()
    found = Page(source)
    assert "http" not in source.replace("http-equiv", "")
    assert [each["src"] for each, _ in found.all("img")] == ["data:image/png;base64," + base64.b64encode(b"x").decode()]
    assert not found.all("link")
    assert not any(name.startswith("on") or name == "style" for _, have, _ in found.elements for name in have)
    policy = found.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"] or ""
    assert policy.startswith("default-src 'none'")
    script = next(text for have, text in found.all("script") if "type" not in have)
    for content in (script, found.all("style")[0][1]):
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    assert not re.search(r"innerHTML|eval|document\.write", script)


def test_it_can_be_reached_by_keyboard() -> None:
    found = Page(made())
    slider = found.all("input", type="range")[0][0]
    assert (slider["min"], slider["max"]) == ("0", "2")
    assert found.all("label", **{"for": slider["id"] or ""})
    stops = [have["data-token"] for have, _ in found.all("span", role="option", tabindex="0")]
    assert stops == ["0", "0"]  # one for each text, arrows go on from there
    named = {have["id"] for have, _ in found.all("h2") if "id" in have}
    assert {have["aria-labelledby"] for have, _ in found.all("div", role="listbox")} == named
    assert found.all("img")[0][0]["alt"]


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance of WCAG 2."""
    red, green, blue = ((c / 255 + 0.055) ** 2.4 / 1.055**2.4 if c > 10 else c / 255 / 12.92 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_every_shade_has_contrast(levels: int) -> None:
    shades = [shade(known, levels) for known in range(levels + 1)]
    assert len(set(shades)) == levels + 1
    assert all((luminance(each) + 0.05) / (luminance(INK) + 0.05) >= 7 for each in shades)
    style = Page(made()).all("style")[0][1]
    assert all(f".k{known} {{ background: rgb{shade(known, 2)}; }}" in style for known in range(3))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to open the page in")
def test_its_script_runs_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(made())
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=60, check=True
    )
    found = Page(done.stdout)
    assert found.all("output", id="clock")[0][1] == "2 of 2: 7 of 7 drawn digits known"
    options = found.all("span", role="option")
    assert [text for _, text in options] == [*NASTY, "b"]
    assert options[0][0]["aria-label"] == "<script>, 2 of 2 digits known"
