"""A saved image tokenizer that is damaged, of another model or beyond measure is refused by name."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizer_world import KINDS, make
from torch import Tensor

from mmprime.io import sha256
from mmprime.tokenizers import ImageTokenizer


def test_load_names_what_does_not_match(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        ImageTokenizer.load(tmp_path)
    make().save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())

    def altered(**changes: Any) -> None:
        config = {**stored["config"], **changes}
        (tmp_path / "config.json").write_text(json.dumps({**stored, "config": config}))

    altered(colour="red")
    with pytest.raises(ValueError, match="unknown tokenizer keys colour"):
        ImageTokenizer.load(tmp_path)
    altered(code_dim=12)
    with pytest.raises(ValueError, match=r"encoder\.\d+\.weight is \(8, 24, 1, 1\), the config asks for \(12, 24, 1"):
        ImageTokenizer.load(tmp_path)
    altered(encoder_blocks=[1, 2])
    with pytest.raises(ValueError, match=r"lacks encoder"):
        ImageTokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**stored, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        ImageTokenizer.load(tmp_path)


def edit_weights(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "weights_sha256": sha256(path)}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((16,), torch.nan), r"has 16 of 16 values that are not finite \(nan\)"),
        (torch.full((16,), torch.inf), r"has 16 of 16 values that are not finite \(inf\)"),
        (torch.ones(16, dtype=torch.int64), "is I64, weights are one of F32"),
        (torch.ones(16, dtype=torch.bool), "is BOOL, weights are one of F32"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused_by_name(
    kind: str, value: Tensor, message: str, tmp_path: Path
) -> None:
    make(kind).save(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.update({"encoder.1.bias": value}))
    with pytest.raises(ValueError, match=rf"encoder\.1\.bias {message}"):
        ImageTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("vq", {"widths": [8192, 8192], "encoder_blocks": [256, 256]}),
        ("vq", {"code_dim": 2**40}),
        ("vq", {"code_dim": 10**30}),
        ("vq", {"num_codes": 2**24, "code_dim": 2**13}),
        ("lfq", {"widths": [2**30, 2**30]}),
        ("fsq", {"widths": [2**30, 2**30]}),
    ],
)
def test_sizes_are_compared_before_memory_is_taken(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    make(kind).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"].update(changes)
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"the config asks for|lacks|out of range"):
        ImageTokenizer.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB: 256 MiB


@pytest.mark.parametrize("recorded", [True, 3, ["x"], "0" * 64])
def test_another_hash_of_any_kind_is_refused(recorded: object, tmp_path: Path) -> None:
    make("vq").save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "weights_sha256": recorded}))
    with pytest.raises(ValueError, match="damaged or of another model"):
        ImageTokenizer.load(tmp_path)
