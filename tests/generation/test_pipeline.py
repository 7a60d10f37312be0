"""What a user holds: shapes, seeds, what stays and what changes, texts there and back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pipeline_world import CAPTIONS, TEXT_LENGTH, WORDS, tiny_image_tokenizer, write_text_image_model, write_text_model

from mmprime.engine import MASK_ID, SAMPLERS, Wrapper, sampler_of
from mmprime.generation import images, prompts
from mmprime.generation.pipeline import Pipeline, from_pretrained
from mmprime.generation.sampling import SamplingConfig, half_known_warning
from mmprime.tokenizers import TextTokenizer


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return from_pretrained(write_text_image_model(tmp_path_factory.mktemp("t2i")))


@pytest.fixture(scope="module")
def text_pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return from_pretrained(write_text_model(tmp_path_factory.mktemp("text")))


def edit_json(file: Path, **entries: object) -> None:
    file.parent.mkdir(exist_ok=True)
    stored = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**stored, **entries}))


def test_another_tokenizer_of_as_many_codes_is_refused(tmp_path: Path) -> None:
    folder = write_text_image_model(tmp_path)
    own = {"image": tiny_image_tokenizer().fingerprint(), "text": TextTokenizer.bytes().fingerprint()}
    edit_json(folder / "config.json", fingerprints=own)
    assert from_pretrained(folder).image_tokenizer is not None
    for name in own:
        edit_json(folder / "config.json", fingerprints={**own, name: "0123"})
        with pytest.raises(ValueError, match=rf"the {name} tokenizer at .* \({own[name]}\).*trained with \(0123\)"):
            from_pretrained(folder)


def test_a_model_without_fingerprints_is_compared_with_its_codes(tmp_path: Path) -> None:
    folder = write_text_image_model(tmp_path)
    edit_json(folder / "config.json", data="../codes", words=WORDS)
    assert from_pretrained(folder).image_tokenizer is not None  # the codes are not at hand: nothing to compare with
    about = {"format": 1, "kind": "codes", "splits": {}, "shards": [], "num_codes": 16, "grid": [4, 4]}
    edit_json(tmp_path / "codes" / "index.json", **about, tokenizer_fingerprint="0123")
    with pytest.raises(ValueError, match=r"the image tokenizer .*trained with \(0123\)"):
        from_pretrained(folder)


def test_a_model_trained_under_level_powers_samples_in_their_order(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path)
    edit_json(folder / "config.json", level_powers=[100.0, 0.01])
    config = SamplingConfig(steps=12)
    own = from_pretrained(folder)
    rank = own.continue_text("ab", 2, config=config).rank[:, 4:].unflatten(1, (-1, 2))
    assert bool((rank[..., 0] <= rank[..., 1]).all())  # such powers show all coarse digits first
    edit_json(folder / "config.json", level_powers=[])
    plain = from_pretrained(folder).continue_text("ab", 2, config=config).rank[:, 4:].unflatten(1, (-1, 2))
    assert not bool((plain[..., 0] <= plain[..., 1]).all())
    by_name = SamplingConfig(sampler_of("ancestral", {"schedule": "levels:100,0.01"}), 12)
    rank = own.continue_text("ab", 2, config=by_name).rank[:, 4:].unflatten(1, (-1, 2))
    assert bool((rank[..., 0] < rank[..., 1]).all())


def test_parts_of_tokens_are_strange_to_a_model_of_whole_ones(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path)

    def said(name: str | None, options: dict | None = None, **entries: object) -> str | None:
        edit_json(folder / "config.json", **{"trained_on": [], "masking": "token_synchronous"} | entries)
        pipe = from_pretrained(folder)
        config = pipe.config_for("text", SamplingConfig(None if name is None else sampler_of(name, options)))
        return half_known_warning(config, pipe.canvas, pipe.card.trained_on)

    assert "sampler 'nested' shows parts of tokens" in str(said("nested"))
    assert "sampler 'margin'" in str(said("margin"))
    assert said("margin", {"unit": "token"}) is None
    assert said("p2") is said(None) is None
    assert said("nested", trained_on=["nested", "token_synchronous"]) is None
    assert said("nested", masking="nested") is None


def test_same_seed_same_picture_whatever_the_number(pipe: Pipeline) -> None:
    config = SamplingConfig(steps=4, guidance=2.0, seed=7)
    one, three = pipe.generate("red apple", 1, config), pipe.generate("red apple", 3, config)
    assert torch.equal(one.codes[0], three.codes[0])
    torch.testing.assert_close(one.images[0], three.images[0], atol=1e-5, rtol=0)
    other = pipe.generate("red apple", 1, SamplingConfig(steps=4, guidance=2.0, seed=8))
    assert not torch.equal(one.codes, other.codes)
    assert len({tuple(codes.flatten().tolist()) for codes in three.codes}) == 3


OPEN = ("entropy_bounded", "klass", "threshold", "factor", "blocks")  # these decide their number of steps


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_within_its_steps(pipe: Pipeline, sampler: str) -> None:
    found = pipe.generate("blue car", 2, SamplingConfig(sampler, 5))
    assert found.images.shape == (2, 3, 32, 32)
    assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
    if sampler in OPEN:
        return
    assert found.nfe.max() <= 5
    guided = pipe.generate("blue car", 2, SamplingConfig(sampler, 5, guidance=1.0))
    assert guided.nfe.tolist() == (2 * found.nfe - 1).tolist()  # the first step is not guided


def test_prompt_decides_the_picture(pipe: Pipeline) -> None:
    config = SamplingConfig(steps=4, temperature=0.0)
    found = pipe.generate(list(CAPTIONS), 1, config)
    assert found.prompts == list(CAPTIONS)
    assert len({tuple(codes.flatten().tolist()) for codes in found.codes}) > 1


def test_region_repaint_leaves_the_rest(pipe: Pipeline) -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = pipe.encode_images(image[None])[0]
    found = pipe.inpaint(image, (1, 0, 3, 2), "red apple", 4, SamplingConfig(steps=4, guidance=1.0))
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[0:2, 1:3] = True
    assert all(torch.equal(codes[~inside], before[~inside]) for codes in found.codes)
    assert any(not torch.equal(codes[inside], before[inside]) for codes in found.codes)
    pixels = inside.repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert torch.equal(found.images[0][:, ~pixels], image[:, ~pixels])
    with pytest.raises(ValueError, match="outside"):
        pipe.inpaint(image, (2, 0, 5, 2), "red apple")


def test_repaint_without_a_prompt_reads_one(pipe: Pipeline) -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = pipe.inpaint(image, (0, 0, 1, 1), config=SamplingConfig(steps=2, guidance=1.0))
    assert found.prompts == pipe.caption(image[None], config=SamplingConfig(temperature=0.0)).texts


def test_caption_text_there_and_back(pipe: Pipeline) -> None:
    ids = pipe.encode_captions(CAPTIONS)
    assert ids.shape == (3, TEXT_LENGTH)
    y = pipe.canvas.pack({"text": ids})
    back = pipe.canvas.span("text").codec.decode(pipe.canvas.view(y, "text"))
    assert pipe.text_tokenizer is not None
    assert [pipe.text_tokenizer.decode(row) for row in back.tolist()] == list(CAPTIONS)
    found = pipe.caption(torch.rand(2, 3, 32, 32), 3, SamplingConfig(steps=4))
    assert len(found.texts) == 6
    nats = pipe.caption_nats(found, samples=2)
    assert nats.shape == (6,)
    assert (nats > 0).all()
    with pytest.raises(ValueError, match="ids"):
        pipe.generate("a prompt that is far too long")
    with pytest.raises(ValueError, match="empty"):
        pipe.generate(["red apple", "  "])


def test_continue_keeps_the_prefix_and_fill_the_rest(text_pipe: Pipeline) -> None:
    tokenizer = text_pipe.text_tokenizer
    assert tokenizer is not None
    found = text_pipe.continue_text("The state", 3, 6, SamplingConfig(steps=6))
    start = tokenizer.encode("The state")
    codec = text_pipe.canvas.span("text").codec
    view = text_pipe.canvas.view(found.y, "text")
    assert codec.decode(view[:, : len(start)]).tolist() == [start] * 3
    assert (view[:, : len(start) + 6] >= 0).all()
    assert (view[:, len(start) + 6 :] == MASK_ID).all()
    filled = text_pipe.fill_text("the ___ of", 2, 3, SamplingConfig(steps=3))
    tokens = codec.decode(text_pipe.canvas.view(filled.y, "text")[:, :9]).tolist()
    assert all(row[:3] == tokenizer.encode("the") and row[6:] == tokenizer.encode(" of") for row in tokens)
    with pytest.raises(ValueError, match="no room"):
        text_pipe.continue_text("x" * 24)
    for count in (0, 16):
        with pytest.raises(
            ValueError, match=f"{count} new tokens were asked for; the prefix has 9 of the 24 .* 1 to 15"
        ):
            text_pipe.continue_text("The state", 1, count)
    with pytest.raises(ValueError, match="no ___"):
        text_pipe.fill_text("nothing to fill")
    with pytest.raises(ValueError, match="no images"):
        text_pipe.generate()


def test_likelihood_of_an_untrained_model_is_uniform(tmp_path_factory: pytest.TempPathFactory) -> None:
    pipe = from_pretrained(write_text_image_model(tmp_path_factory.mktemp("uniform"), random_heads=False))
    images = torch.rand(2, 3, 32, 32)
    for options in ({}, {"steps": 4, "samples": 64}, {"masking": "token_synchronous"}):
        nats = pipe.likelihood(["red apple", "blue car"], images, given=["text"], **options)
        torch.testing.assert_close(
            nats, torch.full((2,), 16 * math.log(16)), rtol=0.1 if "steps" in options else 1e-5, atol=0
        )
    alone = pipe.likelihood(image=images)  # the text is marginalised
    torch.testing.assert_close(alone, torch.full((2,), 16 * math.log(16)), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="nothing is left"):
        pipe.likelihood(["red apple", "blue car"], given=["text"])


def test_partial_codes_are_means_of_what_still_agrees(pipe: Pipeline) -> None:
    tokenizer = tiny_image_tokenizer()
    book, codec = tokenizer.codebook_vectors(), pipe.canvas.span("image").codec
    y = torch.full((1, pipe.canvas.num_subtokens), MASK_ID)
    blank = images.partial_images(y, pipe.canvas, tokenizer)
    torch.testing.assert_close(blank, tokenizer.decode_vectors(book.mean(0).expand(1, 4, 4, -1)), atol=1e-5, rtol=0)
    pipe.canvas.view(y, "image")[0, 0, 0] = 2  # the first code is known to lie in cluster 2
    agree = codec.digits[:, 0] == 2
    vectors = book.mean(0).repeat(1, 4, 4, 1)
    vectors[0, 0, 0] = book[agree].mean(0)
    partial = images.partial_images(y, pipe.canvas, tokenizer)
    torch.testing.assert_close(partial, tokenizer.decode_vectors(vectors), atol=1e-5, rtol=0)
    codes = torch.randint(16, (1, 4, 4), generator=torch.Generator().manual_seed(0))
    whole = pipe.canvas.pack({"image": codes})
    torch.testing.assert_close(
        images.partial_images(whole, pipe.canvas, tokenizer), tokenizer.decode(codes), atol=1e-5, rtol=0
    )


def test_a_trace_ends_in_the_result(pipe: Pipeline) -> None:
    found = pipe.generate("red apple", 2, SamplingConfig(steps=4, trace=True))
    assert found.trace is not None
    assert torch.equal(found.trace.y[-1], found.y)
    known = (found.trace.y >= 0).sum((1, 2))
    assert (known.diff() > 0).all()


def test_a_foreign_tokenizer_is_refused(pipe: Pipeline) -> None:
    class Other:
        num_codes = 17

    with pytest.raises(ValueError, match="17 codes"):
        Pipeline(pipe.model, pipe.canvas, image_tokenizer=Other())  # type: ignore[arg-type]


def test_unknown_words() -> None:
    assert prompts.check_prompt("a red Apple", [*WORDS, "a"]) is None
    line = prompts.check_prompt("red appel", WORDS)
    assert line is not None
    assert "'appel' (nearest: apple)" in line
    with pytest.raises(ValueError, match="no word of the prompt"):
        prompts.check_prompt("zzz qqq", WORDS)
    with pytest.raises(ValueError, match="holds no word"):
        prompts.check_prompt("?!", WORDS)
    assert prompts.check_prompt("anything", ()) is None


def test_a_denoiser_around_the_model_draws_as_the_model(tmp_path: Path) -> None:
    pipe = from_pretrained(write_text_image_model(tmp_path))
    config = SamplingConfig(steps=2, seed=3)
    plain, said = pipe.generate("red", 1, config), repr(pipe)
    pipe.model = Wrapper(pipe.model)  # type: ignore[assignment]
    assert torch.equal(pipe.generate("red", 1, config).codes, plain.codes)
    assert repr(pipe) == said
