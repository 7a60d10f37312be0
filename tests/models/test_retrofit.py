"""Networks of others as denoisers: the same logits where tokens are whole, by a second implementation."""

from __future__ import annotations

import math

import pytest
import torch
from retrofit_world import BYTES, mdlm_logits, mdlm_weights, store

from mmprime.engine import SAMPLERS, Canvas, Codec, Span, nelbo, sample, sampler_of
from mmprime.models import Retrofit
from mmprime.models.retrofit.formats import read_format

L = 6


def state(masked=(1, 4), length=L, seed=0, ids=250):
    """(1, L) ids, and the same with -1 where masked."""
    x = torch.randint(ids, (1, length), generator=torch.Generator().manual_seed(seed))
    y = x.clone()
    y[:, list(masked)] = -1
    return x, y


def retrofit(layout, source, length=L, codec=None, **ids):
    from dataclasses import replace

    config, network = read_format(layout, source)
    canvas = Canvas([Span("text", length, codec or Codec.base(BYTES, 1))])
    return Retrofit(canvas, replace(config, **ids), network).start().eval()


@torch.no_grad()
def logits(model, y):
    return model.logits(model(y, model.canvas)[0], model.canvas.spans[0])


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_mdlm_computes_the_logits_of_its_network(tmp_path, prefix):
    w = mdlm_weights()
    model = retrofit("mdlm", store(tmp_path, {prefix + name: value for name, value in w.items()}))
    _, y = state()
    truth = mdlm_logits(w, w["vocab_embed.embedding"][torch.where(y < 0, 258, y)[0]], 0.0, list(range(L)))
    torch.testing.assert_close(logits(model, y), truth[:, :BYTES], atol=1e-5, rtol=1e-5)


def test_duo_is_told_the_share_of_visible_tokens_and_a_masked_one_is_the_mean(tmp_path):
    w = mdlm_weights(vocab=258)
    model = retrofit("duo", store(tmp_path, w))
    _, y = state()
    rows = w["vocab_embed.embedding"]
    x = torch.where(y[0, :, None] < 0, rows.mean(0).half().float(), rows[y[0]])
    truth = mdlm_logits(w, x, -math.log(1 - 2 / L), list(range(L)))
    torch.testing.assert_close(logits(model, y), truth, atol=1e-5, rtol=1e-5)


def test_bd3lm_says_of_a_block_what_its_training_pass_says(tmp_path):
    """Training reads [noisy; clean] rows of twice the length; a block sees itself noisy and those before it clean."""
    w, size = mdlm_weights(), 2
    model = retrofit("bd3lm", store(tmp_path, w, {"block_size": size, "model_length": L}))
    clean, y = state(masked=(2, 3))
    rows, block = w["vocab_embed.embedding"], torch.arange(L) // size
    same, before = block[:, None] == block, block[:, None] > block
    allowed = torch.cat([torch.cat([same, before], 1), torch.cat([torch.zeros_like(same), same | before], 1)])
    x = torch.cat([rows[torch.where(y < 0, 258, y)[0]], rows[clean[0]]])
    truth = mdlm_logits(w, x, 0.0, [*range(L), *range(L)], allowed)[:L]
    torch.testing.assert_close(logits(model, y)[2:4], truth[2:4, :BYTES], atol=1e-5, rtol=1e-5)


def test_averages_of_a_lightning_checkpoint_are_taken(tmp_path):
    w = mdlm_weights()
    names = [name for name in w if name != "rotary_emb.inv_freq"]
    average = {"shadow_params": [w[name] * 2 for name in names], "decay": 0.999}
    torch.save({"state_dict": {f"backbone.{n}": v for n, v in w.items()}, "ema": average}, tmp_path / "last.ckpt")
    _, network = read_format("mdlm", tmp_path / "last.ckpt")
    torch.testing.assert_close(network.vocab_embed.embedding, w["vocab_embed.embedding"] * 2)


def test_the_bound_of_one_token_is_its_surprise_without_the_mask(tmp_path):
    w = mdlm_weights(vocab=BYTES)  # so the mask is the last code of the tokenizer
    model = retrofit("mdlm", store(tmp_path, w), length=1)
    y = torch.tensor([[7]])
    truth = mdlm_logits(w, w["vocab_embed.embedding"][[BYTES - 1]], 0.0, [0])[0, : BYTES - 1]
    expected = torch.logsumexp(truth, 0) - truth[7]
    assert float(nelbo(model, model.canvas, y).detach()) == pytest.approx(float(expected), abs=1e-5)


