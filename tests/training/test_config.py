import dataclasses
import os
import re
import typing
from pathlib import Path

import pytest

from mmprime.cli import train
from mmprime.tokenizers import ImageTokenizerConfig
from mmprime.training import schema
from mmprime.training.changes import find_changes
from mmprime.training.config import ConfigError, as_dict, as_yaml, load_config
from mmprime.training.tasks.toy import ToyTask

ROOT = Path(__file__).resolve().parents[2]
YAML = """
task: diffusion
run: {dir: somewhere}
data: {path_env: MMPRIME_TEST_SHARDS}
model: {codec: {image: {digits: 3}}}
fallback: {train: {steps: 7}, data: {path: "%s"}}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.delenv("MMPRIME_TEST_SHARDS", raising=False)
    file = tmp_path / "a.yaml"
    file.write_text(YAML % tmp_path)
    return file


def test_overrides_win_over_the_file_and_types_are_kept(path):
    config = load_config(path, ["train.lr=0.5", "train.betas=[0.8,0.9]", "data.labels=true"])
    assert (config.train.lr, config.train.betas, config.data.labels) == (0.5, [0.8, 0.9], True)
    assert config.model.codec["image"].digits == 3
    assert "grad_clip: 1.0" in as_yaml(config)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trian.lr=3", "unknown key trian.lr; nearest: train.lr"),
        ("train.stesp=3", "unknown key train.stesp; nearest: train.steps"),
        ("model.codec.image.digitz=3", "model.codec.image.digitz: .*digits"),
        ("tokenizer.num_codes=3", "unknown key tokenizer.num_codes"),  # a section of another task
        ("train.lr=abc", "train.lr: .*'abc'"),
        ("train.steps=1.5", "train.steps: .*1.5"),
        ("run=3", "run=3: must be a mapping"),
        ("run.resume=atuo", "run.resume=atuo is not one of .*nearest: auto"),
        ("model.codec.image.kind=clusterd", "model.codec.image.kind=clusterd .*nearest: clustered"),
        ("task=difusion", "difusion.*nearest: diffusion"),
        ("fallback.train.stepz=3", "fallback: unknown key train.stepz; nearest: train.steps"),
        ("nonsense", "an override is written key=value"),
    ],
)
def test_a_mistake_is_one_line_with_the_key_and_the_nearest_one(path, override, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)


def test_missing_values_and_paths_name_their_key(path, tmp_path):
    (tmp_path / "tokens_bpe").mkdir()
    with pytest.raises(ConfigError, match=r"data.text_tokenizer=.*tokens_bpf.*nearest: .*tokens_bpe"):
        load_config(path, [f"data.text_tokenizer={tmp_path}/tokens_bpf"])
    with pytest.raises(ConfigError, match=r"assets/absent: no such file or folder; what ships lies in a checkout"):
        load_config(path, ["data.text_tokenizer=assets/absent"])
    with pytest.raises(ConfigError, match=r"zzz: no such file or folder$"):  # like nothing that is there
        load_config(path, [f"data.text_tokenizer={tmp_path}/zzz"])
    with pytest.raises(ConfigError, match=r"no such config; nearest: .*a.yaml"):
        load_config(tmp_path / "aa.yaml")
    path.write_text("task: diffusion\n")
    with pytest.raises(ConfigError, match=r"run.dir has no value"):
        load_config(path)


def test_without_the_variable_the_fallback_applies_loudly(path):
    config = load_config(path, ["train.lr=0.25"])
    assert (config.train.steps, config.train.lr) == (7, 0.25)
    assert "$MMPRIME_TEST_SHARDS is not set" in "\n".join(config.notices)
    assert load_config(path, ["train.steps=9"]).train.steps == 9  # the command line is stronger


def test_the_fallback_calls_the_users_data_by_its_name(path, tmp_path):
    said = "\n".join(load_config(path).notices)
    assert "It trains on the bundled sample" in said
    said = "\n".join(load_config(path, [f"data.path={tmp_path}"]).notices)
    assert f"It trains on data.path of the command line, {tmp_path} instead" in said
    assert "bundled" not in said


def test_with_the_variable_it_is_the_path_or_an_error(path, monkeypatch, tmp_path):
    monkeypatch.setenv("MMPRIME_TEST_SHARDS", str(tmp_path))
    config = load_config(path)
    assert (config.data.path, config.train.steps, config.notices) == (str(tmp_path), 1000, [])
    monkeypatch.setenv("MMPRIME_TEST_SHARDS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"MMPRIME_TEST_SHARDS=.*nowhere"):
        load_config(path)


def test_the_command_answers_mistakes_with_exit_2_and_one_line(capsys):
    assert train.main(["configs/toy.yaml", "train.lrr=3"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == ["error: configs/toy.yaml: unknown key train.lrr; nearest: train.lr"]


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert train.main(["configs/toy.yaml", "--dry-run", f"run.dir={tmp_path}/run"]) == 0
    printed = capsys.readouterr().out
    assert "examples: 216" in printed
    assert "loss/model" in printed
    assert not (tmp_path / "run").exists()


def refused(path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def toy(tmp_path):
    file = tmp_path / "toy.yaml"
    file.write_text(f"task: toy\nrun: {{dir: {tmp_path}/run}}\n")
    return file


OUTSIDE = (
    """
