from dataclasses import replace

import pytest
import torch
from datafixtures import write_codes

from mmprime.data import ImageDataset
from mmprime.data.phrasings import phrasings
from mmprime.data.text import Document, write_documents
from mmprime.tokenizers import TextTokenizer
from mmprime.training.config import ConfigError
from mmprime.training.corpus import load_corpus
from mmprime.training.schema import ConditionsConfig, DataConfig, DiffusionConfig, ModelConfig
from mmprime.training.tasks.diffusion import DiffusionTask


class Blocks:
    """Stands in for an image tokenizer: the code of a 4 px block is its red level."""

    num_codes, grid, radices = 16, (2, 2), ()

    def encode(self, images):
        return (images[:, 0, ::4, ::4] * 15).round().long()

    def fingerprint(self):
        return "blocks"


@pytest.fixture
def folder(tmp_path):
    images = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    dataset = ImageDataset(
        images=images,
        captions=[f"a red cat {i}" for i in range(12)],
        tags=[[]] * 12,
        vendors=["v"] * 12,
        labels=torch.tensor([0, 1, 2, -1] * 3),
        keys=[f"k{i:02d}" for i in range(12)],
        splits=["train"] * 8 + ["val"] * 4,
        classes=["x", "y", "z"],
    )
    write_codes(dataset, Blocks(), tmp_path / "codes")
    TextTokenizer.bytes().save(tmp_path / "bytes")
    return tmp_path


def config(folder, **changes) -> DataConfig:
    values = {"path": str(folder / "codes"), "validation": ["val"], "text_tokenizer": str(folder / "bytes")}
    return DataConfig(**{**values, "text_length": 8, "validate_examples": 3, **changes})


def test_codes_captions_and_labels_become_tables(folder):
    corpus = load_corpus(config(folder, labels=True), seed=0)
    assert list(corpus.lengths.items()) == [("text", 8), ("image", (2, 2))]
    assert corpus.num_codes == {"text": 258, "image": 16}
    assert corpus.num_classes == 3
    assert corpus.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]  # unlabelled becomes the null class
    tokenizer = corpus.text_tokenizer
    assert tokenizer.decode(corpus.train.codes["text"][0].tolist()) == "a red c"  # cut short, ends with end
    assert len(corpus.validation["val"]) == 3
    assert corpus.tokenizers == {"image": "blocks", "text": tokenizer.fingerprint()}
    assert corpus.train.text_tokens.tolist() == [8] * 8  # all cut, so nothing is padding
    (notice,) = corpus.notices[:1]
    assert notice.startswith("train: 8 of 8 captions are cut to data.text_length=8 tokens; the longest needs 12")
    assert corpus.notices[1].startswith("val: 4 of 4 captions")
    assert "text" not in load_corpus(config(folder, text_length=0), seed=0).lengths


def test_padding_is_no_token_and_a_caption_that_fits_is_no_notice(folder):
    corpus = load_corpus(config(folder, text_length=12), seed=0)
    (notice,) = corpus.notices
    assert notice.startswith(
        "val: 2 of 4 captions are cut to data.text_length=12 tokens; the longest needs 13 with its"
    )
    assert notice.endswith("'a red cat 10'")
    corpus = load_corpus(config(folder, text_length=20), seed=0)
    assert corpus.notices == []
    assert corpus.train.text_tokens.tolist() == [12] * 8
    chosen = corpus.validation["val"]
    assert chosen.text_tokens.tolist() == [len(caption) + 1 for caption in chosen.captions]


@pytest.fixture
def several(folder):
    """Codes of four images with 1, 3, 0 and 2 captions."""
    dataset = ImageDataset(
        images=torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
        captions=["a", "b", "", "eee"],
        tags=[[]] * 4,
        vendors=[""] * 4,
        labels=torch.tensor([0, 1, 2, 1]),
        keys=list("wxyz"),
        splits=["train"] * 4,
        classes=["k", "l", "m"],
        more_captions=[[], ["c", "d"], [], ["f"]],
    )
    write_codes(dataset, Blocks(), folder / "several")
    return config(folder, path=str(folder / "several"), validation=[], text_length=4, labels=True)


