"""A tokenizer that is read with another range, and codes of another bit order, are told by the checks in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layout_world import SIDE, TINY
from safetensors.torch import save_file
from torch import Tensor

from mmprime.cli import evaluate, prepare
from mmprime.data import ImageDataset, check_dataset, encode_dataset, prepare_folder
from mmprime.data.digit_order import poor_reconstruction, psnr
from mmprime.tokenizers.layout_names import foreign_name
from mmprime.tokenizers.layouts import read_layout
from mmprime.tokenizers.vq_autoencoder import VQAutoencoder

STEPS = 100


def write_pictures(folder: Path) -> Path:
    """24 pictures of 4 × 4 patches, most of them dark, as an image dataset."""
    from PIL import Image

    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(24):
        colour = torch.rand(4, 4, 3, generator=generator).round() * (torch.rand(4, 4, 1, generator=generator) < 0.5)
        pixels = (255 * colour).byte().repeat_interleave(SIDE // 4, 0).repeat_interleave(SIDE // 4, 1)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    prepare_folder(folder, folder.with_name("images"), SIDE, 0)
    return folder.with_name("images")


def trained(images: Tensor) -> VQAutoencoder:
    """A MaskBit tokenizer of six bits that has learned these images: gradients pass the sign as they pass tanh."""
    torch.manual_seed(0)
    net = VQAutoencoder(TINY["maskbit"])
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(STEPS):
        soft = net.encoder(images).tanh()
        hard = torch.where(soft > 0, 1.0, -1.0)
        loss = (net.decoder(soft + (hard - soft).detach()) - images).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


@pytest.mark.slow
def test_a_wrong_range_and_a_wrong_bit_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_pictures(tmp_path / "p")
    images = ImageDataset.load(data, "train").images.float() / 255
    named = {foreign_name("maskbit", name, 2): value for name, value in trained(images).state_dict().items()}
    file = tmp_path / "maskbit_tokenizer_6bit.safetensors"
    save_file(named, file)
    said = {}
    for name, black in (("right", ()), ("wrong", ("--black", "-1"))):
        out = tmp_path / name
        words = ["tokenizer", "--from", "maskbit", str(file), "--image-size", str(SIDE), "--out", str(out), *black]
        assert prepare.main(words) == 0
        words = ["tokenizer", "--tokenizer", str(out), "--data", str(data), "--split", "train", "--metric", "none"]
        assert evaluate.main(words) == 0
        said[name] = capsys.readouterr().err
    assert "mismatch" not in said["right"]
    assert "reconstruction mismatch: " in said["wrong"]
    assert "below 15 dB a tokenizer is untrained, or its input range (prepare tokenizer --black)" in said["wrong"]

    right, wrong = read_layout("maskbit", file, SIDE), read_layout("maskbit", file, SIDE, black=-1)
    encode_dataset(data, right, tmp_path / "codes")
    encode_dataset(data, wrong, tmp_path / "odd")
    assert not check_dataset(tmp_path / "codes", lambda kind: right, images=data).problems
    (problem,) = check_dataset(tmp_path / "odd", lambda kind: wrong, images=data).problems
    assert problem.startswith("reconstruction mismatch")

    class Reversed(VQAutoencoder):
        def _digits(self, images: Tensor) -> Tensor:
            return super()._digits(images).flip(-1)

    odd = Reversed(right.config)
    odd.load_state_dict(right.state_dict())
    encode_dataset(data, odd, tmp_path / "reversed")
    (problem,) = check_dataset(tmp_path / "reversed", lambda kind: right, images=data).problems
    assert problem.startswith("bit order mismatch")
    assert "with digits in reverse order" in problem
    restored = right.decode_digits(right.encode_digits(images).flip(-1))
    assert poor_reconstruction(float(psnr(images, restored).mean()))
    assert poor_reconstruction(15.0) is None
