"""The widgets of the page and how they are wired to `PageRequests`; needs gradio (the extra `demo`).

One request is answered at a time, the others wait in a queue. Pictures that pass through lie in a folder of the page's
own, which goes when the page ends; no other file is served, and nothing is asked of any other machine.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import gradio as gr
import torch

from mmprime.cli.errors import explain
from mmprime.engine import Guidance
from mmprime.generation.defaults import IMAGE_GUIDANCE, STEPS

from . import views
from .growth import Growth
from .limits import brushed_codes
from .requests import OF_MODEL, PLANS, Asked, PageRequests
from .rules import RULES

SIDE = views.SIDE
_VISITORS = 64
_KEPT = 3600  # seconds that a visitor's picture is kept
_HINT = "Draw a picture or open one, then brush: Repaint redraws it by the rule, Go on draws the brushed part again."
_ENDINGS = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"]
_CSS = ".maps [data-testid=block-label] {position: static}"
_PICTURE = {"interactive": False, "format": "png", "buttons": []}
_EVENT = {"api_visibility": "private", "show_progress": "minimal"}
_WORK = {**_EVENT, "concurrency_id": "model"}  # one at a time, whatever is asked
_GAPS = "The people of the United States ___ their government."


def build(desk: PageRequests) -> Any:
    """The page as gradio.Blocks."""
    with gr.Blocks(title="mmprime", analytics_enabled=False, delete_cache=(_KEPT, _KEPT), fill_width=True) as page:
        gr.Markdown("# mmprime\nMasked diffusion over the digits of tokens: watch a canvas become known.")
        if desk.names("image"):
            with gr.Tab("Picture"):
                _picture_tab(desk)
            with gr.Tab("Side by side"):
                _compare_tab(desk)
        if desk.names("text"):
            with gr.Tab("Text"):
                _text_tab(desk)
    return page.queue(max_size=desk.limits.waiting, default_concurrency_limit=1)


@contextmanager
def served(desk: PageRequests, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """The address of the page, as long as the context lasts. Raises ValueError where the port is taken."""
    with tempfile.TemporaryDirectory(prefix="mmprime-page-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        theme = gr.themes.Soft(font=("system-ui", "sans-serif"), font_mono=("monospace",))  # none fetched
        page = build(desk)
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, show_error=True,
                max_file_size=desk.limits.upload, footer_links=[], run_history=False, ssr_mode=False, mcp_server=False,
                pwa=False, enable_monitoring=False, state_session_capacity=_VISITORS, theme=theme, css=_CSS,
            )  # fmt: skip
        except OSError as error:
            raise ValueError(f"nothing can listen at {host}:{port}; give another --port or --host") from error
        try:
            yield address
        finally:
            page.close(verbose=False)


# ---------------------------------------------------------------- tabs


def _picture_tab(desk: PageRequests) -> None:
    growth, picture = gr.State(time_to_live=_KEPT), gr.State(time_to_live=_KEPT)
    with gr.Row():
        with gr.Column(scale=2):
            prompt = gr.Textbox("red apple", label="Prompt", max_lines=2, elem_id="prompt")
            how = _sampling(desk, "image")
            with gr.Row():
                paint = gr.Button("Draw", variant="primary", elem_id="draw", min_width=80)
                pause = gr.Button("Pause", elem_id="pause", min_width=80)
                resume = gr.Button("Go on", elem_id="go-on", min_width=80)
        with gr.Column(scale=2):
            canvas = gr.Image(label="Canvas", **_PICTURE, elem_id="canvas", height=SIDE - 40)
            status = gr.Textbox(label="Run", interactive=False, elem_id="status")
    with gr.Row():
        with gr.Column(scale=2):
            gr.Markdown(_HINT)
            brush = gr.ImageEditor(
                label="Brush", type="pil", format="png", sources=(), transforms=(), layers=False, fixed_canvas=True,
                canvas_size=(SIDE, SIDE), elem_id="brush", brush=gr.Brush(48, ["#d0209080"], "#d0209080", "fixed"),
                eraser=gr.Eraser(48), height=SIDE + 100,
            )  # fmt: skip
        with gr.Column(scale=1):
            rule = gr.Radio(RULES, value=RULES[0], label="Rule for what is brushed", elem_id="rule")
            repaint = gr.Button("Repaint", variant="primary", elem_id="repaint")
            file = gr.File(label="Open a picture", file_types=_ENDINGS, type="filepath", elem_id="open", height=120)
            readings = gr.Slider(1, desk.limits.readings, 4, step=1, label="Readings")
            read = gr.Button("Read a caption", elem_id="read")
            caption = gr.Textbox(label="Captions, the one that fits best first", interactive=False, elem_id="caption")
    with gr.Accordion("How it came about", open=True):
        step = gr.Slider(1, 16, 1, step=1, label="After step", elem_id="scrub")
        with gr.Row(elem_classes="maps"):
            then = gr.Image(label="Canvas after this step", **_PICTURE, elem_id="then")
            rank = gr.Image(label="Rank, by level", **_PICTURE, elem_id="rank")
            entropy = gr.Image(label="Entropy, by level", **_PICTURE, elem_id="entropy")
        legend = gr.Markdown(elem_id="legend")

    def live(growths: Iterator[Growth], note: str | None = None) -> Iterator[tuple[Any, ...]]:
        for each in growths:
            image = views.enlarged(each.picture())
            yield each, each.picture(), image, views.status_line(each, note)

    def painting(text: str, *sampling: Any) -> Iterator[tuple[Any, ...]]:
        asked = Asked(*sampling)
        yield from live(desk.paint(text, asked), desk.notes(asked, text))

    def codes(editor: Any, image: torch.Tensor, model: str) -> torch.Tensor:
        return brushed_codes((editor or {}).get("layers"), image, desk.canvas_grid(model), SIDE)

    def repainting(image: Any, editor: Any, name: str, text: str, *sampling: Any) -> Iterator[tuple[Any, ...]]:
        if image is None:
            raise ValueError("there is no picture to repaint; draw one or open a file")
        asked = Asked(*sampling)
        yield from live(desk.repaint(image, codes(editor, image, asked.model), name, text, asked), f"rule: {name}")

    def resuming(last: Growth | None, image: Any, editor: Any, text: str) -> Iterator[tuple[Any, ...]]:
        painted = last is not None and views.is_brushed((editor or {}).get("layers"))
        yield from live(desk.resume(last, codes(editor, image, last.model) if painted and last else None, text))

    def opened(path: str | None, model: str) -> tuple[Any, ...]:
        image = desk.read_picture_file(path, model)
        large = views.enlarged(image)
        return None, image, large, "a picture from a file", large

    def looked(last: Growth | None, number: float) -> tuple[Any, ...]:
        if last is None:
            raise ValueError("there is no run to look at; draw a picture first")
        at = min(max(1, int(number)), last.steps)
        maps = views.maps(last, desk.pipes[last.model].canvas, at)
        return views.enlarged(last.picture(at)), *maps, views.scale_words(last)

    def stood(last: Growth | None, image: Any) -> tuple[Any, ...]:
        """After a run, or at a pause: the brush gets the picture, the slider its steps."""
        if last is None or image is None:
            raise ValueError("nothing is under way; press Draw first")
        step_now = gr.Slider(1, max(2, last.steps), last.steps, step=1)
        return views.enlarged(image), step_now, *looked(last, last.steps)

    def captions(image: Any, count: float, *sampling: Any) -> str:
        if image is None:
            raise ValueError("there is no picture to read; draw one or open a file")
        best, spent = desk.caption(image, count, Asked(sampling[0], seed=sampling[-1]))
        return "\n".join([*(f"{text}   ({nats:.1f} nats)" for text, nats in best), spent])

    live_parts, look_parts = [growth, picture, canvas, status], [brush, step, then, rank, entropy, legend]
    runs = [
        paint.click(_plain(painting), [prompt, *how], live_parts, **_WORK),
        repaint.click(_plain(repainting), [picture, brush, rule, prompt, *how], live_parts, **_WORK),
        resume.click(_plain(resuming), [growth, picture, brush, prompt], live_parts, **_WORK),
    ]
    for run in runs:
        run.success(_plain(stood), [growth, picture], look_parts, **_EVENT)
    stopped = pause.click(None, cancels=runs, queue=False, **_EVENT)
    stopped.then(_plain(stood), [growth, picture], look_parts, queue=False, **_EVENT)
    file.upload(_plain(opened), [file, how[0]], [*live_parts, brush], **_WORK)
    step.input(_plain(looked), [growth, step], look_parts[2:], queue=False, trigger_mode="always_last", **_EVENT)
    read.click(_plain(captions), [picture, readings, *how], caption, **_WORK)


def _compare_tab(desk: PageRequests) -> None:
    prompt = gr.Textbox("red heart", label="Prompt", max_lines=2, elem_id="both-prompt")
    sides = []
    with gr.Row():
        for name, plan in (("A", "token_synchronous"), ("B", OF_MODEL)):
            with gr.Column():
                how = _sampling(desk, "image", plan)
                image = gr.Image(label=name, **_PICTURE, elem_id=f"side-{name}", height=SIDE - 40)
                status = gr.Textbox(label=f"Run {name}", interactive=False, elem_id=f"status-{name}")
                sides.append((how, image, status))
    run = gr.Button("Draw both", variant="primary", elem_id="both")
    (first, *out_a), (second, *out_b) = sides

    def comparing(text: str, *sampling: Any) -> Iterator[tuple[Any, ...]]:
        a, b = Asked(*sampling[: len(first)]), Asked(*sampling[len(first) :])
        for pair in desk.compare(text, a, b):
            yield tuple(part for each in pair for part in (views.enlarged(each.picture()), views.status_line(each)))

    run.click(_plain(comparing), [prompt, *first, *second], [*out_a, *out_b], **_WORK)


def _text_tab(desk: PageRequests) -> None:
    text = gr.Textbox(_GAPS, label="Text with gaps, ___", lines=3, elem_id="gaps")
    width = gr.Slider(1, desk.limits.blank_tokens, 2, step=1, label="Tokens of a gap")
    how = _sampling(desk, "text")
    run = gr.Button("Fill", variant="primary", elem_id="fill")
    filled = gr.Textbox(label="Filled", interactive=False, lines=3, elem_id="filled")
    status = gr.Textbox(label="Run", interactive=False, elem_id="text-status")

    def filling(written: str, tokens: float, *sampling: Any) -> Iterator[tuple[str, str]]:
        asked = Asked(*sampling)
        note = desk.notes(asked)
        for each in desk.fill(written, tokens, asked):
            yield str(each.frames[-1]), views.status_line(each, note)

    run.click(_plain(filling), [text, width, *how], [filled, status], **_WORK)


# ---------------------------------------------------------------- parts


def _sampling(desk: PageRequests, span: str, plan: str = OF_MODEL) -> list[Any]:
    """The widgets of an `Asked`, in its order."""
    limits, names, small = desk.limits, desk.names(span), {"min_width": 120}
    config = desk.pipes[names[0]].config_for(span)
    scale = IMAGE_GUIDANCE if plan != OF_MODEL else Guidance.of(config.guidance).scale
    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, **small)
        sampler = gr.Dropdown(list(PLANS), value=plan, label="Sampler", elem_classes="sampler", **small)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
    with gr.Row():
        most, usual = limits.steps, min(config.steps or STEPS, limits.steps)
        steps = gr.Slider(1, most, usual, step=1, label="Steps", elem_classes="steps", **small)
        start = float(scale) if isinstance(scale, int | float) else 0.0
        guidance = gr.Slider(0, limits.guidance, start, step=0.5, label="Guidance", elem_classes="guidance", **small)
        warmth = min(config.temperature, limits.temperature) if plan == OF_MODEL else 1
        temperature = gr.Slider(0, limits.temperature, warmth, step=0.1, label="Temperature", **small)
    return [model, sampler, steps, guidance, temperature, seed]


def _plain(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, step by step or at once, with every error as its one line in the page's own box."""

    def refused(error: Exception) -> Any:
        return gr.Error(explain(error).line, print_exception=False)

    @wraps(work)
    def stepwise(*given: Any) -> Iterator[Any]:
        try:
            yield from work(*given)
        except Exception as error:
            raise refused(error) from error

    @wraps(work)
    def at_once(*given: Any) -> Any:
        try:
            return work(*given)
        except Exception as error:
            raise refused(error) from error

    return stepwise if inspect.isgeneratorfunction(work) else at_once
