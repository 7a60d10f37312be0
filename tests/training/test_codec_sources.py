"""Codecs made beforehand, and stored codecs in a run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from mmprime.cli.prepare import main, parser
from mmprime.codecs import load_codec, save_codec
from mmprime.data import prepare_text
from mmprime.engine import Canvas, Codec, Span
from mmprime.models import DiTConfig, PrimeDiT, load_model, save_model
from mmprime.tokenizers import ImageTokenizer, ImageTokenizerConfig, TextTokenizer
from mmprime.training.codec_sources import (
    SOURCES,
    Recipe,
    confusion,
    drawn_patches,
    language_model,
    make_codec,
    piece_embeddings,
)
from mmprime.training.config import ConfigError, load_config
from mmprime.training.examples import Examples
from mmprime.training.tasks.diffusion import DiffusionTask

CODES = 257 + 15


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text dataset, its tokenizer, and a model of it with one digit a token."""
    monkeypatch.chdir(tmp_path)
    lines = [f"the {a} cat saw the {b} dog" for a in ("old", "red", "big") for b in ("sad", "wet", "shy")] * 4
    Path("lines.txt").write_text("\n".join(lines))
    prepare_text(["lines.txt"], "data", 0.1, "line")
    tokenizer = TextTokenizer.train(lines, CODES)
    tokenizer.save("bpe")
    canvas = Canvas([Span("text", 8, Codec.base(tokenizer.vocab_size, 1))])
    torch.manual_seed(0)
    model = PrimeDiT(canvas, DiTConfig(preset="nano", width=32, depth=1, heads=2))
    torch.nn.init.normal_(model.heads["text"].linear.weight)
    save_model("model", model, canvas, {"tokenizers": {"text": "../bpe"}})
    return tmp_path


def config_file(folder: Path, **model: object) -> Path:
    """A training config on that world."""
    content = {
        "task": "diffusion",
        "run": {"dir": str(folder / "run")},
        "train": {"steps": 2, "batch": 4, "validate_every": 0, "samples_every": 0},
        "data": {"kind": "text", "path": "data", "validation": ["val"], "text_tokenizer": "bpe", "text_length": 8},
        "model": {"preset": "nano", "width": 32, "depth": 1, "heads": 2, **model},
    }
    (folder / "config.yaml").write_text(json.dumps(content))
    return folder / "config.yaml"


@pytest.mark.parametrize("source", ["ppmi", "head", "confusion"])
def test_a_codec_made_twice_is_the_same_and_tells_how(world: Path, source: str) -> None:
    arguments = ["codec", "--source", source, "--data", "data", "--tokenizer", "bpe", "--model", "model"]
    arguments += ["--radices", "34,8", "--dim", "8", "--seed", "3", "--out"]
    assert main([*arguments, "a/one.safetensors"]) == 0
    assert main([*arguments, "two.safetensors"]) == 0
    (one, made), (two, _) = load_codec("a/one.safetensors"), load_codec("two.safetensors")
    assert one == two
    assert one.radices == (34, 8)
    assert (made["kind"], made["source"], made["seed"], made["span"]) == ("clustered", source, 3, "text")
    assert {"seconds", "cpu_seconds"} < set(made)
    assert len(made["data" if source == "ppmi" else "model"]) == 16


def test_the_command_offers_every_source() -> None:
    for source in SOURCES:
        assert parser().parse_args(["codec", "--source", source, "--out", "x"]).source == source


def test_the_sources_of_a_picture_tokenizer() -> None:
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        image_size=16, downsample=4, patch=4, widths=[16], encoder_blocks=[1], decoder_blocks=[1], num_codes=32
    )
    tokenizer = ImageTokenizer(config).eval()
    book = tokenizer.quantizer.inner._codebook.embed  # type: ignore[union-attr]
    with torch.no_grad():
        book.normal_()
        book[0, 7] = book[0, 20] + 1e-4
    patches = drawn_patches(tokenizer)
    assert patches.shape == (32, 3 * 4 * 4)
    distance = torch.cdist(patches[7:8], patches)[0]
    distance[7] = torch.inf
    assert int(distance.argmin()) == 20  # codes that draw alike lie together


def test_confusion_is_the_posterior_mass_over_hidden_tokens() -> None:
    """A model that knows nothing spreads each masked token evenly; tokens that were never masked add nothing."""
    canvas = Canvas([Span("text", 6, Codec.base(5, 1)), Span("image", (2, 2), Codec.base(12, 2))])
    model = PrimeDiT(canvas, DiTConfig(preset="nano")).eval()
    generator = torch.Generator().manual_seed(0)
    codes = {
        "text": torch.randint(4, (500, 6), generator=generator),
        "image": torch.randint(12, (500, 4), generator=generator),
    }
    with torch.no_grad():
        model.heads["text"].linear.bias[2] = 1.0
    mass = confusion(model, canvas, canvas.span("text"), Examples(codes), seed=0)
    hidden = mass.sum(-1)
    assert torch.equal(hidden[4], torch.tensor(0.0))
    assert hidden.sum() == pytest.approx(500 * 6 / 2, rel=0.1)  # a share of tokens uniform in (0, 1)
    expected = model.heads["text"].linear.bias.softmax(-1).detach()
    torch.testing.assert_close(mass[:4] / hidden[:4, None], expected.expand(4, 5))


