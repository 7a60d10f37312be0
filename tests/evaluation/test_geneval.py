"""GenEval's folders as its evaluator walks them, and its results by hand."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline_world import write_text_image_model

from mmprime.cli import evaluate
from mmprime.evaluation.images.geneval import read_prompts, score_results

PROMPTS = [
    {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], "prompt": "red apple"},
    {"tag": "counting", "include": [{"class": "car", "count": 2}], "prompt": "blue car"},
]


def _lines(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_folders_are_those_that_its_evaluator_walks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, prompts, out = write_text_image_model(tmp_path), _lines(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "o"
    asked = ["geneval", "--model", str(model), "--prompts", str(prompts), "--out", str(out), "--num", "3", "--steps=2"]
    assert evaluate.main(asked) == 0
    assert "3 pictures of each of 2 prompts" in capsys.readouterr().out
    assert [folder.name for folder in sorted(out.iterdir())] == ["00000", "00001"]
    for folder, entry in zip(sorted(out.iterdir()), PROMPTS):
        assert folder.name.isdigit()
        assert json.loads((folder / "metadata.jsonl").read_text()) == entry
        files = sorted((folder / "samples").iterdir())
        assert len(files) == 3
        assert all(re.match(r"\d+\.png", file.name) for file in files)
        pixels = [np.asarray(Image.open(file)) for file in files]
        assert {each.shape for each in pixels} == {(32, 32, 3)}
        assert (pixels[0] != pixels[1]).any()
    assert evaluate.main(asked) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err


def test_scores_are_means_of_tags_with_errors_over_prompts(tmp_path: Path) -> None:
    answers = {
        ("colors", "a"): [1, 1, 0, 0],
        ("colors", "b"): [1, 1, 1, 1],
        ("counting", "c"): [0, 0],
        ("counting", "d"): [0, 1],
    }
    rows = [
        {"filename": "x", "tag": tag, "prompt": prompt, "correct": bool(answer), "metadata": prompt}
        for (tag, prompt), found in answers.items()
        for answer in found
    ]
    scores = {row.metric: row for row in score_results(_lines(tmp_path / "results.jsonl", rows))}
    assert scores["GenEval colors"].value == 0.75
    assert scores["GenEval counting"].value == 0.25
    assert scores["GenEval, mean over tags"].value == 0.5
    assert scores["GenEval, prompts with a correct picture"].value == 0.75
    spread = np.std([0.5, 1.0], ddof=1) / math.sqrt(2)  # equal numbers of pictures: that of the prompts' means
    assert scores["GenEval colors"].stderr == pytest.approx(spread)
    assert scores["GenEval, mean over tags"].stderr == pytest.approx(math.hypot(spread, spread) / 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "2 is no JSON"),
        ("[1]", "2 has no 'prompt'"),
        ('{"prompt": 3}', "no 'prompt'"),
        ('{"prompt": " "}', "empty"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(PROMPTS[0]) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=words):
        read_prompts(file)


def test_results_need_their_fields(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1 has no 'correct' \(bool\)"):
        score_results(_lines(tmp_path / "results.jsonl", [{"tag": "a", "prompt": "b", "correct": 1}]))
    assert evaluate.main(["geneval", "--results", str(tmp_path / "results.jsonl"), "--model", "absent"]) == 2
