"""Low-rank adapters as a folder of their own: what they compute with their checkpoint, in peft too; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from retrofit_world import BYTES, mdlm_weights, store

from mmprime.engine import Canvas, Codec, Span
from mmprime.models import Retrofit, RetrofitConfig, choose_trained, load_model, save_model, without_adapters
from mmprime.models.retrofit.base import Checkpoint, weights_sha256
from mmprime.models.retrofit.formats import read_format

pytest.importorskip("peft")
L = 6


def causal(folder: Path, kind: str) -> Path:
    """A tiny random causal language model as transformers stores it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=BYTES, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    else:
        sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.LlamaConfig(vocab_size=BYTES, num_key_value_heads=1, tie_word_embeddings=True, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def source(folder: Path, kind: str) -> tuple[str, Path]:
    return ("mdlm", store(folder, mdlm_weights())) if kind == "mdlm" else ("causal", causal(folder, kind))


def adapted(layout: str, path: Path, codec: Codec | None = None) -> tuple[Retrofit, dict[str, str]]:
    """A retrofit with adapters, mask and digits that say something, and the entry of its checkpoint."""
    config, network = read_format(layout, path)
    entry = Checkpoint(layout, str(path), weights_sha256(network)).entry()
    model = Retrofit(Canvas([Span("text", L, codec or Codec.base(config.rows, 1))]), config, network).start()
    choose_trained(model, "lora", rank=2, alpha=6.0)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = (torch.randn(weight.shape, generator=generator) * 0.2).half().float()
    return model.eval(), entry


def logits(model: Any, canvas: Canvas) -> torch.Tensor:
    x = torch.randint(250, (2, L), generator=torch.Generator().manual_seed(2))
    y = canvas.pack({"text": x})
    y[:, ::3] = -1
    with torch.no_grad():
        return model.logits(model(y, canvas).flatten(0, 1), canvas.spans[0])


@pytest.mark.parametrize("kind", ["mdlm", "llama", "gpt2"])
@pytest.mark.parametrize("digits", [1, 2])
def test_the_folder_computes_with_its_checkpoint_what_was_trained(kind: str, digits: int, tmp_path: Path) -> None:
    layout, path = source(tmp_path / "base", kind)
    model, entry = adapted(layout, path, None if digits == 1 else Codec.base(BYTES + (kind == "mdlm"), digits))
    save_model(tmp_path / "out", model, extra={"checkpoint": entry}, dtype=torch.float16)
    assert {"model.safetensors"}.isdisjoint(each.name for each in (tmp_path / "out").iterdir())
    loaded, canvas, config = load_model(tmp_path / "out")
    assert config["adapter_of"] == entry
    torch.testing.assert_close(logits(loaded, canvas), logits(model, model.canvas), atol=1e-4, rtol=1e-4)
    plain = without_adapters(model).state_dict()
    assert all(torch.allclose(plain[name], value, atol=1e-5) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_reads_the_same_adapters(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from peft import PeftModel

    model, entry = adapted("causal", causal(tmp_path / "base", kind))
    save_model(tmp_path / "out", model, extra={"checkpoint": entry})
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(network, str(tmp_path / "out")).merge_and_unload().state_dict()
    ours = load_model(tmp_path / "out")[0].trunk.state_dict()
    prefix = "transformer." if kind == "gpt2" else "model."
    moved = [name for name, value in network.state_dict().items() if name.removeprefix(prefix) in ours]
    assert len(moved) > 10
    for name in moved:
        torch.testing.assert_close(theirs[name], ours[name.removeprefix(prefix)], msg=name)


def test_the_checkpoint_is_found_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(tmp_path / "base", mdlm_weights())
    model, entry = adapted("mdlm", path)
    save_model(tmp_path / "out", model, extra={"checkpoint": entry})
    path.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"the adapters belong to .*base \(mdlm\), not found: .*by MMPRIME_BASE=DIR$"):
        load_model(tmp_path / "out")
    monkeypatch.setenv("MMPRIME_BASE", str(tmp_path / "moved"))
    assert torch.equal(logits(*load_model(tmp_path / "out")[:2]), logits(without_adapters(model), model.canvas))
    other = mdlm_weights()
    other["blocks.1.norm1.weight"][3] += 0.01
    monkeypatch.setenv("MMPRIME_BASE", str(store(tmp_path / "other", other)))
    with pytest.raises(ValueError, match=r"with sha256 [0-9a-f]{12}…, those at .*other have [0-9a-f]{12}…; name its"):
        load_model(tmp_path / "out")
    monkeypatch.setenv("MMPRIME_BASE", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent does not exist; name its folder by"):
        load_model(tmp_path / "out")


def test_adapters_of_another_kind_are_refused(tmp_path: Path) -> None:
    model, entry = adapted("mdlm", store(tmp_path / "base", mdlm_weights()))
    with pytest.raises(ValueError, match="where the checkpoint they belong to is known; merge them: without_adapters"):
        save_model(tmp_path / "out", model)
    with pytest.raises(ValueError, match="a checkpoint has format, name and sha256, got"):
        save_model(tmp_path / "out", model, extra={"checkpoint": {"name": "x"}})
    assert not (tmp_path / "out").exists()
    save_model(tmp_path / "out", model, extra={"checkpoint": entry})
    file, config = tmp_path / "out/adapter_config.json", tmp_path / "out/config.json"
    known, about = file.read_text(), json.loads(config.read_text())
    for key, value in {
        "peft_type": "IA3",
        "use_dora": True,
        "r": 0,
        "lora_alpha": "much",
        "rank_pattern": {"a": 1},
    }.items():
        file.write_text(json.dumps(json.loads(known) | {key: value}))
        with pytest.raises(ValueError, match=rf"adapter_config\.json: {key if key != 'lora_alpha' else 'r'}="):
            load_model(tmp_path / "out")
    file.write_text(json.dumps(json.loads(known) | {"r": 3}))
    with pytest.raises(ValueError, match=r"lora_A\.weight is \(2, \d+\), the config asks for \(3, \d+\)"):
        load_model(tmp_path / "out")
    file.unlink()
    with pytest.raises(ValueError, match="no such file; adapters have adapter_config"):
        load_model(tmp_path / "out")
    file.write_text(known)
    config.write_text(json.dumps(about | {"adapter_of": {"name": 3}}))
    with pytest.raises(ValueError, match="a checkpoint has format, name and sha256"):
        load_model(tmp_path / "out")
    assert isinstance(model.config, RetrofitConfig)
