"""How a run samples, and what its model folder says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmprime.engine import sampler_of
from mmprime.generation.defaults import FILE, write_sampling
from mmprime.io import read_json
from mmprime.models import load_model
from mmprime.training.config import ConfigError, load_config
from mmprime.training.samples import sampling_configs
from mmprime.training.schema import DiffusionConfig

ROOT = Path(__file__).resolve().parents[2]


def config_of(name: str, *overrides: str) -> DiffusionConfig:
    config = load_config(ROOT / f"configs/{name}.yaml", overrides)
    assert isinstance(config, DiffusionConfig)
    return config


def test_a_shipped_model_is_sampled_as_its_config_says(tmp_path: Path) -> None:
    folder = ROOT / "assets/models/sotu"  # the others are sampled as sweeps found best: docs/results.md
    write_sampling(tmp_path, sampling_configs(config_of("text_sotu"), load_model(folder)[1]))
    assert read_json(tmp_path / FILE) == read_json(folder / FILE)


def test_a_span_may_have_a_sampler_of_its_own() -> None:
    canvas = load_model(ROOT / "assets/models/emoji_t2i")[1]
    configs = sampling_configs(config_of("emoji_t2i", "samples.spans.text=remdm eta=0.3", "samples.steps=7"), canvas)
    assert configs["image"].sampler == sampler_of("p2", {"eta": 1.0}, 7)
    assert configs["text"].sampler == sampler_of("remdm", {"eta": 0.3}, 7)
    for override, said in (
        ("samples.spans.text=p3", r"samples\.spans\.text=p3: unknown sampler 'p3'"),
        ("samples.spans.sound=p2", r"samples\.spans\.sound=p2: no span 'sound'"),
        ("samples.spans.text=''", r"samples\.spans\.text=: no sampler is named"),
    ):
        with pytest.raises(ConfigError, match=said):
            sampling_configs(config_of("emoji_t2i", override), canvas)


def test_guidance_has_the_schedule_of_the_config_where_the_condition_was_left_out() -> None:
    canvas = load_model(ROOT / "assets/models/emoji_t2i")[1]
    late = "samples.guidance_schedule=interval:0.5:1"
    overrides = ("samples.guidance=2", late, "conditions.text_absent=0.1", "conditions.image_absent=0")
    configs = sampling_configs(config_of("emoji_t2i", *overrides), canvas)
    assert (str(configs["image"].guidance), configs["text"].guidance) == ("2 interval:0.5:1", None)
    with pytest.raises(ConfigError, match=r"samples\.guidance_schedule=late: no guidance schedule 'late'"):
        sampling_configs(config_of("emoji_t2i", "samples.guidance_schedule=late"), canvas)
