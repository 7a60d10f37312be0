"""The commands samples and imagenet on untrained models, with features that are colours only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from picture_world import class_model, noise, noise_dataset, noise_folder, run_command
from PIL import Image
from pipeline_world import write_text_image_model

from mmprime.cli.evaluations import captions, imagenet, samples
from mmprime.engine import sampler_of
from mmprime.evaluation import require_same
from mmprime.generation.defaults import write_sampling
from mmprime.generation.sampling import SamplingConfig

pytestmark = pytest.mark.usefixtures("colour_extractors")


def test_two_folders(tmp_path: Path) -> None:
    one, two = noise_folder(tmp_path / "one", 60), noise_folder(tmp_path / "two", 50, first=1000)
    asked = "fd-effnet-lite0,kid-effnet-lite0,prc-effnet-lite0"
    rows = run_command(samples, "--generated", one, "--reference", two, "--metric", asked)
    assert [row.metric.split(" ")[0] for row in rows] == [
        "FD-EffNet-Lite0",
        "KID-EffNet-Lite0",
        "precision-EffNet-Lite0",
        "recall-EffNet-Lite0",
    ]
    assert all(row.num_samples == 60 and row.model_hash and row.reference_hash for row in rows)
    other = run_command(
        samples, "--generated", noise_folder(tmp_path / "three", 60, first=500), "--reference", two, "--metric", asked
    )
    assert rows[0].model_hash != other[0].model_hash
    require_same([rows[0], other[0]], "data_hash", "reference_hash")  # two makers of pictures, one reference
    with pytest.raises(ValueError, match="either --generated DIR"):
        run_command(samples, "--metric", asked)
    with pytest.raises(ValueError, match="--inception FILE"):
        run_command(samples, "--generated", one, "--reference", two)


def test_batches_stand_for_folders(tmp_path: Path) -> None:
    one, two = noise_folder(tmp_path / "one", 60), noise_folder(tmp_path / "two", 50, first=1000)
    asked = ("--metric", "kid-effnet-lite0")
    rows = run_command(samples, "--generated", one, "--reference", two, "--npz", tmp_path / "one.npz", *asked)
    assert not run_command(samples, "--generated", two, "--npz", tmp_path / "two.npz", "--metric", "none")
    again = run_command(samples, "--generated", tmp_path / "one.npz", "--reference", tmp_path / "two.npz", *asked)
    assert again[0].value == rows[0].value
    model = write_text_image_model(tmp_path)
    drawn = ("--model", model, "--data", noise_dataset(tmp_path / "data"), "--num", 3, "--npz", tmp_path / "drawn.npz")
    run_command(samples, *drawn, "--steps", 2, "--metric", "none")
    assert np.load(tmp_path / "drawn.npz")["arr_0"].shape == (3, 32, 32, 3)
    with pytest.raises(ValueError, match=r"drawn.npz holds one set of pictures; give one number of --steps"):
        run_command(samples, *drawn, "--steps", "2,4", "--metric", "none")


def test_a_model_against_a_split_at_several_steps(tmp_path: Path) -> None:
    model, data = write_text_image_model(tmp_path), noise_dataset(tmp_path / "data")
    common = ("--model", model, "--data", data, "--num", 12, "--metric", "fd-effnet-lite0")
    rows = run_command(samples, *common, "--steps", "2,4", "--guidance", 1)
    assert [row.nfe for row in rows] == [3, 7]  # nothing guides the first step of the linear schedule
    assert {row.idle_steps for row in rows} == {0}
    assert {(row.guidance, row.sampler) for row in rows} == {("1", "nested")}
    assert len({row.reference_hash for row in rows}) == 1
    assert rows[0].value != rows[1].value
    again = run_command(samples, *common, "--steps", "4", "--guidance", 1)
    assert again[0].value == pytest.approx(rows[1].value, rel=1e-9)
    naive = run_command(samples, *common, "--steps", "64", "--guidance", 0, "--sampler", "ancestral")[0]
    assert naive.idle_steps == pytest.approx(1 - naive.nfe / 64)
    assert naive.idle_steps > 0.3  # at most 32 sub-tokens come in 64 steps
    with pytest.raises(ValueError, match="2 pictures are fewer"):
        run_command(samples, "--model", model, "--data", data, "--num", 2, "--metric", "fd-effnet-lite0")


def test_the_same_pictures_from_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, real = class_model(tmp_path), noise_folder(tmp_path / "real", 20, size=40)
    common = ["--model", model, "--num", 10, "--steps", 3, "--metric", "fd-effnet-lite0", "--reference", real]
    alone = run_command(imagenet, *common, "--out", tmp_path / "alone", "--batch", 4)
    assert (alone[0].nfe, alone[0].idle_steps, alone[0].num_samples) == (5, 0, 10)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        run_command(imagenet, *common, "--out", tmp_path / "both")
    assert end.value.code == 0
    assert sorted(file.name for file in (tmp_path / "both").glob("*.png")) == [f"{i:06d}.png" for i in (1, 3, 5, 7, 9)]
    monkeypatch.setenv("RANK", "0")
    both = run_command(imagenet, *common, "--out", tmp_path / "both", "--batch", 3)
    for number in range(10):
        files = [tmp_path / name / f"{number:06d}.png" for name in ("alone", "both")]
        assert files[0].read_bytes() == files[1].read_bytes()
        with Image.open(files[0]) as picture:
            assert picture.info == {"label": str(number % 3), "nfe": "5", "idle_steps": "0"}
    assert both == alone
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2 of WORLD_SIZE=2"):
        run_command(imagenet, *common, "--out", tmp_path / "both")


def test_what_is_drawn_is_not_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, real, out = class_model(tmp_path), noise_folder(tmp_path / "real", 20), tmp_path / "out"
    common = ["--model", model, "--steps", 2, "--metric", "fd-effnet-lite0", "--reference", real, "--out", out]
    first = run_command(imagenet, *common, "--num", 6)
    (out / "000003.png").unlink()
    capsys.readouterr()
    assert run_command(imagenet, *common, "--num", 6) == first
    assert "drew 1 pictures" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"drawn in another way \(seed 0 there, 5 now\)"):
        run_command(imagenet, *common, "--num", 6, "--seed", 5)
    noise(0).save(out / "000002.png")
    with pytest.raises(ValueError, match=r"000002\.png does not say its forward passes"):
        run_command(imagenet, *common, "--num", 6)
    (out / "drawn.json").unlink()
    with pytest.raises(ValueError, match=r"holds pictures and no drawn\.json"):
        run_command(imagenet, *common, "--num", 6)
    with pytest.raises(ValueError, match="3 pictures are fewer"):  # said before anything is drawn
        run_command(imagenet, *common[:-2], "--out", tmp_path / "new", "--num", 3)
    assert not (tmp_path / "new").exists()
    few = tmp_path / "few"
    few.mkdir()
    for number in range(4):
        noise(number).save(few / f"{number:06d}.png")
    with pytest.raises(ValueError, match="2 of 6 pictures are missing"):
        imagenet._await(few, 6, patience=-1)


def test_a_model_is_measured_as_its_folder_says_but_for_what_is_given(tmp_path: Path) -> None:
    model, data, real = (
        write_text_image_model(tmp_path),
        noise_dataset(tmp_path / "data"),
        noise_folder(tmp_path / "real", 20),
    )
    classes = class_model(tmp_path / "classes")
    how = SamplingConfig(sampler_of("p2", {"eta": 0.5}, 3), guidance=2.0)
    write_sampling(model, {"image": how})
    write_sampling(classes, {"image": how})
    fd = ("--metric", "fd-effnet-lite0")
    for command, rest in (
        (samples, ("--model", model, "--data", data, "--num", 6, *fd)),
        (captions, ("--model", model, "--data", data, "--num", 4)),
        (imagenet, ("--model", classes, "--reference", real, "--num", 6, *fd)),
    ):
        for number, (given, wanted) in enumerate(
            (
                ((), ("p2 eta=0.5", "2", 5)),
                (("--steps", 2, "--guidance", 0), ("p2 eta=0.5", "0", 2)),
                (("--sampler", "token_synchronous", "--guidance-schedule", "constant"),
                 ("token_synchronous", "2 constant", 6)),
            )
        ):  # fmt: skip
            out = ("--out", tmp_path / f"out{number}") if command is imagenet else ()
            row = run_command(command, *rest, *given, *out)[0]
            assert (row.sampler, row.guidance, row.nfe) == wanted, command
    with pytest.raises(ValueError, match=r"drawn in another way \(steps 3 there, 2 now"):
        run_command(imagenet, *rest, "--steps", 2, "--out", tmp_path / "out0")


def test_captioned_models_have_no_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no classes"):
        run_command(
            imagenet,
            "--model",
            write_text_image_model(tmp_path),
            "--out",
            tmp_path / "out",
            "--metric",
            "kid-effnet-lite0",
        )
