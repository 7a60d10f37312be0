"""A study runs each cell once with what its name says, measures it with bounds, and averages over seeds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmprime.cli.study import main
from mmprime.codecs import load_codec
from mmprime.data.text import Document, load_documents, write_documents
from mmprime.engine import sampler_of
from mmprime.evaluation import Measure
from mmprime.generation.sampling import SamplingConfig
from mmprime.studies.report import bounds, gap_lines, gaps, group_table, groups
from mmprime.studies.run import run_cell
from mmprime.studies.spec import Study
from mmprime.studies.store import add_cell, read_nats, read_results, write_results

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two kinds of digits and plain masking, two seeds, two steps of training."""
    monkeypatch.chdir(ROOT)
    small = "train.steps=2, train.batch=4, data.validate_examples=4, model.width=32, model.depth=1, run.precision=fp32"
    file = tmp_path / "study.yaml"
    file.write_text(f"""
dir: {tmp_path}/runs
results: {tmp_path}/results/study.json
seeds: [0, 1]
bases: {{codes: {{config: benchmarks/studies/configs/codes.yaml, span: image}}}}
extra: {{one: ["model.codec.{{span}}.digits=1", objective.masking=token_synchronous, {small}]}}
axes:
  digits: {{two: ["model.codec.{{span}}.digits=2", {small}]}}
  masks: {{independent: [objective.masking=independent], nested: [objective.masking=nested]}}
evaluate: {{limit: 4, samples: 1, steps: [2]}}
""")
    return Study.load(file)


def test_cells_are_the_product_of_the_axes_and_the_extra_ones(study: Study) -> None:
    names = [cell.name for cell in study.cells()]
    assert names[:3] == ["codes-one-s0", "codes-two-independent-s0", "codes-two-nested-s0"]
    assert len(names) == 6
    cell = list(study.cells())[1]
    assert "model.codec.image.digits=2" in cell.overrides
    assert cell.masking == "independent"


def test_a_cell_is_trained_measured_and_not_run_again(study: Study) -> None:
    cell = next(cell for cell in study.cells() if cell.name == "codes-two-nested-s0")
    rows = {(row.metric, row.unit): row for row in run_cell(study, cell, "cmd")}
    bound = rows["nelbo image continuous nested", "nats/token"]
    assert bound.value < 6.5  # ln 512 = 6.24
    assert bound.data_hash
    assert bound.command == "cmd"
    assert rows["idle steps T=2 nested", "share of steps"].value < 0.01
    assert rows["parameters", "count"].value > 10_000
    assert read_nats(study.nats)[cell.name]["nelbo image continuous nested"].shape == (4,)
    write_results(
        study.results, {cell.name: [Measure("nelbo image continuous nested", 1.5, 0.1, "nats/token", 4, 1, 0)]}
    )
    assert run_cell(study, cell)[0].value == 1.5