def test_partly_visible_tokens_are_masked_ones_until_their_digits_are_learned(tmp_path):
    model = retrofit("mdlm", store(tmp_path, mdlm_weights()), codec=Codec.base(BYTES, 2))
    canvas, (x, _) = model.canvas, state()
    whole = canvas.pack({"text": x})
    partly, masked = whole.clone(), whole.clone()
    partly[:, 2], masked[:, 2:4] = -1, -1
    torch.testing.assert_close(logits(model, partly), logits(model, masked))
    torch.nn.init.normal_(model.digits.weight)
    assert (logits(model, partly) - logits(model, masked)).abs().max() > 0.1
    before = retrofit("mdlm", tmp_path, codec=Codec.base(BYTES, 2))
    torch.testing.assert_close(logits(model, whole), logits(before, whole))  # whole tokens have no digits to add
    torch.testing.assert_close(logits(model, masked), logits(before, masked))


def test_the_same_weights_on_a_longer_canvas(tmp_path):
    model = retrofit("mdlm", store(tmp_path, mdlm_weights()))
    longer = model.on_canvas(Canvas([Span("text", 9, Codec.base(BYTES, 1))]))
    _, y = state(length=9)
    torch.testing.assert_close(logits(longer, y), logits(retrofit("mdlm", tmp_path, length=9), y))


# --------------------------------------------------------------------------- networks of transformers

