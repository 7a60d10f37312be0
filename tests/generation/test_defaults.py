"""What a model folder says about sampling: read, used where nothing else is said, and written as it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pipeline_world import write_text_image_model, write_text_model

from mmprime import SamplingConfig, from_pretrained
from mmprime.engine import SAMPLERS, Guidance, sampler_of
from mmprime.generation.defaults import FILE, default_sampling, entry_of, sampling_of, write_sampling

SHIPPED = Path(__file__).resolve().parents[2] / "assets/models"


def test_a_folder_says_how_its_model_is_sampled(tmp_path: Path) -> None:
    folder = write_text_image_model(tmp_path)
    plain = from_pretrained(folder)
    assert plain.sampling == default_sampling(plain.canvas, "nested")
    assert plain.sampling["image"].guidance == 3.0
    (folder / FILE).write_text(json.dumps({"image": {"sampler": "p2", "options": {"eta": 0.5}, "steps": 3}}))
    pipe = from_pretrained(folder)
    assert pipe.config_for("image") == SamplingConfig(sampler_of("p2", {"eta": 0.5}, 3), 3)
    assert pipe.config_for("text") == plain.config_for("text"), "a span without an entry keeps its default"
    found = pipe.generate("red apple")
    assert int(found.rank.max()) == 3
    again = pipe.generate("red apple", config=SamplingConfig(sampler_of("p2", {"eta": 0.5}), 3, guidance=0))
    assert torch.equal(found.y, again.y)


def test_what_is_given_goes_before_what_the_folder_says(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path)
    (folder / FILE).write_text(json.dumps({"text": {"sampler": "halton", "steps": 5, "temperature": 0.5}}))
    pipe = from_pretrained(folder)
    assert pipe.config_for("text", SamplingConfig(seed=3)) == SamplingConfig(sampler_of("halton", None, 5), 5, seed=3)
    assert pipe.config_for("text", SamplingConfig("margin")) == SamplingConfig("margin")
    with pytest.raises(ValueError, match="no span 'image'"):
        pipe.config_for("image")


def test_pictures_of_nothing_named_are_not_guided(tmp_path: Path) -> None:
    pipe = from_pretrained(write_text_image_model(tmp_path))
    steps = pipe.sampling["image"].steps
    assert pipe.generate(None, 1).nfe.tolist() == [steps]
    assert pipe.generate("red apple", 1).nfe.tolist() == [2 * steps - 1]  # type: ignore[operator]


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_entry_says_any_sampler(name: str) -> None:
    config = SamplingConfig(sampler_of(name, None, 7), 7, Guidance({"image": 2.0}, "constant"), 0.5, 0.9)
    again = sampling_of(json.loads(json.dumps(entry_of(config))))
    assert (again.sampler, again.steps, again.temperature, again.top_p) == (config.sampler, 7, 0.5, 0.9)
    assert str(again.guidance) == "image=2 constant"


def test_a_sampler_that_words_cannot_say_is_not_written(tmp_path: Path) -> None:
    inner = sampler_of("entropy", {"unit": "token"})
    config = SamplingConfig(sampler_of("mixture", {"rule": inner}))
    with pytest.raises(ValueError, match="no words say the options"):
        write_sampling(tmp_path, {"image": config})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "a JSON object is needed"),
        ({"sound": {}}, "no span 'sound'"),
        ({"text": 3}, "an entry is an object"),
        ({"text": {"plan": "p2"}}, "no key 'plan'"),
        ({"text": {"steps": "4"}}, "steps cannot be '4'"),
        ({"text": {"steps": True}}, "steps cannot be 'True'"),
        ({"text": {"steps": 0}}, "at least 1 step"),
        ({"text": {"sampler": "best"}}, "unknown sampler 'best'"),
        ({"text": {"sampler": "p2", "options": {"speed": 1}}}, "no option 'speed'"),
        ({"text": {"options": {"eta": 1}}}, "without a sampler"),
        ({"text": {"guidance": {"image": "x"}}}, FILE),
        ({"text": {"guidance": -2}}, "guidance must be"),
        ({"text": {"temperature": -1}}, "temperature=-1"),
    ],
    ids=str,
)
def test_a_damaged_file_is_one_line(tmp_path: Path, entries: object, said: str) -> None:
    folder = write_text_model(tmp_path)
    (folder / FILE).write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=FILE) as error:
        from_pretrained(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shipped_models_have_theirs() -> None:
    shipped = {"emoji_t2i": {"image", "text"}, "sotu": {"text"}, "english": {"text"}}
    for name, spans in shipped.items():
        entries = json.loads((SHIPPED / name / FILE).read_text())
        assert set(entries) == spans
        for entry in entries.values():
            assert entry_of(sampling_of(entry)) == entry