def test_embeddings_average_the_pieces_of_a_language_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    words = {"[UNK]": 0, "ca": 1, "t": 2, "dog": 3}
    inner = Tokenizer(models.WordPiece(words, unk_token="[UNK]", continuing_subword_prefix=""))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaModel(LlamaConfig(vocab_size=4, num_key_value_heads=2, **sizes))
    model.save_pretrained(tmp_path)
    ours = TextTokenizer.train(["cat cat cat cat dog dog dog"] * 9, 300)
    vectors = piece_embeddings(*language_model(tmp_path), ours)
    table = model.embed_tokens.weight.detach()
    (cat,) = ours.encode("cat")
    torch.testing.assert_close(vectors[cat], torch.nn.functional.normalize(table[1] + table[2], dim=0))
    assert not vectors[[ours.pad_id, ours.end_id]].any()


def test_embeddings_need_transformers(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs transformers: pip install"):
        make_codec(Recipe("embeddings", model="model", tokenizer="bpe"))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe("magic"), "unknown source 'magic'; there are ppmi"),
        (Recipe("head"), "--source head needs --model DIR"),
        (Recipe("ppmi", data="data", tokenizer="bpe", span="image"), "--span image: choose one of text"),
        (Recipe("head", model="model", radices=(4, 4)), r"radices \(4, 4\) cannot hold"),
        (Recipe("confusion", model="model", data="data", tokenizer="other"), "the model has 272 codes, the data 258"),
    ],
)
def test_recipes_that_do_not_fit(world: Path, recipe: Recipe, words: str) -> None:
    TextTokenizer.train(["a"], 258).save("other")
    with pytest.raises(ValueError, match=words):
        make_codec(recipe)


def test_a_stored_codec_goes_into_the_run_and_its_model(world: Path) -> None:
    codec, made = make_codec(Recipe("head", model="model"))
    save_codec("c.safetensors", codec, made)
    config = load_config(config_file(world, codec={"text": {"kind": "stored", "path": "c.safetensors"}}))
    task = DiffusionTask.from_config(config)
    assert task.canvas.span("text").codec == codec
    task.export(world / "out")
    _, canvas, told = load_model(world / "out")
    assert canvas.span("text").codec == codec
    assert told["codecs"]["text"] == {"fingerprint": codec.fingerprint(), **made}


def test_stored_codecs_that_do_not_fit(world: Path) -> None:
    section = {"text": {"kind": "stored", "path": "c.safetensors"}}
    file = config_file(world, codec=section)
    with pytest.raises(ConfigError, match="no such file"):
        load_config(file)
    save_codec("c.safetensors", Codec.base(100, 2))
    config = load_config(file)
    with pytest.raises(ConfigError, match="a codec of 100 codes, the data has 272"):
        DiffusionTask.from_config(config)
    config.model.codec["text"].path = ""
    with pytest.raises(ConfigError, match="kind=stored needs a path"):
        DiffusionTask.from_config(config)


def test_train_recluster_and_go_on(world: Path) -> None:
    """A model of one digit, a codec from its head, a model with those digits that starts where the first one stood."""
    codec, made = make_codec(Recipe("head", model="model", radices=(34, 8)))
    save_codec("c.safetensors", codec, made)
    section = {"text": {"kind": "stored", "path": "c.safetensors"}}
    task = DiffusionTask.from_config(load_config(config_file(world, codec=section, init="model")))
    before, _, _ = load_model("model")
    codes = torch.randint(CODES, (3, 8), generator=torch.Generator().manual_seed(0))
    codes[:, 2:5] = -1
    whole = codec.digits[codes].masked_fill((codes < 0)[..., None], -1).flatten(1)
    torch.testing.assert_close(task.modules(whole, task.canvas), before(codes, before.canvas), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="model: the model to start from has depth=1, this one depth=2"):
        DiffusionTask.from_config(load_config(config_file(world, codec=section, init="model", depth=2)))


def test_switches_reach_the_model(world: Path) -> None:
    options = {"digit_embedding": "concat", "token_embedding": False}
    task = DiffusionTask.from_config(load_config(config_file(world, **options)))
    assert task.modules.config.digit_embedding == "concat"
    assert task.modules.config.token_embedding is False
