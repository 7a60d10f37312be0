"""On a GPU what `test_devices.py` tries on a stand-in, and what only a GPU has: pytest -m gpu

Values are those of a CPU in float32 (without TF32), in tolerances that say what may differ: orders of summation in
float32, three decimal digits in bf16.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pipeline_world import CAPTIONS, write_text_image_model
from test_devices import GIVEN, OTHER_HEADS, ROOT, TRAININGS, drawn, setting

from mmprime.engine import MASKINGS, SAMPLERS, joint_loss, nelbo
from mmprime.generation.pipeline import from_pretrained
from mmprime.models.attention import require_xformers
from mmprime.training.build import build_task
from mmprime.training.config import load_config
from mmprime.training.signals import StopRequest
from mmprime.training.trainer import Trainer

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    with gpu.exact_float32():
        yield


@pytest.mark.parametrize("head", ["softmax", *OTHER_HEADS])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_draws_the_same(name: str, head: str) -> None:
    try:
        here = drawn(name, "cpu", 4, head, guidance=2.0)
    except ValueError as error:
        pytest.skip(str(error))  # a sampler that does not go with the head
    assert torch.equal(drawn(name, "cuda", 4, head, guidance=2.0), here)


@pytest.mark.parametrize("head", ["softmax", *OTHER_HEADS])
@pytest.mark.parametrize("masking", MASKINGS)
def test_bounds_and_losses_are_the_same(masking: str, head: str) -> None:
    values = []
    for device in ("cuda", "cpu"):
        model, canvas, whole = setting(head)
        model, y, dice = model.to(device), whole.to(device), torch.Generator().manual_seed(0)
        parts = [
            nelbo(model, canvas, y, 2, masking, GIVEN, 1, dice),
            joint_loss(model, canvas, y, GIVEN, dice, masking),
        ]
        torch.stack(parts).sum().backward()
        gradients = [p.grad.cpu().flatten() for p in model.parameters() if p.grad is not None]
        values.append(torch.cat([*(part.detach().cpu() for part in parts), *gradients]))
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", gpu.PATHS)
def test_every_path_gives_the_gradient_of_the_cpu(path: str) -> None:
    if path == "xformers":
        try:
            require_xformers(CUDA)
        except ValueError as error:
            pytest.skip(str(error))
    differ = gpu.agreement("tiny", path, CUDA, "bf16")
    loss, gradient = differ["fp32"]
    assert loss < 1e-5
    assert gradient < 1e-3
    loss, gradient = differ["bf16"]
    assert loss < 5e-3
    assert gradient < 5e-2


def test_a_pipeline_answers_the_same_and_in_bf16(tmp_path: Path) -> None:
    folder = write_text_image_model(tmp_path)
    answers = []
    for device in ("cpu", "cuda"):
        pipe = from_pretrained(folder, device)
        how = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(0)}
        picture = pipe(CAPTIONS[0], output_type="pt", guidance_scale=3.0, **how).images
        texts = pipe(image=picture[0].cpu(), **how).texts
        answers.append((picture.cpu(), texts, pipe.score(CAPTIONS[0], picture[0].cpu(), steps=2).cpu()))
    torch.testing.assert_close(answers[1][0], answers[0][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answers[1][2], answers[0][2], rtol=1e-4, atol=1e-4)
    assert answers[1][1] == answers[0][1]
    pipe.to(torch.bfloat16)
    assert pipe(CAPTIONS[0], output_type="pt", num_inference_steps=2).images.isfinite().all()


@pytest.mark.parametrize("extra", [[], ["run.compile=true"], ["run.precision=bf16"], ["run.deterministic=true"]])
def test_a_training_has_the_losses_of_the_cpu(extra: list[str], tmp_path: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        settings = ["run.precision=fp32", "train.steps=6", "train.log_every=1", "train.validate_every=0"]
        settings += [*(extra if device == "cuda" else []), f"run.device={device}", f"run.dir={tmp_path / device}"]
        config = load_config(str(ROOT / "configs/toy.yaml"), settings)
        Trainer(build_task(config, device), config, device=device).run()
        lines = map(json.loads, (tmp_path / device / "log.jsonl").read_text().splitlines())
        losses.append([line["loss/model"] for line in lines if line["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2 if "bf16" in str(extra) else 1e-4)


@pytest.mark.parametrize(("name", "reads"), [("toy", 14), ("emoji_t2i", 15), ("emoji_tokenizer", 13)])
def test_a_training_step_waits_no_more_than_on_the_stand_in(name: str, reads: int, tmp_path: Path) -> None:
    settings = [f"run.dir={tmp_path}", "run.precision=fp32", *TRAININGS[name]]
    config = load_config(str(ROOT / f"configs/{name}.yaml"), settings)
    trainer = Trainer(build_task(config, "cuda"), config, device="cuda")
    trainer.stepper(StopRequest())
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            trainer.stepper(StopRequest())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in waits if "synchroniz" in str(w.message)]) <= reads


def test_the_table_of_the_benchmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--size", "tiny", "--repeats", "3"])
    gpu.main()
    rows = capsys.readouterr().out.splitlines()[3:]
    assert len(rows) == len(gpu.PATHS)
    assert 0 < float(rows[0].split("|")[5].strip(" %")) < 100
