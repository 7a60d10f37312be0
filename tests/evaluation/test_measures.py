"""Likelihood rows: a uniform model scores ln C in every unit, errors are those of repeated draws, names differ."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pipeline_world import trained_looking

from mmprime.engine import Canvas, Codec, Span, masking_of
from mmprime.evaluation import Measure, read_rows, require_same, stamp, table, to_json
from mmprime.evaluation.likelihood import Effort, ScoredRows, Sizes, estimate, measures, ratio, uniform_nats
from mmprime.evaluation.quantities import Bounds, Quantity
from mmprime.evaluation.tasks import choose_tasks, evaluation_tasks
from mmprime.models import DiTConfig, PrimeDiT

NESTED = masking_of("nested")


@pytest.fixture
def canvas() -> Canvas:
    return Canvas([Span("text", 4, Codec.base(64, 2)), Span("image", (2, 2), Codec.base(16, 2))])


def _data(canvas: Canvas, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    codes = {s.name: torch.randint(s.codec.num_codes, (count, 4), generator=generator) for s in canvas.spans}
    return canvas.pack(codes)


def test_uniform_model_scores_ln_c_in_every_unit(canvas: Canvas) -> None:
    model = PrimeDiT(canvas, DiTConfig(preset="nano", depth=1))
    sizes = Sizes(torch.tensor([8, 8, 8]), pixel_values=48, text_words=torch.tensor([2, 2, 2]))
    rows = {
        (r.metric, r.unit): r
        for r in measures(model, canvas, ScoredRows(_data(canvas, 3), sizes=sizes), Bounds("nested"))
    }
    for masking in ("nested", "independent", "token_synchronous"):
        image, text = f"nelbo image|text continuous {masking}", f"nelbo text|image continuous {masking}"
        assert rows[image, "nats/token"].value == pytest.approx(math.log(16), rel=1e-5)
        assert rows[image, "bits/code"].value == pytest.approx(4, rel=1e-5)
        assert rows[image, "bits/dimension (of codes)"].value == pytest.approx(4 * 4 / 48, rel=1e-5)
        assert rows[text, "nats/token"].value == pytest.approx(math.log(64), rel=1e-5)
        assert rows[text, "perplexity (bound)"].value == pytest.approx(64, rel=1e-4)
        assert rows[text, "perplexity per word (bound)"].value == pytest.approx(64**2, rel=1e-4)
        assert rows[text, "bits/byte"].value == pytest.approx(6 * 4 / 8, rel=1e-5)
        assert rows[text, "nats/token"].stderr == pytest.approx(0, abs=1e-5)
    joint = {metric: row for (metric, _), row in rows.items() if metric.startswith("joint_loss")}
    assert joint.keys() == {f"joint_loss {task.name} nested" for task in evaluation_tasks(canvas)}
    assert all("no bound" in row.unit for row in joint.values())


def test_padding_is_paid_for_and_not_counted(canvas: Canvas) -> None:
    """A uniform model pays ln C for each of 4 positions, of which 1, 2 and 3 are tokens of the text and its end."""
    model = PrimeDiT(canvas, DiTConfig(preset="nano", depth=1))
    sizes = Sizes(torch.tensor([8, 8, 8]), text_tokens=torch.tensor([1, 2, 3]))
    rows = {
        (r.metric, r.unit): r
        for r in measures(model, canvas, ScoredRows(_data(canvas, 3), sizes=sizes), Bounds("nested"))
    }
    text, joint = "nelbo text|image continuous nested", "nelbo joint continuous nested"
    found = rows[text, "nats/token (text and end)"]
    assert found.value == pytest.approx(2 * math.log(64), rel=1e-5)
    residuals = [4 * math.log(64) * (1 - size / 2) for size in (1, 2, 3)]
    assert found.stderr == pytest.approx(math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 6, rel=1e-4)
    assert rows[text, "perplexity (text and end) (bound)"].value == pytest.approx(64**2, rel=1e-3)
    assert rows[text, "bits/byte"].value == pytest.approx(6 * 4 / 8, rel=1e-5)
    both = 4 * math.log(64) + 4 * math.log(16)
    assert rows[joint, "nats/token (codes, text and end)"].value == pytest.approx(3 * both / 18, rel=0.1)
    assert rows["joint_loss text|image nested", "nats/token (text and end), no bound"].value > 2 * math.log(64) * 0.9
    assert rows["nelbo image|text continuous nested", "nats/token"].value == pytest.approx(math.log(16), rel=1e-5)
    for task, nats in zip(evaluation_tasks(canvas), (4 * math.log(16), 4 * math.log(64), both)):
        assert uniform_nats(canvas, task) == pytest.approx(nats)


def test_precision_is_that_of_what_is_printed(canvas: Canvas) -> None:
    """Half of the positions are padding, so the error per token is twice that per position."""
    model = trained_looking(PrimeDiT(canvas, DiTConfig(preset="nano", depth=1)))
    task, quantity = choose_tasks(evaluation_tasks(canvas), ["text|image"])[0], Quantity("nelbo", NESTED)
    y0, sizes = _data(canvas, 400), Sizes(text_tokens=torch.full((400,), 2))
    once = estimate(model, canvas, ScoredRows(y0), task, quantity, Effort(batch=20)).nats
    _, error = ratio(once, torch.full_like(once, 2))
    assert error is not None
    found = estimate(
        model, canvas, ScoredRows(y0, sizes=sizes), task, quantity, Effort(batch=20, precision=1.3 * error)
    )
    reached = found.per_token[1]
    assert reached is not None
    assert reached <= 1.3 * error
    assert len(found.nats) > 120  # about 400/1.3²; were padding counted, a quarter of that would do


def test_finite_bounds_stand_beside_the_continuous_one(canvas: Canvas) -> None:
    model = PrimeDiT(canvas, DiTConfig(preset="nano", depth=1))
    rows = list(
        measures(
            model,
            canvas,
            ScoredRows(_data(canvas, 64)),
            Bounds("nested", ["nested"], [2, 8], tasks=["image|text"]),
            Effort(8),
        )
    )
    finite = {row.metric: row for row in rows if "T=" in row.metric and row.unit == "nats/token"}
    assert finite.keys() == {"nelbo image|text T=2 nested", "nelbo image|text T=8 nested"}
    for row in finite.values():
        assert row.stderr is not None
        assert abs(row.value - math.log(16)) < 4 * row.stderr  # a uniform model has the same bound at every T
        assert row.nfe == 8


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        (Quantity("nelbo", NESTED), 3),
        (Quantity("nelbo", NESTED, 64), 3),  # a draw looks at one of the 64 steps
        (Quantity("joint_loss", NESTED), 3),
        (Quantity("nll", NESTED, order="raster"), 4),
        (Quantity("nll", NESTED, order="coarse_first"), 8),
    ],
    ids=lambda value: value.name("x") if isinstance(value, Quantity) else "",
)
def test_nfe_is_what_was_really_forwarded(canvas: Canvas, quantity: Quantity, expected: int, passes: int) -> None:
    class Watched(PrimeDiT):
        rows = 0

        def forward(self, y: torch.Tensor, *rest: object) -> torch.Tensor:
            Watched.rows += len(y)
            return super().forward(y, *rest)

        def passes(self, y: torch.Tensor, cond: object) -> torch.Tensor:
            return torch.full((len(y),), passes)

    model, task = (
        Watched(canvas, DiTConfig(preset="nano", depth=1)),
        choose_tasks(evaluation_tasks(canvas), ["image|text"])[0],
    )
    found = estimate(model, canvas, ScoredRows(_data(canvas, 6)), task, quantity, Effort(samples=3, batch=4))
    assert Watched.rows == 6 * expected
    assert found.nfe == passes * expected


def test_standard_error_is_the_spread_of_repetitions(canvas: Canvas) -> None:
    model = trained_looking(PrimeDiT(canvas, DiTConfig(preset="nano", depth=1)))
    task = choose_tasks(evaluation_tasks(canvas), ["image|text"])[0]
    y0 = _data(canvas, 1).expand(200, -1)  # one example over and over: the spread is that of the estimator alone
    quantity, effort = Quantity("nelbo", NESTED, 4), Effort(batch=1)
    nats = estimate(model, canvas, ScoredRows(y0), task, quantity, effort).nats
    _, error = ratio(nats, torch.full_like(nats, 4))
    blocks = nats.view(20, 10).mean(-1) / 4
    assert error == pytest.approx(float(blocks.std()) / math.sqrt(20), rel=0.5)
    again = estimate(model, canvas, ScoredRows(y0[:40]), task, quantity, effort).nats
    assert torch.equal(again, nats[:40])


def test_ratio_of_unequal_sizes() -> None:
    value, error = ratio(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert (value, error) == (2.0, 0.0)
    assert ratio(torch.tensor([2.0]), torch.tensor([1.0])) == (2.0, None)


def test_mistakes_are_named(canvas: Canvas) -> None:
    model = PrimeDiT(canvas, DiTConfig(preset="nano", depth=1))
    with pytest.raises(ValueError, match="unknown masking 'random'"):
        list(measures(model, canvas, ScoredRows(_data(canvas, 1)), Bounds("nested", ["random"])))
    with pytest.raises(ValueError, match=r"no task 'sound'.*image\|text"):
        list(measures(model, canvas, ScoredRows(_data(canvas, 1)), Bounds("nested", tasks=["sound"])))
    with pytest.raises(ValueError, match="no example"):
        list(measures(model, canvas, ScoredRows(_data(canvas, 1)[:0]), Bounds("nested")))


def test_rows_as_table_and_json(tmp_path: Path) -> None:
    rows = [
        Measure("nelbo a|b", 1.25, 0.5, "nats/token", 3, 1, 7, command="cmd"),
        Measure("chance", 0.1, None, "share", 3, 0, 7),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("|---")
    assert "1.2500" in lines[2]
    assert "0.5000" in lines[2]
    (tmp_path / "rows.json").write_text(to_json(rows))
    assert read_rows(tmp_path / "rows.json") == rows
    (tmp_path / "rows.json").write_text('[{"metric": "fid", "value": 3}]')
    with pytest.raises(ValueError, match=r"row 0 of .*: command, data_hash"):
        read_rows(tmp_path / "rows.json")


def test_rows_are_stamped_and_those_of_other_data_are_not_compared() -> None:
    rows = [
        Measure("a", 1.0, None, "dB", 3, 0, 7, data_hash="1"), Measure("b", 1.0, None, "dB", 3, 0, 7, data_hash="2")
    ]  # fmt: skip
    stamped = stamp(rows, data_hash="3", command="cmd")
    assert [row.data_hash for row in stamped] == ["1", "2"]
    assert {row.command for row in stamped} == {"cmd"}
    require_same(stamped, "model_hash", "command")
    with pytest.raises(ValueError, match="'a' has data_hash 1, 'b' has 2"):
        require_same(stamped, "data_hash")


def test_rows_of_older_files_are_read_in_the_words_of_newer_ones(tmp_path: Path) -> None:
    rows = [
        Measure("nelbo text T=4 independent places 1,2.5 by time", 1.0, None, "nats/token", 3, 1, 0),
        Measure("KID-EffNet-Lite0 (60 generated, 50 reference)", 1.0, None, "squared distance", 3, 1, 0),
        Measure("FD-EffNet-Lite0", 1.0, None, "squared distance", 3, 1, 0),
        Measure("two places in text", 1.0, None, "share", 3, 1, 0),
    ]
    (tmp_path / "rows.json").write_text(to_json(rows))
    read = read_rows(tmp_path / "rows.json")
    assert [row.metric for row in read] == ["nelbo text T=4 independent levels 1,2.5 by time"] + [
        row.metric for row in rows[1:]
    ]
    assert [row.unit for row in read] == ["nats/token", "squared MMD", "squared distance", "share"]


def test_a_value_that_is_not_finite_is_no_row() -> None:
    with pytest.raises(ValueError, match="fid came out as nan"):
        Measure("fid", float("nan"), None, "squared distance", 3, 0, 7)
