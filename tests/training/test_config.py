import subprocess
import sys
from pathlib import Path

import pytest

from mmprime.training.config import ConfigError, as_yaml, load_config

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
        ("run=3", "run: "),
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


def test_the_command_answers_mistakes_with_exit_2_and_one_line(tmp_path):
    command = [sys.executable, "tools/train.py", "configs/toy.yaml", "train.lrr=3"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["error: configs/toy.yaml: unknown key train.lrr; nearest: train.lr"]


def test_a_dry_run_writes_nothing(tmp_path):
    command = [sys.executable, "tools/train.py", "configs/toy.yaml", "--dry-run", f"run.dir={tmp_path}/run"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "examples: 216" in result.stdout
    assert "loss/model" in result.stdout
    assert not (tmp_path / "run").exists()