def test_each_of_several_captions_is_drawn_alike_often(several):
    corpus = load_corpus(several, seed=0)
    assert corpus.train.captions == ["a", "b", "eee"]  # what has no caption is left out, and that is said
    assert corpus.train.labels.tolist() == [0, 1, 1]
    assert corpus.classes == ["k", "l", "m"]
    assert corpus.notices[0] == "train: 1 of 4 examples have no caption and are left out"
    indices = torch.arange(3).repeat(3000)
    drawn, again = (corpus.train.subset(3, 1).sample(indices, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(drawn.codes["text"], again.codes["text"])
    assert drawn.captions == [corpus.text_tokenizer.decode(row) for row in drawn.codes["text"].tolist()]
    assert drawn.text_tokens.tolist() == [len(caption) + 1 for caption in drawn.captions]
    share = {text: drawn.captions.count(text) / 3000 for text in set(drawn.captions)}
    assert share == pytest.approx({"a": 1, "b": 1 / 3, "c": 1 / 3, "d": 1 / 3, "eee": 0.5, "f": 0.5}, abs=0.05)


def test_training_draws_captions_and_validation_takes_the_first(several):
    built = DiffusionTask.from_config(DiffusionConfig(data=several, model=ModelConfig(preset="nano")))
    seen, by_mode = [], built._by_mode
    built._by_mode = lambda nats, batch, mode: (seen.append(batch), by_mode(nats, batch, mode))[1]
    next(iter(built.losses(torch.full((50,), 1), torch.Generator().manual_seed(0), 0)))
    assert set(seen[0].captions) == {"b", "c", "d"}
    words = built.canvas.view(seen[0].y(built.canvas), "text")
    decode = built.corpus.text_tokenizer.decode
    texts = [decode(row) for row in built.canvas.span("text").codec.decode(words).tolist()]
    assert texts == seen[0].captions
    first = built.canvas.unpack(built._rows(built.train).y)["text"]
    assert [decode(row) for row in first.tolist()] == ["a", "b", "eee"]


@pytest.fixture
def worded(folder):
    dataset = ImageDataset(
        images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        captions=["cat", "red balloon"],
        tags=[["pet"], []],
        vendors=[""] * 2,
        labels=None,
        keys=list("wx"),
        splits=["train"] * 2,
        classes=[],
    )
    write_codes(dataset, Blocks(), folder / "worded")
    return config(folder, path=str(folder / "worded"), validation=[], text_length=16, phrasings=True)


def test_captions_are_worded_where_they_are_given_only(worded):
    shares = ConditionsConfig(text_given=0.5, text_absent=0.2, image_given=0.2)
    run = DiffusionConfig(data=worded, model=ModelConfig(preset="nano"), conditions=shares)
    built = DiffusionTask.from_config(run)
    assert built.corpus.train.captions == ["cat", "red balloon"]
    seen, by_mode = [], built._by_mode
    built._by_mode = lambda nats, batch, mode: (seen.append((batch, mode)), by_mode(nats, batch, mode))[1]
    for _ in range(2):
        next(iter(built.losses(torch.arange(2).repeat(100), torch.Generator().manual_seed(0), 0)))
    (batch, mode), (again, _) = seen
    assert batch.captions == again.captions
    given = [built.conditions.names[m] == "text_given" for m in mode]
    for number, bare in enumerate(("cat", "red balloon")):
        others = {t for t, g in zip(batch.captions[number::2], given[number::2]) if not g}
        assert others == {bare}
        texts = [t for t, g in zip(batch.captions[number::2], given[number::2]) if g]
        assert 0.25 < texts.count(bare) / len(texts) < 0.75
        tags = ["pet"] if bare == "cat" else []
        assert {*texts} <= {bare, *(text for text in phrasings(bare, tags) if len(text) < 16)}, "what the span holds"
        assert len(set(texts)) > 2
    decode = built.corpus.text_tokenizer.decode
    words = built.canvas.view(batch.y(built.canvas), "text")
    assert [decode(row) for row in built.canvas.span("text").codec.decode(words).tolist()] == batch.captions
    assert batch.text_tokens.tolist() == [len(caption) + 1 for caption in batch.captions]


def test_words_for_captions_need_captions(worded):
    with pytest.raises(ConfigError, match=r"data\.phrasings=true words captions, and there are none"):
        load_corpus(replace(worded, text_length=0), seed=0)


def test_text_of_a_split_without_captions_is_refused(folder):
    codes = ImageDataset(
        images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8), captions=["", " "], tags=[[]] * 2, vendors=[""] * 2,
        labels=None, keys=["a", "b"], splits=["train"] * 2, classes=[],
    )  # fmt: skip
    write_codes(codes, Blocks(), folder / "bare")
    with pytest.raises(ConfigError, match=r"split 'train' of .*bare has no captions; write them beside"):
        load_corpus(config(folder, path=str(folder / "bare"), validation=[]), seed=0)


def test_the_validation_subset_is_fixed_by_the_seed(folder):
    first, again, other = (load_corpus(config(folder), seed).validation["val"].captions for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": [16, 16]}, r"data.grid=\[16, 16\], but .* has \[2, 2\]"),
        ({"num_codes": 16384}, "data.num_codes=16384, but .* has 16"),
        ({"labels": True, "num_classes": 1000}, "data.num_classes=1000, but .* has 3"),
        ({"text_tokenizer": ""}, "data.text_tokenizer has no value"),
        ({"path": ""}, "data.path has no value"),
    ],
)
def test_data_other_than_expected_is_refused(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_corpus(config(folder, **changes), seed=0)


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(ValueError, match="val_nobody"):
        load_corpus(config(folder, validation=["val_nobody"]), seed=0)


def test_text_becomes_rows(folder):
    documents = [Document("a", "abcdefgh", split="train"), Document("b", "xyz" * 5, split="val")]
    write_documents(documents, folder / "text")
    corpus = load_corpus(config(folder, kind="text", path=str(folder / "text"), text_length=4), seed=0)
    end = corpus.text_tokenizer.end_id
    assert corpus.train.codes["text"].tolist() == [[97, 98, 99, 100], [101, 102, 103, 104]]
    assert len(corpus.validation["val"]) == 3
    assert end not in corpus.train.codes["text"]
