"""What the page asks of a model where nothing is chosen: what its generation config says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pipeline_world import write_text_image_model

from mmprime import SamplingConfig, from_pretrained
from mmprime.cli.page.requests import Asked, PageRequests
from mmprime.engine import Guidance
from mmprime.engine.samplers import sampler_of


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> PageRequests:
    return PageRequests({"pictures": from_pretrained(write_text_image_model(tmp_path_factory.mktemp("page")))})


def test_as_the_model_says_is_its_generation_config(desk: PageRequests, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = desk.pipes["pictures"]
    own = SamplingConfig("p2", 5, Guidance(0.5, "constant"), temperature=0.8, top_p=0.9, seed=3)
    monkeypatch.setitem(pipe.sampling, "image", replace(own, seed=0))
    asked = Asked("pictures", steps=5, guidance=0.5, temperature=0.8, seed=3)
    config = desk._sampling("image", asked)[1]
    assert replace(config, sampler=own.sampler, guidance=own.guidance) == own
    assert config.chosen(sampler_of("nested")) == own.chosen(sampler_of("nested"))
    assert str(config.guidance) == "0.5 constant"
    assert str(desk._sampling("image", replace(asked, sampler="nested"))[1].guidance) == "0.5"


def test_one_caption_is_read_as_the_model_says_several_at_the_temperature_set(
    desk: PageRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, picture = desk.pipes["pictures"], torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(pipe.sampling, "text", SamplingConfig("raster", 3, temperature=0.0))
    asked = Asked("pictures", steps=2, guidance=2.0, temperature=3.0)
    cold = pipe.caption(picture[None], 1, pipe.config_for("text")).texts
    (one,), about = desk.caption(picture, 1, asked)
    assert one[0] == cold[0]
    assert "1 readings, 3 passes each" in about
    assert len(desk.caption(picture, 8, asked)[0]) > 1