train.steps=-5 [1,   train.steps=0 [1,   train.batch=0 [1,   train.accumulate=-1 [1,   train.log_every=0 [1,
train.lr=0 (0,   train.lr=-1e-3 (0,   train.lr=nan (0,   train.lr=.inf (0,   train.lr=1e400 (0,   train.warmup=-1 [0,
train.betas=[0.9,1] [0,   train.betas=[-0.1,0.9] [0,   train.weight_decay=-1 [0,   train.grad_clip=-1 [0,
train.ema=1 [0,   train.final_lr_ratio=2 [0,   train.keep_last=0 [1,   train.save_every=-1 [0,
train.validate_every=-1 [0,   train.samples_every=-1 [0,   train.lr_scale={a:-1} [0,   run.threads=0 [1,
run.threads=two [1,   run.seed=-1 [0,   run.seed=18446744073709551616 [0,   model.width=-8 [0,
model.width=1000000000 [0,   model.depth=-1 [0,   model.heads=-1 [0,   model.dropout=1 [0,
model.codec.text.digits=0 [1,   model.codec.text.radices=[1,2] [2,   objective.steps=0 [1,
objective.mask_power=0 (0,   objective.start_share=1.5 [0,   objective.mixture={nested:-1} [0,
objective.blend={joint:nan} [0,   objective.level_powers=[0] (0,   toy.tokens=0 [1,   toy.codes=1 [2,
toy.samples=-1 [0,   toy.sharpness=inf [0,
""".replace("{a:", "{a: ")
    .replace("{nested:", "{nested: ")
    .replace("{joint:", "{joint: ")
)


@pytest.mark.parametrize("line", [case.strip() for row in OUTSIDE.strip().splitlines() for case in row.split(",   ")])
def test_a_number_outside_its_range_is_told_with_the_range(toy, line):
    override, _, start = line.strip(", ").rpartition(" ")
    key, value = override.split("=")
    message = refused(toy, override)
    assert message.startswith(key)
    assert f"must lie in {start}, " in message
    if value.lstrip("-").isdigit():
        assert f"={value}" in message.replace(".0:", ":")


def test_every_number_of_the_schemas_has_a_range():
    kinds = [k for k in vars(schema).values() if dataclasses.is_dataclass(k)] + [ImageTokenizerConfig]
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for entry in dataclasses.fields(kind):
            parts = {hints[entry.name], *typing.get_args(hints[entry.name])}
            if parts & {int, float}:
                assert "range" in entry.metadata, f"{kind.__name__}.{entry.name}"


def test_the_defaults_and_the_shipped_configs_lie_inside(monkeypatch):
    monkeypatch.delenv("IMAGENET_SHARDS", raising=False)
    monkeypatch.chdir(ROOT)
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        bundled = not file.name.startswith(("fashion_", "own_", "emoji_fsq_t2i", "emoji_vendor_t2i"))
        made = ["data.image_tokenizer=assets"] if "runs/" in file.read_text().partition("data:")[2] else []
        load_config(file, [] if bundled else ["data.path=assets", *made])


def test_huge_numbers_are_shortened(toy):
    assert refused(toy, f"train.steps={10**30}") == "train.steps=10^30 or more: must lie in [1, 1e9]"
    assert len(refused(toy, "train.steps=" + "9" * 6000)) < 300


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train=[1]", r"train=\[1\]: must be a mapping"),
        ("train=null", "train=None: must be a mapping"),
        ("train.betas=0.9", r"train.betas=0.9: must be a list"),
        ("train.betas=[[0.9], 1]", r"train.betas=\[\[0.9\], 1\]: must be a list of single values"),
        ("model.codec.text.radices=[{a: 1}]", r"must be a list of single values"),
        ("train.betas=[0.9]", r"train.betas=\[0.9\]: must have 2 entries"),
        ("train.lr=[1]", r"train.lr=\[1\]: must be a single value"),
        ("train.lr_scale=[1]", r"train.lr_scale=\[1\]: must be a mapping"),
        ("objective.mixture=[1]", r"objective.mixture=\[1\]: must be a mapping"),
        ("model.codec.text=3", "model.codec.text=3: must be a mapping"),
        ("model.codec.text=[]", r"model.codec.text=\[\]: must be a mapping"),
        ("model.codec.text.radices={}", r"model.codec.text.radices=\{\}: must be a list"),
        ("task=[1]", r"task=\[1\] is unknown"),
        ("train.steps=[", r"^train.steps=\[: "),
        ("run.dir=${run.dirr}", "run.dir: .*'run.dirr' not found"),
        ("run.dir=${run.dir}", "run.dir: Recursive"),
    ],
)
def test_values_of_another_kind(toy, override, words):
    assert re.search(words, refused(toy, override))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"task: toy\nrun: {dir: x\ntrain: 3\n", "bad.yaml, line 3, column 6: not valid YAML: .*expected ',' or '}'"),
        (b"task: toy\ntrain:\n  lr: 1\n  lr: 2\n", "line 4, column 3: .*duplicate key lr"),
        (b"task: toy\n---\ntask: toy\n", "line 2, column 1: .*another document"),
        (b"task: !!python/object:os.system x\n", "line 1, column 7: .*could not determine a constructor"),
        (b"- a\n", "must be a mapping .*not a list"),
        (b"hello\n", "must be a mapping .*not a single value"),
        (b"", "must be a mapping .*not nothing"),
        (b"task: toy # \xe9\n", "not UTF-8 text .byte 12."),
        (b"task: toy\0", "not valid YAML"),
        (b"task: " + b"[" * 2000, "nested too deeply"),
        (b"task: toy\nnull: 3\n", "not valid YAML: .*key type"),
    ],
)
def test_a_file_that_is_no_config_names_the_place(tmp_path, text, words):
    (tmp_path / "bad.yaml").write_bytes(text)
    message = refused(tmp_path / "bad.yaml")
    assert str(tmp_path / "bad.yaml") in message
    assert re.search(words, message)


@pytest.mark.parametrize("value", ["${oc.env:SECRET}", "${oc.env:SECRET,x}", "a${oc.${run.device}:SECRET}", "${x:1}"])
def test_resolvers_are_refused_by_name_and_not_called(path, toy, monkeypatch, value):
    monkeypatch.setenv("SECRET", "hunter2")
    message = refused(toy, f"run.dir={value}")
    assert f"run.dir={value}" in message
    assert "hunter2" not in message
    assert "fallback.data.path" in refused(path, f"fallback.data.path={value}")
    toy.write_text(f'task: toy\nrun: {{dir: x}}\nmodel: {{preset: "{value}"}}\n')
    assert f"model.preset={value}" in refused(toy)
    assert load_config(path, ["data.text_length=5", "model.width=${data.text_length}"]).model.width == 5


def test_a_run_dir_that_cannot_be_made(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    assert "is a file, not a folder" in refused(toy, f"run.dir={tmp_path}/file")
    assert "is a file, not a folder" in refused(toy, f"run.dir={tmp_path}/file/run")
    assert "names no folder" in refused(toy, "run.dir=' '")
    assert "File name too long" in refused(toy, f"run.dir={'x' * 300}")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)  # a read-only disk; root may write anywhere else
    assert "cannot be written to" in refused(toy, f"run.dir={tmp_path}/other")
    load_config(toy)  # a run that stands there can still be exported


def test_a_toy_world_too_large_to_hold(toy):
    with pytest.raises(ConfigError, match=r"toy.tokens=30, toy.codes=10: 10\^30 states"):
        ToyTask(load_config(toy, ["toy.tokens=30", "toy.codes=10"]))
    with pytest.raises(ConfigError, match=r"toy.samples=1:"):
        ToyTask(load_config(toy, ["toy.samples=1"]))


def test_earlier_names_are_read_and_told_once(toy):
    toy.write_text(toy.read_text() + "objective: {law: nested, place_powers: [1, 2]}\n")
    config = load_config(toy, ["objective.law=independent", "objective.start_law=nested", "objective.start_share=0.5"])
    goal = config.objective
    assert (goal.masking, goal.level_powers, goal.start_masking) == ("independent", [1.0, 2.0], "nested")
    (notice,) = config.notices
    assert "objective.law (now objective.masking), objective.place_powers (now objective.level_powers)" in notice
    assert "law" not in as_yaml(config)
    assert load_config(toy, ["objective.masking=nested"]).objective.masking == "nested"
    both = "objective.law is an earlier name of objective.masking, and both are set"
    assert both in refused(toy, "objective.law=nested", "objective.masking=nested")


def test_checkpointing_of_earlier_configs_is_read(tmp_path):
    words = {"true": "full", "false": "none", "selective": "selective"}
    for given, kept in words.items():
        assert load_config(ROOT / "configs/toy.yaml", [f"model.checkpointing={given}"]).model.checkpointing == kept
    with pytest.raises(ConfigError, match=r"model\.checkpointing=some is not one of none, full, selective"):
        load_config(ROOT / "configs/toy.yaml", ["model.checkpointing=some"])
    config = load_config(ROOT / "configs/toy.yaml")
    stored = as_dict(config)
    stored["model"]["checkpointing"] = False
    del stored["run"]["parallel"], stored["run"]["time_limit"]
    assert find_changes(stored, {}, config, {}) == []
