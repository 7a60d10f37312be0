"""Odd command lines and damaged files for the fuzz: a small world on disk, and strategies that spoil parts of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pipeline_world import CAPTIONS, tiny_image_tokenizer, write_picture, write_text_image_model, write_text_model

from mmprime.cli import draw_toy, evaluate, generate, prepare, report, study, trace, train
from mmprime.data import encode_dataset, prepare_folder
from mmprime.data.text import prepare_text
from mmprime.evaluation import Measure, to_json
from mmprime.generation.pausing import save_paused
from mmprime.generation.pipeline import from_pretrained
from mmprime.generation.sampling import SamplingConfig

DOCUMENTED = {0, 1, 2, 3, 130}
TOOLS = {
    "generate": generate, "evaluate": evaluate, "trace": trace, "report": report, "prepare": prepare, "study": study,
    "train": train, "draw_toy": draw_toy,
}  # fmt: skip
REGIONS = "- {name: left, box: '0,0,16,32', window: '0,0.5', order: halton, budget: 2}\n"
REGIONS += "- {name: rest, span: image, box: '0,0,16,32', outside: true}\n"
TRAIN = """task: diffusion
run: {dir: runs/fuzz, seed: 0, threads: 1, precision: fp32}
train: {steps: 2, batch: 4, lr: 1.0e-3, betas: [0.9, 0.98], warmup: 1, log_every: 1, keep_last: 1}
data: {kind: codes, path: codes, train_split: train, validation: [val], image_tokenizer: t2i/image_tokenizer,
  grid: [4, 4], num_codes: 16}
