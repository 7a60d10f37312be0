"""mmprime retrofit: the folder it writes is read by the other commands; what does not fit is one line."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from retrofit_world import mdlm_logits, mdlm_weights, store
from tools_world import run

from mmprime import from_pretrained
from mmprime.cli import evaluate, generate, prepare, report, retrofit, train
from mmprime.engine import sampler_of
from mmprime.tokenizers import TextTokenizer

HAS_PEFT = importlib.util.find_spec("peft") is not None
TUNINGS = ["all", pytest.param("lora", marks=pytest.mark.skipif(not HAS_PEFT, reason="needs mmprime[lora]"))]
TEXTS = "We met in the town hall.\n\nIt was late and the rain fell on the square.\n\n" * 6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("foreign") / "tiny", mdlm_weights())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    assert run(retrofit, ["--from", "mdlm", source, "--out", out, "--length", "12", "--digits", "2"]) == 0
    return out


def test_the_folder_computes_what_the_network_does(folder: Path) -> None:
    pipe, w = from_pretrained(folder), mdlm_weights()
    x = torch.randint(250, (1, 12), generator=torch.Generator().manual_seed(1))
    y = pipe.canvas.pack({"text": x})
    y[:, 4:8] = -1  # two whole tokens
    seen = torch.where(torch.arange(12) // 2 == 1, 258, x[0])
    truth = mdlm_logits(w, w["vocab_embed.embedding"][seen], 0.0, list(range(12)))[:, :258]
    with torch.no_grad():
        found = pipe.model.logits(pipe.model(y, pipe.canvas)[0], pipe.canvas.spans[0])
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)


def test_it_is_sampled_and_scored(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXTS)
    assert run(generate, ["--model", folder, "--prompt", "We met", "--num", "2", "--steps", "3"]) == 0
    assert capsys.readouterr().out.count("We met") == 2
    asked = ["likelihood", "--model", folder, "--data", tmp_path / "text.txt", "--limit", "4", "--steps", "3"]
    assert run(evaluate, asked) == 0
    assert "bits/byte" in capsys.readouterr().out


@pytest.mark.parametrize("tuning", TUNINGS)
def test_it_is_fine_tuned_into_a_folder_of_the_same_kind(
    folder: Path, tmp_path: Path, tuning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXTS)
    assert run(prepare, ["text", tmp_path / "text.txt", "--per", "paragraph", "--out", tmp_path / "data"]) == 0
    config = Path(__file__).resolve().parents[2] / "configs/own_retrofit.yaml"
    asked = [f"model.init={folder}", f"data.path={tmp_path / 'data'}"]
    asked += [f"run.dir={tmp_path / 'run'}", "data.text_length=12", f"model.train={tuning}", "train.steps=2"]
    asked += ["train.batch=2", "objective.masking=independent", "model.lora_rank=2"]
    line = refused([config, *asked, "model.width=64"], capsys, train)
    assert "model: width=64 says nothing about the network of" in line
    assert run(train, [config, *asked]) == 0
    before, after = (from_pretrained(each).model.state_dict() for each in (folder, tmp_path / "run/model"))
    moved = {name for name in before if (before[name].half() != after[name].half()).any()}
    assert before.keys() == after.keys()
    page = (tmp_path / "run/model/README.md").read_text()
    assert "The licence of tiny (mdlm) goes with its weights" in page
    assert "\nlicense:" not in page
    names = {each.name for each in (tmp_path / "run/model").iterdir()}
    assert ("adapter_config.json" in names, "model.safetensors" in names) == (tuning == "lora", tuning == "all")
    assert ("low-rank adapters alone" in page) == (tuning == "lora")
    assert {"mask", "digits.weight"} <= moved, "learned whatever else is"
    assert ("trunk.vocab_embed.embedding" in moved) == (tuning == "all")


def refused(arguments: list[object], capsys: pytest.CaptureFixture[str], tool: object = retrofit) -> str:
    assert run(tool, arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if not line.startswith("warning")]
    assert len(errors) == 1, lines
    return errors[0]


def test_what_does_not_fit_is_one_line(
    source: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    assert "vocab_embed" in refused(["--from", "mdlm", folder, "--out", out], capsys)
    assert "(d_model)" in refused(["--from", "llada", source, "--out", out], capsys)
    assert "there are mdlm" in refused(["--from", "gpt", source, "--out", out], capsys)
    assert "hub cannot be reached" in refused(["--from", "mdlm", "kuleshov-group/none", "--out", out], capsys)
    TextTokenizer.train(["one two three"] * 9, 300).save(tmp_path / "words")
    words = refused(["--from", "mdlm", source, "--out", out, "--tokenizer", tmp_path / "words"], capsys)
    assert "ids, the network 259 rows: they do not belong together" in words
    assert not out.exists()


def test_a_masked_language_model_takes_its_ids_from_its_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "fell", "late"]
    inner = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=8, max_position_embeddings=16, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    assert run(retrofit, ["--from", "masked", tmp_path, "--out", tmp_path / "out", "--length", "5"]) == 0
    pipe = from_pretrained(tmp_path / "out")
    assert (pipe.model.config.mask_id, pipe.model.config.before, pipe.model.config.after) == (4, [2], [3])
    texts = pipe.fill_text("rain ___ late", num=20, blank_tokens=2).texts
    assert all("[MASK]" not in text for text in texts), "a mask is never predicted"


def test_a_block_network_is_sampled_block_after_block(tmp_path: Path) -> None:
    source = store(tmp_path / "blocks", mdlm_weights(), {"block_size": 4})
    assert run(retrofit, ["--from", "bd3lm", source, "--out", tmp_path / "out", "--length", "12"]) == 0
    pipe = from_pretrained(tmp_path / "out")
    assert pipe.sampling["text"].sampler == sampler_of("blocks", {"size": 4})
    ranks = pipe.continue_text("a").rank[0]
    assert ranks[:4].max() < ranks[4:8].min() <= ranks[4:8].max() < ranks[8:].min()


@pytest.mark.skipif(not HAS_PEFT, reason="needs mmprime[lora]")
def test_adapters_are_opened_by_every_command_and_merged_by_saving(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(source, base)
    (tmp_path / "text.txt").write_text(TEXTS)
    assert run(retrofit, ["--from", "mdlm", base, "--out", tmp_path / "whole", "--length", "12"]) == 0
    assert run(prepare, ["text", tmp_path / "text.txt", "--per", "paragraph", "--out", tmp_path / "data"]) == 0
    config = Path(__file__).resolve().parents[2] / "configs/own_retrofit.yaml"
    asked = [config, f"data.path={tmp_path / 'data'}", "data.text_length=12", "train.batch=2", "train.steps=2"]
    assert run(train, [*asked, f"model.init={tmp_path / 'whole'}", f"run.dir={tmp_path / 'run'}"]) == 0
    folder = tmp_path / "run/model"
    shutil.rmtree(tmp_path / "whole")
    assert sum(each.stat().st_size for each in folder.rglob("*")) < (base / "model.safetensors").stat().st_size * 1.5
    rows = [
        "likelihood",
        "--model",
        folder,
        "--data",
        tmp_path / "text.txt",
        "--limit",
        "2",
        "--json",
        tmp_path / "a.json",
    ]
    assert run(evaluate, rows) == 0
    assert run(report, ["card", "--model", folder, tmp_path / "a.json", "--note", "one core"]) == 0
    assert "low-rank adapters alone" in (folder / "README.md").read_text()
    pipe = from_pretrained(folder)
    pipe.save_pretrained(tmp_path / "merged")
    assert "adapters alone" not in (tmp_path / "merged/README.md").read_text()
    again = [*asked, f"model.init={folder}", f"run.dir={tmp_path / 'again'}"]
    assert run(train, again) == 0, "adapters of adapters are merged"
    base.rename(tmp_path / "moved")
    capsys.readouterr()
    assert from_pretrained(tmp_path / "again/model").card.base == from_pretrained(tmp_path / "merged").card.base
    line = refused(["--model", folder, "--prompt", "We met"], capsys, generate)
    assert "the adapters belong to" in line
    assert "name its folder by MMPRIME_BASE=DIR" in line
    monkeypatch.setenv("MMPRIME_BASE", str(tmp_path / "moved"))
    assert run(generate, ["--model", folder, "--prompt", "We met", "--steps", "3", "--seed", "1"]) == 0
    first = capsys.readouterr().out
    assert run(generate, ["--model", tmp_path / "merged", "--prompt", "We met", "--steps", "3", "--seed", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == first.splitlines()[-1]