SIZES = {
    "vocab_size": 264, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {"vocab_size": 264, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4}


def foreign(family, kind, **sizes):
    """A network of transformers with random weights, biases and gains too."""
    transformers = pytest.importorskip("transformers")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
    config = transformers.AutoConfig.for_model(family, **sizes, **ids)
    torch.manual_seed(0)
    network = getattr(transformers, kind).from_config(config, attn_implementation="eager").eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return network


@torch.no_grad()
def both_ways(network, ids):
    """Logits with every token attending to all, by a mask that is added to the scores."""
    length = ids.shape[1]
    return network(input_ids=ids, attention_mask=torch.zeros(1, 1, length, length)).logits[0]


LLADA = {
    "embed_tokens": "transformer.wte", "layers": "transformer.blocks", "norm": "transformer.ln_f",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm", "o_proj": "attn_out", "gate_proj": "ff_proj",
    "down_proj": "ff_out",
}  # fmt: skip


def llada_name(name):
    parts = [LLADA.get(part, part) for part in name.split(".") if part not in ("self_attn", "mlp")]
    return "model.transformer.ff_out.weight" if name == "lm_head.weight" else ".".join(parts)


LLADA_CONFIG = {
    "model_type": "llada", "block_type": "llama", "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
    "mlp_hidden_size": 24, "embedding_size": 264, "vocab_size": 264, "max_sequence_length": 32, "rope_theta": 5e5,
    "rms_norm_eps": 1e-5, "mask_token_id": 260, "weight_tying": False, "activation_type": "silu", "include_bias": False,
}  # fmt: skip


def test_llada_is_a_llama_that_looks_both_ways(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 5e5}
    network = foreign("llama", "AutoModelForCausalLM", **SIZES, rope_parameters=rope, rms_norm_eps=1e-5)
    weights = {llada_name(name): value.detach().clone() for name, value in network.named_parameters()}
    assert "model.transformer.blocks.0.ff_out.weight" in weights
    model = retrofit("llada", store(tmp_path, weights, LLADA_CONFIG))
    _, y = state()
    truth = both_ways(network, torch.where(y < 0, 260, y))[:, :BYTES]
    torch.testing.assert_close(logits(model, y), truth, atol=1e-5, rtol=1e-5)
    other = y.clone()
    other[0, -1] += 1
    assert (logits(model, other)[0] - truth[0]).abs().max() > 1e-3  # the first token sees the last


def test_dream_predicts_a_token_one_before(tmp_path):
    network = foreign("qwen2", "AutoModelForCausalLM", **SIZES)
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    config = {**SIZES, "model_type": "Dream", "rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "mask_token_id": 260}
    model = retrofit("dream", store(tmp_path, weights, config))
    _, y = state()
    out = both_ways(network, torch.where(y < 0, 260, y))[:, :BYTES]
    torch.testing.assert_close(logits(model, y), torch.cat([out[:1], out[:-1]]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_masked_language_model_between_its_ends(tmp_path, family):
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    network = foreign(family, "AutoModelForMaskedLM", **sizes, pad_token_id=1)
    network.save_pretrained(tmp_path)
    longest = 28 if family == "roberta" else 30  # positions of RoBERTa begin after the padding id
    with pytest.raises(ValueError, match=f"31 tokens are more than the {longest} for which"):
        retrofit("masked", tmp_path, length=31, mask_id=260, before=[258], after=[259])
    model = retrofit("masked", tmp_path, mask_id=260, before=[258], after=[259])
    _, y = state()
    around = torch.cat([torch.tensor([[258]]), torch.where(y < 0, 260, y), torch.tensor([[259]])], 1)
    with torch.no_grad():
        truth = network(input_ids=around).logits[0, 1:-1, :BYTES]
    torch.testing.assert_close(logits(model, y), truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "sizes"), [("llama", SIZES), ("qwen2", SIZES), ("gpt2", GPT2)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_model_looks_both_ways_from_its_end_token(tmp_path, family, sizes, tied):
    network = foreign(family, "AutoModelForCausalLM", **sizes, tie_word_embeddings=tied)
    network.save_pretrained(tmp_path)
    model = retrofit("causal", tmp_path, before=[257])
    x, _ = state()
    truth = both_ways(network, torch.cat([torch.tensor([[257]]), x], 1))[:-1, :BYTES]
    torch.testing.assert_close(logits(model, x), truth, atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------- what is refused


def refused(layout, source):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_format(layout, source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_are_not_those_of_the_layout_are_refused(tmp_path):
    w = mdlm_weights()
    less = {name: value for name, value in w.items() if name != "blocks.1.norm2.weight"}
    assert refused("mdlm", store(tmp_path / "a", less)).endswith("as mdlm: lacks blocks.1.norm2.weight")
    other = {**w, "blocks.0.attn_out.weight": torch.zeros(16, 15)}
    words = "blocks.0.attn_out.weight is (16, 15), the layout has (16, 16)"
    assert words in refused("mdlm", store(tmp_path / "b", other))
    assert "holds no finite floats" in refused(
        "mdlm", store(tmp_path / "c", {**w, "blocks.0.norm1.weight": torch.full((16,), math.nan)})
    )
    assert "lacks vocab_embed.embedding" in refused("mdlm", store(tmp_path / "d", {"model.norm.weight": torch.ones(3)}))
    assert "a config.json with block_size is needed" in refused("bd3lm", store(tmp_path / "e", w))
    assert "(d_model) is needed" in refused("llada", tmp_path / "e")
    assert "no weights here" in refused("mdlm", tmp_path / "nothing")
    assert "there are mdlm, duo" in refused("sedd", tmp_path / "e")
    assert "its model_type is mdlm" in refused("causal", store(tmp_path / "f", w, {"model_type": "mdlm"}))


def test_a_shard_that_is_absent_is_named(tmp_path):
    store(tmp_path, mdlm_weights())
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    assert "names model-00002-of-00002.safetensors, which is not there" in refused("mdlm", tmp_path)


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": Canvas}, tmp_path / "last.ckpt")
    assert "holds more than weights" in refused("mdlm", tmp_path / "last.ckpt")


def test_llada_of_another_kind_is_refused(tmp_path):
    store(tmp_path, mdlm_weights(), {**LLADA_CONFIG, "include_qkv_bias": True})
    assert "include_qkv_bias=True is not read" in refused("llada", tmp_path)
    pytest.importorskip("transformers")
    store(tmp_path, mdlm_weights(), LLADA_CONFIG)
    assert "as llada: lacks model.embed_tokens.weight; lacks" in refused("llada", tmp_path)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_draws_from_it(tmp_path, name):
    model = retrofit("mdlm", store(tmp_path, mdlm_weights(vocab=BYTES)), codec=Codec.base(BYTES, 2))
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    drawn = sample(model, model.canvas, sampler_of(name, {}, 3), batch=2, generator=generators)
    codes = model.canvas.unpack(drawn.y)["text"]
    assert codes.shape == (2, L)
    assert (codes != BYTES - 1).all(), "the mask is never drawn"