def test_overrides_of_a_run_come_last_in_every_cell(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    row = Measure("nelbo", 1.0, 0.1, "nats/token", 4, 1, 0)
    monkeypatch.setattr("mmprime.studies.run.run_cell", lambda _, cell, __: seen.append(cell.overrides) or [row])
    assert main(["run", str(tmp_path / "study.yaml"), "--only", "s1", "--set", "model.width=16", "--set", "a=b"]) == 0
    assert [overrides[-2:] for overrides in seen] == [("model.width=16", "a=b")] * 3


def test_the_table_averages_seeds_pairs_them_and_leaves_out_what_is_missing(study: Study) -> None:
    for cell, value in zip(study.cells(), [1.0, 2.0, 9.0, 3.0, 6.6]):
        rows = [Measure(f"nelbo image continuous {cell.masking}", value, 0.25, "nats/token", 4, 1, cell.seed)]
        add_cell(study.results, study.lock, cell.name, rows, {})
    columns = {"NELBO": "nelbo image continuous {masking}", "T": "nelbo image T=2"}
    lines = group_table(groups(study, "codes"), columns, against="NELBO").splitlines()
    assert lines[0] == "| cell | seeds | NELBO | NELBO against the first | T |"
    assert lines[2] == "| one | 2 | 2.000 ± 1.000 |  |  |"  # 1 and 3
    assert lines[3] == "| two · independent | 2 | 4.300 ± 2.300 | +110.0 ± 10.0 % |  |"  # 2 / 1 and 6.6 / 3
    assert lines[4] == "| two · nested | 1 | 9.000 ± 0.250 | +800.0 % |  |"


def test_a_group_with_level_powers_is_judged_under_them(study: Study) -> None:
    for cell, levels in zip(study.cells(), ["", " levels 1,2"]):
        names = [f"nelbo image continuous {cell.masking}", f"nelbo image continuous {cell.masking}{levels}"]
        rows = [Measure(name, 4.0 - len(name) / 100, 0.1, "nats/token", 4, 1, 0) for name in names]
        add_cell(study.results, study.lock, cell.name, rows, {})
    first, other = groups(study, "codes")
    found = [each.values("nelbo image continuous {masking}")[0].metric for each in (first, other)]
    assert found == ["nelbo image continuous token_synchronous", "nelbo image continuous independent levels 1,2"]
    assert groups(replace(study, first=other.name), "codes")[0].name == other.name


def test_gaps_show_every_bound_against_the_first_group(study: Study) -> None:
    study.bases["codes"]["evaluate"] |= {"finite": ("nested",)}
    for cell, scale in zip(study.cells(), [1.0, 1.1, 0.9]):
        rows = [
            Measure(f"nelbo image continuous {cell.masking}", 4 * scale, 0.1, "nats/token", 4, 1, 0),
            Measure(f"nelbo image T=2 {cell.masking}", 5 * scale, 0.1, "nats/token", 4, 1, 0),
            Measure("training", 61.4, None, "CPU seconds", 1, 0, 0),
        ]
        add_cell(study.results, study.lock, cell.name, rows, {})
    assert [(line.label, line.x, round(line.y[0], 6)) for line in gap_lines(study, "codes")] == [
        ("two · independent", [2], 10.0), ("two · nested", [2], -10.0),
    ]  # fmt: skip
    lines = gaps(study, "codes").splitlines()
    assert lines[0] == "| cell | seeds | NELBO | token-synchronous | T = 2 | T = 2 nested |"
    assert lines[2] == "| two · independent | 1 | +10.0 % |  | +10.0 % |  |"
    assert "| CPU seconds |" in bounds(study, "codes").splitlines()[0]
    assert "| 61 |" in bounds(study, "codes").splitlines()[2]


def test_the_error_of_one_seed_is_that_of_pairs_of_examples(study: Study) -> None:
    """Examples differ by far more than the two groups do on each of them."""
    easy_to_hard = torch.tensor([1.0, 3.0, 5.0, 7.0])
    for cell, shift in zip(study.cells(), [torch.zeros(4), torch.tensor([0.5, 0.25, 0.5, 0.75])]):
        nats = easy_to_hard + shift
        metric = f"nelbo image continuous {cell.masking}"
        rows = [Measure(metric, float(nats.mean()), 1.3, "nats/token", 4, 1, 0)]
        add_cell(study.results, study.lock, cell.name, rows, {metric: nats})
    first, other = groups(study, "codes")
    mean, error = other.gap(first, "nelbo image continuous {masking}") or (0.0, 0.0)
    assert mean == pytest.approx(12.5)
    # shift - 0.125 * (1, 3, 5, 7) = (0.375, -0.125, -0.125, -0.125): 0.25 / 2 / 4
    assert error == pytest.approx(100 * 0.25 / 2 / 4, rel=1e-3)


def test_a_table_gives_back_its_rows_with_provenance_once_a_cell(tmp_path: Path) -> None:
    """Fields that differ between the rows of a cell stay with the rows; other cells stay when one is added."""
    origin = {"seed": 3, "versions": {"torch": "2"}, "command": "cmd", "model_hash": "0123456789abcdef"}
    rows = [
        Measure("nelbo", 4.5, 0.1, "nats/token", 8, 4.0, **origin),
        Measure("KID", 0.1, None, "none", 8, 16.0, reference_hash="ab", **origin),
    ]
    file = tmp_path / "deep" / "study.json"
    add_cell(file, tmp_path / "lock", "b-s0", rows, {"nelbo": torch.arange(8.0)})
    add_cell(file, tmp_path / "lock", "a: odd, name-s0", rows[:1], {"nelbo: x": torch.ones(2)})
    assert read_results(file) == {"a: odd, name-s0": rows[:1], "b-s0": rows}
    assert file.read_text().count("0123456789abcdef") == 2
    assert len(file.read_text().splitlines()) == 4
    nats = read_nats(file.with_suffix(".safetensors"))
    assert nats["b-s0"]["nelbo"].tolist() == list(range(8))
    file.write_text(file.read_text().replace('"metric"', '"metrik"'))
    with pytest.raises(ValueError, match=r"study\.json is no table of a study, at cell 'a: odd, name-s0': .*metrik"):
        read_results(file)


def test_parts_of_a_study_that_end_together_lose_no_cell(tmp_path: Path) -> None:
    row = Measure("nelbo", 4.5, 0.1, "nats/token", 8, 4.0, 0)

    def part(name: str) -> None:
        for number in range(20):
            add_cell(tmp_path / "t.json", tmp_path / "lock", f"{name}-{number}", [row], {})

    with ThreadPoolExecutor() as pool:
        list(pool.map(part, "ab"))
    assert len(read_results(tmp_path / "t.json")) == 40


DIGITS_FROM = """
digits_from: {from a head: {source: head, share: 0.5, radices: [64, 8], set: [SMALL, "model.codec.{span}.digits=1"]}}
"""


def test_digits_from_a_model_cost_their_share_of_the_steps(study: Study, tmp_path: Path) -> None:
    """Two steps: one of plain masking, whose head is clustered, and one with those digits, from its weights."""
    small = '"train.batch=4", "data.validate_examples=4", "model.width=32", "model.depth=1", "run.precision=fp32"'
    text = (tmp_path / "study.yaml").read_text() + DIGITS_FROM.replace("SMALL", small)
    own = "from a head: [train.steps=2, objective.masking=nested]"
    text = text.replace("extra: {", f"extra: {{{own}, ")
    text = text.replace("span: image}", f"span: image, set: [{small}]}}")
    (tmp_path / "new.yaml").write_text(text)
    learned = Study.load(tmp_path / "new.yaml")
    cell = next(cell for cell in learned.cells() if cell.name == "codes-from a head-s0")
    rows = {row.metric: row for row in run_cell(learned, cell)}
    assert rows["training"].value > 0
    folder = learned.directory / "cells" / cell.name
    codec, about = load_codec(folder / "round_0" / "codec.safetensors")
    assert codec.radices == (64, 8)
    assert about["source"] == "head"
    assert {entry.name for entry in (folder / "last" / "checkpoints").iterdir()} >= {"step_00000001"}
    assert "nelbo image T=2 nested" in rows


@pytest.mark.parametrize(
    ("about", "message"),
    [("{source: head, share: 0.5, rounds: 2}", "leave none"), ("{source: head, shares: 1}", "no key 'shares'")],
)
def test_digits_that_leave_no_steps_are_refused(tmp_path: Path, about: str, message: str) -> None:
    text = f"dir: x\nresults: x\nbases: {{}}\nseeds: [0]\nextra: {{a: []}}\ndigits_from: {{a: {about}}}\n"
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Study.load(tmp_path / "study.yaml")


class Fake:
    """Stands for the quality of pictures or texts; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[object] = []

    def rows(self, samples: object, nfe: float, seed: int | None = None) -> list[Measure]:
        self.given.append(samples)
        return [Measure("quality", 0.5, None, "none", 2, nfe, seed)]


@pytest.mark.parametrize("kind", ["codes", "text"])
def test_samples_of_a_cell_are_measured_at_each_number_of_steps(
    kind: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are decoded, texts are words; a base overrides the evaluation of the study."""
    fake = Fake()
    monkeypatch.setattr("mmprime.studies.evaluate._picture_quality", lambda folder: fake)
    monkeypatch.setattr("mmprime.studies.evaluate._text_quality", lambda: fake)
    cell = next(cell for cell in study.cells() if cell.name == "codes-two-nested-s0")
    if kind == "text":
        speeches = [(split, text) for split in ("train", "val") for text in load_documents("assets/sotu", split)[:3]]
        few = [Document(f"{number}", text, {}, split) for number, (split, text) in enumerate(speeches)]
        write_documents(few, tmp_path / "texts")
        overrides = [each.replace("image", "text").replace("clustered", "base") for each in cell.overrides]
        overrides += ["model.codec.text.kind=base", f"data.path={tmp_path}/texts"]
        cell = replace(cell, config="benchmarks/studies/configs/text.yaml", overrides=tuple(overrides))
    study.bases["codes"]["evaluate"] |= {
        "num": 2,
        "sampling_steps": (1, 3),
        "samplers": ("token_synchronous", "p2 eta=0.5"),
    }
    rows = {row.metric: row for row in run_cell(study, cell)}
    for by in ("", " by token_synchronous", " by p2 eta=0.5"):
        assert rows[f"quality in 1 steps{by}"].nfe == 1
        assert rows[f"quality in 3 steps{by}"].nfe == 3
    assert len(fake.given) == 6
    one = fake.given[0]
    assert tuple(one.shape) == (2, 3, 64, 64) if kind == "codes" else all(isinstance(text, str) for text in one)


def test_samples_of_a_cell_with_level_powers_follow_them(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    samplers = []

    def sample_rows(model: object, canvas: object, y: object, config: SamplingConfig) -> None:
        samplers.append(config.sampler)
        raise InterruptedError

    monkeypatch.setattr("mmprime.studies.evaluate.sample_rows", sample_rows)
    study.bases["codes"]["evaluate"] |= {"num": 2}
    cell = next(cell for cell in study.cells() if cell.name == "codes-two-independent-s0")
    for powers in ((), ("objective.level_powers=[1,2]",)):
        with pytest.raises(InterruptedError):
            run_cell(study, replace(cell, overrides=(*cell.overrides, *powers), choices={"powers": str(powers)}))
    assert samplers == [sampler_of("first_hitting"), sampler_of("first_hitting", {"schedule": "levels:1,2"})]


def test_a_study_written_in_former_words_is_the_same(study: Study, tmp_path: Path) -> None:
    text = (tmp_path / "study.yaml").read_text()
    former = text.replace("evaluate:", "judge:").replace("objective.masking", "objective.law")
    former = former.replace("steps: [2]}", "steps: [2], laws: [nested], draws: 3, draw_steps: [1], finite_laws: []}")
    text = text.replace("steps: [2]}", "steps: [2], maskings: [nested], num: 3, sampling_steps: [1], finite: []}")
    (tmp_path / "new.yaml").write_text(text)
    (tmp_path / "former.yaml").write_text(former)
    new, old = Study.load(tmp_path / "new.yaml"), Study.load(tmp_path / "former.yaml")
    assert old.evaluation("codes") == new.evaluation("codes")
    assert [cell.masking for cell in old.cells()] == [cell.masking for cell in new.cells()]


def test_a_choice_may_fit_some_bases_only(tmp_path: Path) -> None:
    text = """
dir: x
results: y
seeds: [0]
bases: {a: {config: c, span: text}, b: {config: c, span: image}}
extra: {one: [], two: []}
only: {two: [b]}
"""
    file = tmp_path / "study.yaml"
    file.write_text(text)
    assert [cell.name for cell in Study.load(file).cells()] == ["a-one-s0", "b-one-s0", "b-two-s0"]
    for odd, message in (
        ("two: [c]", "only names 'c', which is no base"),
        ("too: [b]", "only names 'too', which is no"),
    ):
        file.write_text(text.replace("two: [b]", odd))
        with pytest.raises(ValueError, match=message):
            Study.load(file)


def test_a_base_has_an_evaluation_of_its_own(study: Study) -> None:
    shipped = Study.load(ROOT / "benchmarks/studies/digits.yaml")
    assert (shipped.evaluation("text").num, shipped.evaluation("codes").num) == (48, 64)
    assert shipped.evaluation("text").limit == shipped.evaluation("codes").limit == 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0]\n", "a study has the keys"),
        ("dir: x\nresults: x\nbases: {}\nseeds: []\nevaluate: {stepz: 3}\n", "no key 'stepz'"),
        ("dir: x\nresults: x\nbases: {a: {evaluate: {draw: 3}}}\nseeds: []\n", "no key 'draw'"),
    ],
)
def test_a_study_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Study.load(tmp_path / "study.yaml")


def test_the_shipped_study_names_configs_that_exist() -> None:
    shipped = Study.load(ROOT / "benchmarks/studies/digits.yaml")
    cells = list(shipped.cells())
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 19 * 3
    assert all((ROOT / cell.config).is_file() for cell in cells)


@pytest.mark.parametrize(
    ("entry", "what"), [("steps: null", "a list"), ("limit: many", "a whole number"), ("seed: true", "a whole number")]
)
def test_values_of_another_kind_are_told(tmp_path: Path, entry: str, what: str) -> None:
    file = tmp_path / "study.yaml"
    base = f"{{config: train.yaml, span: image, evaluate: {{{entry}}}}}"
    rest = "dir: runs\nresults: rows.json\nseeds: [0]\naxes: {}\nevaluate: {}\n"
    file.write_text(f"{rest}bases: {{codes: {base}}}\n")
    with pytest.raises(ValueError, match=what):
        Study.load(file)
