"""A saved model is the same model; a damaged one is refused with the reason."""

import json
from pathlib import Path

import pytest
import torch
from model_world import make_canvas, make_model, random_state
from safetensors.torch import load_file, save_file

from mmprime.engine import Canvas, Codec, Span
from mmprime.io import sha256
from mmprime.models import load_model, save_model

EXTRA = {"tokenizers": {"image": "../emoji_tokenizer"}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    canvas = make_canvas()
    save_model(tmp_path / "m", make_model(canvas, num_classes=2), canvas, EXTRA)
    return tmp_path / "m"


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory: Path, change) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    edit_config(directory, weights_sha256=sha256(path))


def test_float32_round_trip_is_bitwise(saved: Path) -> None:
    canvas = make_canvas()
    model = make_model(canvas, num_classes=2)
    state = torch.get_rng_state()
    loaded, loaded_canvas, config = load_model(saved)
    assert torch.equal(torch.get_rng_state(), state)
    assert config["tokenizers"] == EXTRA["tokenizers"]
    assert [(s.name, s.length, s.codec) for s in loaded_canvas.spans] == [
        (s.name, s.length, s.codec) for s in canvas.spans
    ]
    weights, again = model.state_dict(), loaded.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    y = random_state(canvas)
    assert torch.equal(model(y, canvas), loaded(y, loaded_canvas))
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_clustered_codec_comes_back_with_the_model(tmp_path: Path) -> None:
    codec = Codec.clustered(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    canvas = Canvas([Span("text", 4, codec)])
    save_model(tmp_path, make_model(canvas))
    assert load_model(tmp_path)[1].span("text").codec.fingerprint() == codec.fingerprint()


def test_half_precision_storage_halves_the_file(tmp_path: Path) -> None:
    canvas = make_canvas()
    model = make_model(canvas)
    save_model(tmp_path / "full", model, canvas)
    save_model(tmp_path / "half", model, canvas, dtype=torch.float16)
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")}
    assert size["half"] < 0.55 * size["full"]
    loaded, _, _ = load_model(tmp_path / "half")
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, model.state_dict()[name].half().float())


def test_switches_of_a_run_are_not_saved(tmp_path: Path) -> None:
    canvas = make_canvas()
    save_model(tmp_path, make_model(canvas, attention="xformers", checkpointing="full"), canvas)
    loaded, _, _ = load_model(tmp_path)
    assert (loaded.config.attention, loaded.config.checkpointing) == ("auto", "none")


def test_saving_refuses_what_it_could_not_read_back(tmp_path: Path) -> None:
    canvas = make_canvas()
    model = make_model(canvas)
    with pytest.raises(ValueError, match="canvas"):
        save_model(tmp_path, model, canvas, {"canvas": []})
    with pytest.raises(ValueError, match="another codec"):
        save_model(tmp_path, model, Canvas([Span("text", 5, Codec.base(30, 5)), canvas.span("image")]))
    with torch.no_grad():
        model.heads["text"].linear.bias[3] = 1e5
    with pytest.raises(ValueError, match=r"'heads.text.linear.bias' are not finite as torch.float16"):
        save_model(tmp_path, model, canvas, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_files(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.config.json: no such file"):
        load_model(saved / "nowhere")
    weights = saved / "model.safetensors"
    body = weights.read_bytes()
    for damaged in (body[:-8], body[:-1] + bytes([body[-1] ^ 1])):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or of another model"):
            load_model(saved)
    weights.write_bytes(b"not tensors at all")
    edit_config(saved, weights_sha256=sha256(weights))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(saved)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: no such file"):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"model": {"preset": "nano", "colour": "red"}}, "'colour'"),
        ({"canvas": [{"name": "text", "length": 5, "radices": [6, 6], "speed": 1}]}, "speed"),
        ({"canvas": [{"name": "sound", "length": 5, "radices": [6, 6]}]}, "codec.sound.digits"),
        ({"canvas": [{"name": "text", "length": 5, "radices": [4, 6]}]}, "outside radices"),
        ({"canvas": [{"name": "text", "length": 5, "radices": [6, 6]}]}, "unknown"),
    ],
)
def test_config_that_does_not_fit(saved: Path, changes: dict, words: str) -> None:
    edit_config(saved, **changes)
    with pytest.raises(ValueError, match=words):
        load_model(saved)


