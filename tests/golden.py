"""Golden numbers: what the project computed, to be computed again bit for bit by whatever changes its shape only.

    python tests/golden.py            # compare with tests/golden.json, exit status 1 where a number differs
    python tests/golden.py --write    # write tests/golden.json anew: only for a change of numbers that is meant

Losses of 50 steps of three trainings, bounds of the shipped models under every masking process, samples of every
sampler on the shipped text-image model. Floating point differs between processors, so numbers are compared exactly on
the machine they were written on and to a relative 1e-4 elsewhere, where samples are not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests/golden.json"
SHORT = ["train.steps=50", "train.log_every=1", "train.validate_every=0", "train.samples_every=0", "train.save_every=50",
         "run.threads=1", "run.precision=fp32"]  # fmt: skip
TRAININGS = {
    "toy": [*SHORT, "train.batch=64"],
    "text_sotu": [*SHORT, "train.batch=4", "train.optimizer=adamw", "train.lr=1e-3", "model.depth=2", "data.text_length=64"],
    "emoji_t2i": [*SHORT, "train.batch=4", "train.accumulate=2", "train.optimizer=adamw", "train.lr=1e-3", "model.depth=2"],
}


def machine() -> str:
    """What floating-point results may depend on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return f"{platform.machine()} {cpu.partition(': ')[2]} torch {torch.__version__}"


def losses(name: str) -> Iterator[tuple[str, float]]:
    from mmprime.training.build import build_trainer
    from mmprime.training.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        config = load_config(ROOT / f"configs/{name}.yaml", [*TRAININGS[name], f"run.dir={folder}/run"])
        build_trainer(config).run()
        for line in (Path(folder) / "run/log.jsonl").read_text().split("\n"):
            row = json.loads(line) if line else {}
            if row.get("kind") == "train":
                yield f"loss {name} {row['step']}", row["loss/model"]


def bounds() -> Iterator[tuple[str, float]]:
    from mmprime.data import CodeDataset, load_documents, pack_documents
    from mmprime.engine import MASKINGS, Rows, joint_loss, nelbo
    from mmprime import from_pretrained

    emoji, text = (from_pretrained(ROOT / "assets/models" / name) for name in ("emoji_t2i", "sotu"))
    codes = CodeDataset.load(ROOT / "assets/emoji_codes", "val_vendor")
    captions = emoji.encode_captions(codes.captions[:8])
    both = emoji.canvas.pack({"text": captions, "image": codes.codes[:8].flatten(1).long()})
    tokenizer, documents = text.text_tokenizer, load_documents(ROOT / "assets/sotu", "val")[:1]
    rows = pack_documents(documents, tokenizer.encode, tokenizer.end_id, text.canvas.num_tokens)
    page = text.canvas.pack({"text": rows[:4]})
    for name, pipe, y, given in (
        ("image|text", emoji, both, emoji.canvas.mask("text")), ("joint", emoji, both, None), ("text", text, page, None),
    ):  # fmt: skip
        for masking in MASKINGS:
            for steps in (None, 4):
                generator = torch.Generator().manual_seed(0)
                with torch.no_grad():
                    nats = nelbo(pipe.model, pipe.canvas, y, steps, masking, given, 2, generator)
                yield f"nelbo {name} {masking} {steps or 'continuous'}", float(nats.double().mean())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            yield f"joint loss {name}", float(joint_loss(pipe.model, pipe.canvas, y, given, generator).double().mean())


def samples() -> Iterator[tuple[str, str]]:
    from mmprime import SamplingConfig, from_pretrained
    from mmprime.engine.samplers import SAMPLERS

    pipe = from_pretrained(ROOT / "assets/models/emoji_t2i")
    for name in SAMPLERS:
        found = pipe.generate("red apple", 2, SamplingConfig(steps=6, sampler=name, guidance=1.0, seed=7))
        digest = hashlib.sha256(found.y.cpu().contiguous().numpy().tobytes() + found.rank.cpu().contiguous().numpy().tobytes())
        yield f"sample {name}", f"{digest.hexdigest()[:16]} nfe {found.nfe.tolist()}"


def measure() -> dict[str, float | str]:
    """Every golden number by its name."""
    torch.set_num_threads(1)
    found: dict[str, float | str] = {}
    for name in TRAININGS:
        found.update(losses(name))
    found.update(bounds())
    found.update(samples())
    return found


def differences(known: dict[str, float | str], found: dict[str, float | str], exact: bool) -> list[str]:
    """A line for each number that differs."""
    lines = [f"{name}: only in one of the two" for name in known.keys() ^ found.keys()]
    for name in known.keys() & found.keys():
        a, b = known[name], found[name]
        same = a == b if exact or isinstance(a, str) else math.isclose(a, b, rel_tol=1e-4)
        if not same and (exact or not isinstance(a, str)):
            lines.append(f"{name}: {a} became {b}")
    return sorted(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = measure()
    if options.write:
        FILE.write_text(json.dumps({"machine": machine(), "numbers": found}, indent=0) + "\n")
        return 0
    golden = json.loads(FILE.read_text())
    lines = differences(golden["numbers"], found, golden["machine"] == machine())
    print("\n".join(lines) or f"{len(found)} numbers agree")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
