"""Golden numbers: what the project computes, to be computed again bit for bit by whatever changes its shape only.

    python tests/golden.py            # compare with tests/golden.json, exit status 1 where a number differs
    python tests/golden.py --write    # write this machine's numbers: on a new machine, or where a change is meant

Losses of 50 steps of three trainings, bounds of the shipped models under every masking process, samples of every
sampler on the shipped text-image model: about two minutes of one core. Floating point differs between processors, so
the file holds the numbers of each kind of machine they were written on. They are compared exactly on such a machine.
Elsewhere samples are not compared, bounds and losses to a relative 1e-4, losses after step 15 to 1e-2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from mmprime.data import CodeDataset, load_documents, pack_documents
from mmprime.engine import MASKINGS, SAMPLERS, joint_loss, nelbo, sampler_of
from mmprime.generation.sampling import SamplingConfig, sample_rows
from mmprime.models import load_model
from mmprime.tokenizers import TextTokenizer
from mmprime.training.build import build_trainer
from mmprime.training.config import load_config

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests/golden.json"
STEPS = 50
SHORT = ["train.log_every=1", "train.validate_every=0", "train.samples_every=0", "run.threads=1", "run.precision=fp32"]
SMALL = [*SHORT, "train.batch=4", "train.optimizer=adamw", "train.lr=1e-3", "model.depth=2"]
TRAININGS = {
    "toy": [*SHORT, "train.batch=64"],
    "text_sotu": [*SMALL, "data.text_length=64"],
    "emoji_t2i": [*SMALL, "train.accumulate=2"],
}
BOUNDS = {"image|text": "emoji_t2i", "joint": "emoji_t2i", "text": "sotu"}  # what is scored: by which model
Numbers = dict[str, float | str]


def machine() -> str:
    """What floating-point results may depend on."""
    words = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    cpu = next((line for line in words if line.startswith("model name")), "")
    return f"{platform.machine()} {cpu.partition(': ')[2]} torch {torch.__version__}"


def losses(name: str, steps: int = STEPS) -> Iterator[tuple[str, float]]:
    """Of a training; fewer steps are the first ones of the same run while the rate warms up."""
    with tempfile.TemporaryDirectory() as folder:
        length = [f"train.steps={steps}", f"train.save_every={steps}", f"run.dir={folder}/run"]
        build_trainer(load_config(ROOT / f"configs/{name}.yaml", [*TRAININGS[name], *length])).run()
        for line in (Path(folder) / "run/log.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["kind"] == "train":
                yield f"loss {name} {row['step']}", row["loss/model"]


def bounds(name: str) -> Iterator[tuple[str, float]]:
    """Continuous and four-step bounds under every masking, and the joint loss."""
    folder = ROOT / "assets/models" / BOUNDS[name]
    model, canvas, config = load_model(folder)
    tokenizer = TextTokenizer.load(folder / config["tokenizers"]["text"])
    if canvas.has("image"):
        codes = CodeDataset.load(ROOT / "assets/emoji_codes", "val_vendor")
        length = canvas.span("text").num_tokens
        captions = torch.tensor([tokenizer.encode_padded(caption, length) for caption in codes.captions[:8]])
        y = canvas.pack({"text": captions, "image": codes.codes[:8].flatten(1).long()})
    else:
        documents = load_documents(ROOT / "assets/sotu", "val")[:1]
        y = canvas.pack({"text": pack_documents(documents, tokenizer.encode, tokenizer.end_id, canvas.num_tokens)[:4]})
    given = canvas.mask("text") if name == "image|text" else None

    @torch.no_grad()
    def mean(steps: int | None, masking: str) -> float:
        generator = torch.Generator().manual_seed(0)
        return float(nelbo(model, canvas, y, steps, masking, given, 2, generator).double().mean())

    for masking in MASKINGS:
        yield f"nelbo {name} {masking} continuous", mean(None, masking)
        yield f"nelbo {name} {masking} 4", mean(4, masking)
    with torch.no_grad():
        loss = joint_loss(model, canvas, y, given, torch.Generator().manual_seed(0))
    yield f"joint loss {name}", float(loss.double().mean())


def samples(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Two pictures of a prompt by each sampler, as a hash, with their forward passes."""
    folder = ROOT / "assets/models/emoji_t2i"
    model, canvas, config = load_model(folder)
    tokenizer = TextTokenizer.load(folder / config["tokenizers"]["text"])
    prompt = tokenizer.encode_padded("red apple", canvas.span("text").num_tokens)
    y = canvas.pack({"text": torch.tensor([prompt] * 2)})
    for name in names:
        sampled = sample_rows(model, canvas, y, SamplingConfig(sampler_of(name), 6, 1.0, seed=7))
        content = b"".join(x.cpu().contiguous().numpy().tobytes() for x in (sampled.y, sampled.rank))
        yield f"sample {name}", f"{hashlib.sha256(content).hexdigest()[:16]} nfe {sampled.nfe.tolist()}"


def measure() -> Numbers:
    """Every golden number by its name."""
    numbers: Numbers = {}
    for name in TRAININGS:
        numbers.update(losses(name))
    for name in BOUNDS:
        numbers.update(bounds(name))
    numbers.update(samples(SAMPLERS))
    return numbers


def tolerance(name: str) -> float:
    """The relative difference between machines that is rounding; it grows along a training."""
    return 1e-2 if name.startswith("loss ") and int(name.split()[-1]) > 15 else 1e-4


def differences(known: Numbers, numbers: Numbers, exact: bool) -> list[str]:
    """A line for each number that differs; hashes differ only where numbers are compared exactly."""
    lines = [f"{name}: only in one of the two" for name in known.keys() ^ numbers.keys()]
    for name in known.keys() & numbers.keys():
        a, b = known[name], numbers[name]
        close = not exact and (isinstance(a, str) or math.isclose(a, float(b), rel_tol=tolerance(name)))
        if a != b and not close:
            lines.append(f"{name}: {a} became {b}")
    return sorted(lines)


def read() -> tuple[Numbers, bool]:
    """The known numbers, and whether they were written on a machine like this one."""
    golden = json.loads(FILE.read_text())
    return golden.get(machine()) or next(iter(golden.values())), machine() in golden


def write(numbers: Numbers) -> None:
    """Beside those of other machines that differ by rounding only; the others are gone."""
    golden = {} if not FILE.is_file() else json.loads(FILE.read_text())
    golden = {name: known for name, known in golden.items() if not differences(known, numbers, exact=False)}
    FILE.write_text(json.dumps({**golden, machine(): numbers}, indent=0) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = measure()
    if options.write:
        write(numbers)
        return 0
    lines = differences(read()[0], numbers, read()[1])
    print("\n".join(lines) or f"{len(numbers)} numbers agree")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
