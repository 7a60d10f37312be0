"""A visitor of the page: headless Chromium that types, paints with the mouse, waits, and looks at pixels.

python tests/page_world.py docs    makes the pictures and the film of docs/page.md anew (needs the extra `demo`,
                                   playwright and chromium; 2 minutes of two free cores)
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("emoji_t2i", "sotu")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120.0  # seconds for a run on a busy machine


def browser_path() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def what_is_missing() -> str:
    """Why there can be no visitor; "" if there can be one."""
    absent = [name for name in ("gradio", "playwright") if find_spec(name) is None]
    absent += [] if browser_path() else ["chromium"]
    return f"missing: {', '.join(absent)}" if absent else ""


class Visitor:
    """page: of playwright; asked: all addresses that the browser asked for."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address, self.asked = page, address, []
        page.on("request", lambda request: self.asked.append(request.url))
        self.open()

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_selector("#brush canvas", timeout=1000 * PATIENCE)
        self.page.wait_for_timeout(1500)  # the brush sets itself up

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def write(self, where: str, text: str) -> None:
        self.page.fill(f"#{where} textarea", text)

    def read(self, where: str) -> str:
        value: str = self.page.locator(f"#{where} textarea").input_value()
        return value

    def press(self, where: str) -> None:
        self.page.click(f"#{where}")

    def wait(self, where: str, is_met: Callable[[str], bool], look: Callable[[], None] = lambda: None) -> str:
        """What stands there once the condition holds; `look` is called meanwhile."""
        end = time.monotonic() + PATIENCE
        while not is_met(text := self.read(where)):
            assert time.monotonic() < end, f"{where} still says {text!r}; {self.complaints()}"
            look()
            self.page.wait_for_timeout(60)
        return text

    def run(self, button: str, where: str = "status", look: Callable[[], None] = lambda: None) -> str:
        """Press a button and wait until its run is done; the line that says so."""
        before = self.read(where)
        self.press(button)
        self.wait(where, lambda text: text != before, look)
        return self.wait(where, lambda text: text.startswith("done"), look)

    def picture(self, where: str) -> Image.Image:
        """The picture that an element shows, at its own size."""
        source = self.page.locator(f"#{where} img").first.get_attribute("src")
        body = self.page.request.get(source).body()
        return Image.open(io.BytesIO(body)).convert("RGB")

    def brush(self, points: Sequence[tuple[float, float]]) -> None:
        """One stroke over the picture; points as shares of its side."""
        box = self.page.locator("#brush canvas").first.bounding_box()
        side = SIDE_ON_SCREEN
        left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
        spots = [(left + x * side, top + y * side) for x, y in points]
        self.page.mouse.move(*spots[0])
        self.page.mouse.down()
        for spot in spots[1:]:
            self.page.mouse.move(*spot, steps=6)
        self.page.mouse.up()
        self.page.wait_for_timeout(1000)  # the stroke is sent

    def choose(self, where: str, option: str) -> None:
        """An option of a list, or of a row of buttons."""
        if where == "rule":
            self.page.locator("#rule").get_by_text(option, exact=True).click()
            return
        self.page.locator(f"{where} input").first.click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def number(self, where: str, value: float) -> None:
        """The number beside a slider."""
        field = self.page.locator(f"{where} input[type=number]").first
        field.fill(str(value))
        field.press("Enter")

    def complaints(self) -> list[str]:
        """The sentences of the boxes that say what cannot be done."""
        return [box.inner_text() for box in self.page.locator(".toast-body").all()]

    def screenshot(self, full_page: bool = False) -> Image.Image:
        return Image.open(io.BytesIO(self.page.screenshot(full_page=full_page))).convert("RGB")


SIDE_ON_SCREEN = 424.0  # pixels of the brush's picture


@contextmanager
def visitor(size: tuple[int, int] = (1280, 1500)) -> Iterator[tuple[Visitor, Any]]:
    """A visitor of a page with the models that ship, and the page's `PageRequests`."""
    from playwright.sync_api import sync_playwright

    from mmprime import from_pretrained
    from mmprime.cli.page.app import served
    from mmprime.cli.page.requests import PageRequests

    desk = PageRequests({name: from_pretrained(ROOT / "assets/models" / name) for name in MODELS})
    with served(desk) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        yield Visitor(page, address), desk
        browser.close()


# ---------------------------------------------------------------- pictures of the documentation


def save(picture: Image.Image, file: Path, width: int = 900) -> None:
    small = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    small.save(file, quality=85, method=6)


def make_pictures(folder: Path) -> None:
    """page.webp, a film; page_picture.webp, page_both.webp and page_text.webp."""
    frames: list[tuple[Image.Image, int]] = []
    lines = [""]
    with visitor((1240, 1060)) as (guest, _):

        def film(milliseconds: int) -> None:
            frames.append((guest.screenshot().resize((744, 636), Image.Resampling.LANCZOS), milliseconds))

        def look() -> None:
            if (line := guest.read("status")) != lines[-1]:
                lines.append(line)
                film(220)

        guest.choose(".sampler", "nested")
        guest.number(".guidance", 3)
        guest.number(".steps", 12)
        film(1200)
        guest.run("draw", look=look)
        guest.page.wait_for_timeout(1500)
        film(1200)
        guest.brush([(0.2, 0.3), (0.5, 0.15), (0.8, 0.3)])
        film(1200)
        guest.choose("rule", "coarse until the middle")
        guest.write("prompt", "green apple")
        film(1200)
        guest.run("repaint", look=look)
        guest.page.wait_for_timeout(1500)
        film(2500)
        guest.press("read")
        guest.wait("caption", bool)
        guest.number("#scrub", 6)
        guest.page.wait_for_timeout(2500)
        save(guest.screenshot(full_page=True), folder / "page_picture.webp")
        guest.page.set_viewport_size({"width": 1240, "height": 800})
        guest.tab("Side by side")
        guest.run("both", "status-A")
        guest.wait("status-B", lambda text: text.startswith("done"))
        guest.page.wait_for_timeout(1000)
        save(guest.screenshot(), folder / "page_both.webp")
        guest.tab("Text")
        guest.page.set_viewport_size({"width": 1240, "height": 880})
        guest.run("fill", "text-status")
        save(guest.screenshot(), folder / "page_text.webp")
    (first, _), *rest = frames
    first.save(
        folder / "page.webp", save_all=True, append_images=[picture for picture, _ in rest],
        duration=[duration for _, duration in frames], loop=0, quality=75, method=6,
    )  # fmt: skip
    for file in sorted(folder.glob("page*.webp")):
        print(f"{file.name}: {file.stat().st_size:,} bytes")
    print(f"{len(frames)} frames")


if __name__ == "__main__":
    make_pictures(Path(sys.argv[1]))
