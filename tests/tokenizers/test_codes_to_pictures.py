"""Tokenizers of two published layouts, weights drawn at random: pictures to codes, training by the config, drawing."""

from __future__ import annotations

from pathlib import Path

import pytest
from datafixtures import write_pictures
from layout_world import SIDE, drawn, shapes
from safetensors.torch import save_file

from mmprime.cli import generate, prepare, train
from mmprime.data import read_index
from mmprime.tokenizers.layouts import _LLAMAGEN
from mmprime.tokenizers.vq_autoencoder import VQAutoencoderConfig

BITS = {"num_codes": 2**18, "code_dim": 18, "latent": 18, "quantizer": "lfq", "levels": (2,) * 18}
CASES = {
    "llamagen": (
        VQAutoencoderConfig(SIDE, (32, 64), 2, 256, 16384, 8, (True, True), True, (-1, 1)),
        "imagenet_vq", "IMAGENET_SHARDS", ["model.codec.image.kind=base"],
    ),
    "magvit2": (
        VQAutoencoderConfig(SIDE, (32, 64), 4, family="magvit2", **BITS),
        "imagenet_bits", "IMAGENET_BITS_SHARDS", [],
    ),
}  # fmt: skip
SHORT = [
    "train.steps=3", "train.batch=4", "train.accumulate=1", "train.warmup=1", "train.log_every=1",
    "train.validate_every=3", "train.samples_every=3", "train.save_every=3", "data.grid=[8,8]", "data.num_classes=2",
    "data.validate_examples=4", "model.preset=tiny", "model.checkpointing=none", "samples.count=2", "samples.steps=4",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("layout", CASES)
def test_a_published_layout_is_trained_on_and_drawn_with(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, config, variable, more = CASES[layout]
    monkeypatch.setitem(_LLAMAGEN, "16", (32, 64))
    save_file(drawn(shapes(layout, architecture)), tmp_path / "theirs.safetensors")
    for name in ("first", "second"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        write_pictures(tmp_path / "pictures" / name)
    tokenizer, codes, run = (str(tmp_path / name) for name in ("tokenizer", "codes", "run"))
    theirs = ["--from", layout, str(tmp_path / "theirs.safetensors"), "--image-size", str(SIDE)]
    assert prepare.main(["tokenizer", *theirs, "--out", tokenizer]) == 0
    pictures = ["--images", str(tmp_path / "pictures"), "--split-fraction", "0.34"]
    assert prepare.main(["codes", *pictures, "--tokenizer", tokenizer, "--out", codes]) == 0
    assert read_index(codes)["num_codes"] == architecture.num_codes
    assert prepare.main(["shards-check", codes, "--tokenizer", tokenizer]) in (0, 1)  # random weights keep few codes
    monkeypatch.setenv(variable, codes)
    words = [f"run.dir={run}", f"data.image_tokenizer={tokenizer}", *SHORT, *more]
    assert train.main([f"configs/{config}.yaml", *words]) == 0
    drawing = tmp_path / "drawn.png"
    assert generate.main(["--model", f"{run}/model", "--label", "first", "--num", "1", "--out", str(drawing)]) == 0
    assert drawing.stat().st_size > 100