model: {preset: nano, codec: {image: {kind: base, digits: 2}}}
objective: {kind: joint, masking: nested}
"""
STUDY = """dir: runs
results: results
seeds: [0]
bases: {codes: {config: train.yaml, span: image}}
axes: {digits: {two: ["model.codec.{span}.digits=2"], three: ["model.codec.{span}.digits=3"]}}
judge: {limit: 4, samples: 1, steps: [2]}
"""
LOG = '{"kind": "train", "step": 1, "samples": 4, "loss/x": 3.0}\n{"kind": "validate", "step": 1, "val/nelbo": 2.0}\n'


def build(root: Path) -> None:
    """The world: two models, datasets, a paused run, rows, a log, configs; every path is relative to `root`."""
    os.chdir(root)
    write_text_image_model(root / "t2i")
    write_text_model(root / "text")
    (root / "raw").mkdir()
    lines = []
    for number in range(8):
        write_picture(root / "raw" / f"{number}.png", shade=20 * number)
        lines.append(json.dumps({"file_name": f"{number}.png", "text": CAPTIONS[number % 3]}))
    (root / "raw/metadata.jsonl").write_text("\n".join(lines))
    prepare_folder(root / "raw", root / "images", size=32, split_fraction=0.4)
    encode_dataset(root / "images", tiny_image_tokenizer(), root / "codes")
    (root / "docs").mkdir()
    (root / "docs/a.txt").write_text("It is what it is. " * 30)
    (root / "docs/b.txt").write_text("The state of the union. " * 30)
    prepare_text([root / "docs"], root / "texts", 0.5, "file", "unknown")
    rows = [Measure("nelbo", 2.0, 0.1, "nats/token", 8, 4, 0), Measure("nelbo", 3.0, 0.1, "nats/token", 8, 8, 0)]
    (root / "rows.json").write_text(to_json(rows))
    (root / "regions.yaml").write_text(REGIONS)
    (root / "train.yaml").write_text(TRAIN)
    (root / "study.yaml").write_text(STUDY)
    (root / "run").mkdir()
    (root / "run/log.jsonl").write_text(LOG)
    pipe = from_pretrained(root / "t2i/model")
    paused = pipe.generate("red apple", 1, SamplingConfig("regions", 4, pause=2)).paused
    assert paused is not None
    save_paused(root / "half.safetensors", paused, pipe.card.weights)


# file -> command lines that read it
READERS: dict[str, list[list[str]]] = {
    "t2i/model/config.json": [["generate", "--model", "t2i/model", "--prompt", "red", "--num", "1", "--steps", "1"]],
    "t2i/image_tokenizer/config.json": [["generate", "--model", "t2i/model", "--image", "raw/0.png", "--steps", "1"]],
    "text/text_tokenizer/tokenizer.json": [["generate", "--model", "text/model", "--prompt", "It", "--steps", "1"]],
    "codes/index.json": [
        ["evaluate", "likelihood", "--model", "t2i/model", "--data", "codes", "--limit", "2", "--steps", "2"],
        ["prepare", "shards-check", "codes"],
        ["train", "train.yaml", "--dry-run"],
    ],
    "images/index.json": [
        ["prepare", "shards-check", "images"],
        ["prepare", "codes", "--images", "images", "--tokenizer", "t2i/image_tokenizer", "--out", "out/codes"],
        ["prepare", "bpe", "--data", "images", "--vocab-size", "258", "--out", "out/bpe"],
        ["evaluate", "tokenizer", "--tokenizer", "t2i/image_tokenizer", "--data", "images", "--metric", "none"],
    ],
    "texts/index.json": [
        ["prepare", "shards-check", "texts"],
        ["prepare", "bpe", "--data", "texts", "--vocab-size", "258", "--out", "out/bpe"],
    ],
    "raw/metadata.jsonl": [["prepare", "folder", "raw", "--size", "16", "--out", "out/images"]],
    "docs/a.txt": [["prepare", "text", "docs", "--per", "line", "--out", "out/texts"]],
    "rows.json": [
        ["report", "table", "rows.json"], ["report", "agree", "rows.json", "rows.json"],
        ["report", "table", "rows.json", "--by", "nfe"],
    ],
    "run/log.jsonl": [["report", "loss", "run", "--out", "out/loss.svg"]],
    "regions.yaml": [
        ["generate", "--model", "t2i/model", "--prompt", "red", "--regions", "regions.yaml", "--num", "1"]
    ],
    "half.safetensors": [["generate", "--model", "t2i/model", "--resume-from", "half.safetensors"]],
    "train.yaml": [["train", "train.yaml", "--dry-run"]],
    "study.yaml": [["study", "table", "study.yaml"]],
}  # fmt: skip

# ---------------------------------------------------------------- strategies

ODD: list[Any] = [
    None, True, -1, 0, 1, 2**31, 10**30, -0.5, 1e308, float("nan"), "", "\x00", "é", "\ud800", "../x", "nan", "1,2",
    [], [1], {}, {"a": 1}, [[[]]], "x" * 300, "${oc.env:HOME}",
]  # fmt: skip
WORDS = [
    "", " ", "0", "-1", "1", "2", "3.5", "nan", "inf", "1e400", "99999999999999999999", "é", "\udcff", "red apple",
    "banana", "cuda", "cuda:7", "cpu", "raw", "images", "codes", "texts", "docs", "docs/a.txt", "raw/0.png",
    "rows.json",
    "t2i/model", "text/model", "t2i/image_tokenizer", "half.safetensors", "regions.yaml", "train.yaml", "study.yaml",
    "run", "absent", "absent/x", "/dev/null", ".", "out/x.png", "out/x", "out/x.json", "out/x.svg",
    "a=b", "=", "0,0,8,8", "0,0,8", "8,8,0,0", "remdm", "p2", "halton", "list", "eta=nan", "image|text", "[", "1,2",
    "0/1", "1/0", "image=1", "linear", "interval:0:1", "box=0,0,8,8", "train", "val", "___", "a ___ b",
]  # fmt: skip
COMMANDS = [
    ["generate"], ["trace"], ["evaluate", "likelihood"], ["evaluate", "samples"], ["evaluate", "tokenizer"],
    ["evaluate", "calibration"], ["evaluate", "imagenet"], ["report", "table"], ["report", "agree"], ["report", "nfe"],
    ["report", "loss"], ["report", "calibration"], ["prepare", "text"], ["prepare", "folder"], ["prepare", "codes"],
    ["prepare", "bpe"], ["prepare", "codec"], ["prepare", "shards-check"], ["study", "table"],
    ["study", "plot"], ["train", "--dry-run"], ["draw_toy"], [],
]  # fmt: skip
OPTIONS = [
    "--prompt", "--label", "--image", "--region", "--regions", "--resume-from", "--model", "--num", "--steps", "--seed",
    "--guidance", "--guidance-schedule", "--sampler", "--temperature", "--top-p", "--new-tokens", "--blank-tokens",
    "--pause-at", "--out", "--trace", "--scale", "--data", "--split", "--tasks", "--maskings", "--estimators",
    "--orders", "--level-powers", "--limit", "--samples", "--precision", "--batch", "--json", "--metric", "--generated",
    "--reference", "--tokenizer", "--by", "--unit", "--within", "--images", "--size", "--vocab-size", "--per",
    "--device",
    "--split-fraction", "--licence", "--source", "--digits", "--radices", "--dim", "--rows", "--ratios", "--iterations",
    "--text-length", "--span", "--long", "--max-tokens", "--masking", "--bins", "--only", "--help", "-x",
]  # fmt: skip
# what would run for hours is left out of such options' values, as are tools that need weights from elsewhere
SMALL = ["0", "-1", "1", "2", "x", "", "nan", "99999999999999999999", "1,2"]
COUNTS = {
    "--num", "--steps", "--limit", "--samples", "--batch", "--size", "--vocab-size", "--dim", "--rows", "--iterations",
    "--scale", "--new-tokens", "--blank-tokens", "--text-length", "--digits", "--bins", "--radices", "--precision",
}  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with up to four options of any tool, each with up to two odd values."""
    words = list(draw(st.sampled_from(COMMANDS)))
    words += draw(st.lists(st.sampled_from(WORDS), max_size=2)) if words[:1] != ["generate"] else []
    for option in draw(st.lists(st.sampled_from(OPTIONS), max_size=4)):
        values = SMALL if option in COUNTS else WORDS
        words += [option, *draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))]
    if words[:1] == ["generate"] and "--num" not in words:
        words += ["--num", "1"]
    limits = {"likelihood": ["--limit", "2"], "calibration": ["--limit", "2"], "schedule": ["--iterations", "1"]}
    return words + next((more for name, more in limits.items() if name in words[1:2] and more[0] not in words), [])


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes, list[str]]:
    """A file of the world, other contents for it, and a command line that reads it."""
    name = draw(st.sampled_from(sorted(READERS)))
    body = Path(name).read_bytes()
    how = draw(st.sampled_from(("tree", "tree", "tree", "bytes", "cut", "odd")))
    if how == "tree":
        body = _spoil_tree(draw, name, body)
    elif how == "bytes":
        spoilt = bytearray(body)
        for _ in range(draw(st.integers(1, 4))):
            spoilt[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
        body = bytes(spoilt)
    elif how == "cut":
        body = body[: draw(st.integers(0, len(body)))]
    else:
        body = draw(
            st.sampled_from((b"", b"null", b"[]", b"{}", b"3", b"\xff\xfe\x00", b"[" * 100_000, b'"', b"a: b: c"))
        )
    return name, body, draw(st.sampled_from(READERS[name]))


def _spoil_tree(draw: st.DrawFn, name: str, body: bytes) -> bytes:
    if name.endswith(".safetensors"):
        (size,) = struct.unpack("<Q", body[:8])
        header = json.loads(body[8 : 8 + size])
        about = json.loads(header["__metadata__"]["request"])
        if draw(st.booleans()):
            header["__metadata__"]["request"] = json.dumps(_spoilt(draw, about))
        else:
            header = _spoilt(draw, header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + body[8 + size :]
    if name.endswith(".json"):
        return json.dumps(_spoilt(draw, json.loads(body))).encode()
    if name.endswith(".jsonl"):
        lines = body.decode().splitlines()
        number = draw(st.integers(0, len(lines) - 1))
        lines[number] = json.dumps(_spoilt(draw, json.loads(lines[number])))
        return "\n".join(lines).encode()
    if name.endswith(".yaml"):
        import yaml

        spoilt = _spoilt(draw, yaml.safe_load(body))
        return json.dumps(spoilt).encode()
    return body + draw(st.binary(max_size=20))


def _spoilt(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one node replaced, removed or doubled."""
    at, path = tree, []
    while isinstance(at, dict | list) and at and (not path or draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(at))) if isinstance(at, dict) else draw(st.integers(0, min(len(at), 20) - 1))
        path.append(key)
        at = at[key]
    if not path:
        return draw(st.sampled_from(ODD))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    how = draw(st.sampled_from(("odd", "odd", "gone", "new")))
    if how == "odd":
        parent[path[-1]] = draw(st.sampled_from(ODD))
    elif how == "gone":
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent["strange"] = draw(st.sampled_from(ODD))
    else:
        parent.append(draw(st.sampled_from(ODD)))
    return tree


# ---------------------------------------------------------------- the property


def ending(words: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that runs in this process; what it wrote to out/ and runs/ is removed."""
    out, error = io.StringIO(), io.StringIO()
    tool = TOOLS.get(words[0] if words else "", generate)
    with redirect_stdout(out), redirect_stderr(error):
        code = tool.main(words[1:])
    for folder in ("out", "runs", "results"):
        shutil.rmtree(folder, ignore_errors=True)
    return code, error.getvalue()


def require_ending(words: list[str]) -> None:
    """An exit code of the table, and neither a traceback nor a bug."""
    code, error = ending(words)
    assert code in DOCUMENTED, f"{words}: exit code {code}"
    assert "Traceback" not in error, f"{words}: {error}"
    assert "bug" not in error, f"{words}: {error}"
    assert code in (0, 1) or error.strip(), f"{words}: exit code {code} without a word"