def test_config_that_is_no_model_config(saved: Path) -> None:
    for text, words in (("{", "not valid JSON"), ("[1]", "a JSON object is needed"), ('{"format": 1}', "lacks canvas")):
        (saved / "config.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            load_model(saved)


def test_weights_that_do_not_fit(saved: Path) -> None:
    edit_weights(saved, lambda tensors: tensors.update(stray=torch.zeros(1)))
    with pytest.raises(ValueError, match="has unknown stray"):
        load_model(saved)
    edit_weights(saved, lambda tensors: (tensors.pop("stray"), tensors.pop("heads.text.linear.bias")))
    with pytest.raises(ValueError, match=r"lacks heads.text.linear.bias"):
        load_model(saved)
    edit_weights(saved, lambda tensors: tensors.update({"heads.text.linear.bias": torch.zeros(4)}))
    with pytest.raises(ValueError, match=r"heads.text.linear.bias is \(4,\), the config asks for \(30,\)"):
        load_model(saved)


def test_models_written_before_an_option_existed_still_load(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["model"].pop("digit_embedding") == "sum"
    edit_config(saved, model=config["model"])
    assert load_model(saved)[0].config.digit_embedding == "sum"
    del config["model"]["mlp"]
    edit_config(saved, model=config["model"])
    with pytest.raises(ValueError, match=r"unknown keys \[\], missing keys \['mlp'\]"):
        load_model(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(saved: Path, value: float) -> None:
    edit_weights(saved, lambda tensors: tensors["blocks.0.attention.qkv.weight"][0].fill_(value))
    with pytest.raises(ValueError, match=r"blocks.0.attention.qkv.weight has \d+ of \d+ values that are not finite"):
        load_model(saved)


def test_a_double_beyond_single_precision_is_not_finite(saved: Path) -> None:
    edit_weights(
        saved, lambda tensors: tensors.update({"heads.text.linear.bias": torch.full((30,), 1e300, dtype=torch.float64)})
    )
    with pytest.raises(ValueError, match=r"heads.text.linear.bias has 30 of 30 values that are not finite \(inf\)"):
        load_model(saved)


@pytest.mark.parametrize(("dtype", "word"), [(torch.int64, "I64"), (torch.bool, "BOOL"), (torch.uint8, "U8")])
def test_weights_that_are_no_floats_are_refused_by_name(saved: Path, dtype: torch.dtype, word: str) -> None:
    edit_weights(saved, lambda tensors: tensors.update({"heads.text.linear.bias": torch.ones(30).to(dtype)}))
    with pytest.raises(ValueError, match=f"heads.text.linear.bias is {word}, weights are one of F32, F16, BF16, F64"):
        load_model(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_are_read_as_float32(saved: Path, dtype: torch.dtype) -> None:
    edit_weights(saved, lambda tensors: tensors.update({"heads.text.linear.bias": torch.full((30,), 0.5).to(dtype)}))
    bias = load_model(saved)[0].heads["text"].linear.bias
    assert bias.dtype == torch.float32
    assert bias.requires_grad
    assert bool((bias == 0.5).all())


def test_a_digit_table_of_fractions_is_refused(saved: Path) -> None:
    edit_weights(saved, lambda tensors: tensors.update({"codec.text.digits": tensors["codec.text.digits"] + 0.5}))
    with pytest.raises(ValueError, match=r"'codec.text.digits', the digit table of span 'text', holds no integers"):
        load_model(saved)


def sizes(saved: Path, **changes: object) -> dict:
    model = json.loads((saved / "config.json").read_text())["model"]
    return {"model": {**model, **changes}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 10**6, "heads": 1}, r"is \(.*\), the config asks for \(.*1000000"),
        ({"width": 10**9, "heads": 1}, "config.json: the sizes of the model are out of range"),
        ({"width": 4 * 10**30, "heads": 1}, "config.json: "),
        ({"depth": 10**9}, "depth 1000000000, the weights have 3 blocks"),
        ({"mlp_ratio": 1e12}, "the config asks for"),
        ({"mlp_ratio": float("inf")}, "config.json: "),
        ({"num_classes": 10**12}, r"is \(.*\), the config asks for \(1000000000001"),
        ({"width": "wide"}, "config.json: "),
        ({"depth": "deep"}, "config.json: "),
    ],
)
def test_sizes_are_compared_before_memory_is_taken(saved: Path, changes: dict, words: str) -> None:
    """Memory for the first of these models would be thousands of gigabytes: taking it would end the test."""
    edit_config(saved, **sizes(saved, **changes))
    with pytest.raises(ValueError, match=words):
        load_model(saved)


def test_a_canvas_beyond_all_measure_is_refused(saved: Path) -> None:
    for length in (10**12, [10**6, 10**6]):
        canvas = json.loads((saved / "config.json").read_text())["canvas"]
        edit_config(saved, canvas=[{**canvas[0], "length": length}, canvas[1]])
        with pytest.raises(ValueError, match=r"span 'text' of length .*: a canvas has at most 16777216 sub-tokens"):
            load_model(saved)
    for length in (2.5, "ab", True, [4], [3, 2.0]):
        edit_config(saved, canvas=[{**canvas[0], "length": length}, canvas[1]])
        with pytest.raises(ValueError, match="must be a positive count"):
            load_model(saved)


def test_a_loaded_model_does_not_depend_on_its_file(saved: Path) -> None:
    model, canvas, _ = load_model(saved)
    y = random_state(canvas)
    before = model(y, canvas)
    body = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(bytes(len(body)))
    assert torch.equal(model(y, canvas), before)
