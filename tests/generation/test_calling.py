"""A pipeline called as those of diffusers are: what comes out, what is passed on, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_world import write_text_image_model, write_text_model

from mmprime import SamplingConfig, from_pretrained
from mmprime.generation.pipeline import Pipeline, seeds_of


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return from_pretrained(write_text_image_model(tmp_path_factory.mktemp("t2i")))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_of_prompts(pipe: Pipeline) -> None:
    out = pipe(["red apple", "blue car"], num_images_per_prompt=2, num_inference_steps=4, generator=seeded())
    assert [image.size for image in out.images] == [(32, 32)] * 4
    assert out.record.prompts == ["red apple"] * 2 + ["blue car"] * 2
    assert int(out.record.rank.max()) == 4
    exact = pipe("red apple", num_inference_steps=4, generator=seeded(), output_type="pt").images
    assert exact.shape == (1, 3, 32, 32)
    assert not torch.equal(exact, pipe("red apple", output_type="pt", generator=seeded(1)).images)
    again = pipe("red apple", num_inference_steps=4, generator=seeded(), output_type="pt").images
    assert torch.equal(exact, again)


def test_a_seed_for_each_output() -> None:
    generator = seeded()
    assert seeds_of(generator, 2) != seeds_of(generator, 2), "a generator goes on, as in diffusers"
    assert seeds_of(seeded(), 3)[:2] == seeds_of(seeded(), 2)
    assert seeds_of([seeded(4), seeded(4)], 2)[0] == seeds_of([seeded(4)], 1)[0]
    with pytest.raises(ValueError, match="1 generators for 2 outputs; give one, or one for each"):
        seeds_of([seeded()], 2)
    torch.manual_seed(3)
    first = seeds_of(None, 2)
    torch.manual_seed(3)
    assert seeds_of(None, 2) == first


def test_guidance_is_the_scale_of_diffusers(pipe: Pipeline) -> None:
    config = pipe.config_for("image")
    off = pipe("red apple", guidance_scale=1.0, generator=seeded())
    assert off.record.nfe.tolist() == [config.steps]
    guided = pipe("red apple", guidance_scale=4.0, generator=seeded(), config=config)
    seed = seeds_of(seeded(), 1)
    own = pipe.generate("red apple", config=SamplingConfig(config.sampler, config.steps, 3.0, seed=seed))
    assert torch.equal(guided.record.y, own.y)
    with pytest.raises(ValueError, match="guidance_scale=-1 must be a finite number >= 0; 1 is off"):
        pipe("red apple", guidance_scale=-1)


def test_a_negative_prompt_is_what_guidance_leads_away_from(pipe: Pipeline) -> None:
    """At scale 0 (weight -1, constant) the distribution is that of the negative prompt, draw for draw."""
    from mmprime.engine import Guidance

    config = SamplingConfig(pipe.config_for("image").sampler, 4, Guidance(-1.0, "constant"), seed=[7, 8])
    away = pipe.generate(["red apple", "red apple"], config=config, negative=["blue car", ""])
    plain = SamplingConfig(config.sampler, 4, None, seed=[7, 8])
    blue, nothing = pipe.generate("blue car", 2, plain), pipe.generate(None, 2, plain)
    image = pipe.canvas.subtoken_slice("image")
    assert torch.equal(away.y[0, image], blue.y[0, image])
    assert torch.equal(away.y[1, image], nothing.y[1, image]), "an empty one is a masked text"
    with pytest.raises(ValueError, match="the negative prompt 'green apple' needs guidance to act"):
        pipe("red apple", negative_prompt="green apple", guidance_scale=1.0)
    with pytest.raises(ValueError, match="2 negative prompts for 1; give one, or one for each prompt"):
        pipe("red apple", negative_prompt=["a", "b"])
    with pytest.raises(ValueError, match="the negative prompt 'red' needs a prompt beside it"):
        pipe(negative_prompt="red", guidance_scale=3.0)


def test_steps_are_told(pipe: Pipeline) -> None:
    seen = []

    def told(asked: Pipeline, step: int, time: float, state: dict) -> dict:
        assert asked is pipe
        seen.append((step, time, int((state["y"] < 0).sum())))
        return state

    free = pipe.canvas.span("image").num_subtokens
    pipe("red apple", num_inference_steps=4, callback_on_step_end=told)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert [round(time * free) for _, time, _ in seen] == [masked for _, _, masked in seen]
    assert seen[-1][1] == 0
    with pytest.raises(ValueError, match="a callback may look at y, not change it"):
        pipe("red apple", callback_on_step_end=lambda *told: {"y": told[3]["y"] * 0})
    with pytest.raises(ValueError, match="a callback may look at y, not change it"):
        pipe("red apple", callback_on_step_end=lambda *told: {"y": told[3]["y"].zero_()})


def test_captions_of_pictures(pipe: Pipeline, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "it.png")
    out = pipe(image=[picture, tmp_path / "it.png"], num_prompts_per_image=2, generator=seeded())
    assert len(out.texts) == 4
    assert out.images is None
    codes = pipe.canvas.subtoken_slice("image")
    assert bool((out.record.y[0, codes] == out.record.y[3, codes]).all())


def test_a_part_is_painted_anew(pipe: Pipeline, picture: Image.Image) -> None:
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 60, 30))
    out = pipe("red apple", image=picture, mask_image=mask, num_images_per_prompt=2, output_type="pt")
    known = pipe(image=picture).record.y
    digits = pipe.canvas.view(out.record.y, "image").unflatten(1, (4, 4))
    before = pipe.canvas.view(known, "image").unflatten(1, (4, 4))
    assert torch.equal(digits[:, 2:], before[:, 2:].expand(2, -1, -1, -1)), "codes below the mask stay"
    assert torch.equal(out.images[0, :, 16:], out.images[1, :, 16:]), "and so do pixels"
    assert not torch.equal(out.images[0, :, :16], out.images[1, :, :16])


def test_a_paused_painting_goes_on(pipe: Pipeline, picture: Image.Image, tmp_path: Path) -> None:
    from mmprime.generation.pausing import load_paused, save_paused

    codes = torch.zeros(4, 4, dtype=torch.bool)
    codes[1, 2] = codes[3, 0] = True
    image = torch.rand(3, 32, 32, generator=seeded())
    whole = pipe.inpaint(image, codes, "red apple", 2, SamplingConfig(steps=4))
    half = pipe.inpaint(image, codes, "red apple", 2, SamplingConfig(steps=4, pause=2))
    save_paused(tmp_path / "half.safetensors", half.paused, pipe.card.weights)
    done = pipe.resume(load_paused(tmp_path / "half.safetensors", pipe.card.weights))
    assert torch.equal(done.images, whole.images)


def test_scores(pipe: Pipeline, picture: Image.Image) -> None:
    given = pipe.score("red apple", image=[picture, picture], given=("text",), samples=2)
    image = pipe.encode_images(torch.stack([torch.zeros(3, 32, 32)]))
    assert given.shape == (2,)
    assert image.shape == (1, 4, 4)
    assert pipe.score(["red apple", "blue car"], image=picture).shape == (2,)
    with pytest.raises(ValueError, match="2 prompts and 3 pictures; give as many, or one of either"):
        pipe.score(["a", "b"], image=[picture] * 3)


def test_texts(tmp_path: Path) -> None:
    pipe = from_pretrained(write_text_model(tmp_path))
    out = pipe("It is", num_return_sequences=3, generator=seeded())
    assert len(out.texts) == 3
    assert out.texts[0].startswith("It is")
    assert pipe("a ___ b").texts[0].endswith(" b")
    with pytest.raises(ValueError, match="this model knows texts alone: give one text to continue"):
        pipe(image=Image.new("RGB", (8, 8)))


def test_moving_and_looks(pipe: Pipeline, tmp_path: Path) -> None:
    other = from_pretrained(write_text_image_model(tmp_path))
    assert other.to(torch.bfloat16) is other
    assert (other.dtype, other.device.type) == (torch.bfloat16, "cpu")
    assert len(other("red apple").images) == 1
    assert other.to("cpu", torch.float32).dtype == torch.float32
    with pytest.raises(ValueError, match=r"dtype=torch\.int64 is no floating-point type"):
        other.to(dtype=torch.int64)
    with pytest.raises(ValueError, match="device=tpu is no device"):
        other.to("tpu")
    lines = repr(pipe).splitlines()
    assert lines[0].startswith("Pipeline('model': ")
    assert lines[0].endswith(" parameters, float32, cpu)")
    assert "4 × 4 tokens of 16 codes, digits 4 × 4; nested, 16 steps, guidance 3" in lines[2]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"prompt": "red apple", "image": "x.png"}, "mask_image says where to paint"),
        ({"mask_image": "x.png"}, "mask_image marks a part of a picture; give image too"),
        ({"prompt": "red apple", "output_type": "np"}, "output_type='np': there are 'pil' and 'pt'"),
        ({"prompt": "red apple", "fit": "crop"}, "fit='crop' says nothing about a picture of a prompt"),
        ({"prompt": "red apple", "num_prompts_per_image": 2}, "num_prompts_per_image=2 says nothing about"),
        ({"prompt": "red apple", "num_inference_steps": 0}, "steps=0: a run has at least 1 step"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "red " * 400}, "needs .* ids with its end but the length is 16"),
        ({"prompt": []}, "no prompt is given"),
        ({"prompt": ["a", "b"], "image": "x.png", "mask_image": "y.png"}, "one picture is painted anew at a time"),
    ],
)
def test_what_does_not_go_together_is_one_line(asked: dict, line: str, pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match=line) as told:
        pipe(**asked)
    assert "\n" not in str(told.value)


def test_an_unknown_option_is_told(pipe: Pipeline) -> None:
    with pytest.raises(TypeError, match=r"no option 'steps'; there are num_images_per_prompt"):
        pipe("red apple", steps=3)  # type: ignore[call-arg]
