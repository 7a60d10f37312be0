"""Texts by several samplers, cut into pieces of equal length, for `mmprime evaluate text --texts`.

    python benchmarks/text_pieces.py --model assets/models/english --out out/pieces.json "remdm unit=token|128|1|0.95"

A point is SAMPLER [key=value ...]|STEPS|TEMPERATURE|TOP_P; its texts, of seed 1, are one group of the file. Beside each
stands the entropy of its pieces in nats/word; real ones of the training addresses are printed first.
"""

from __future__ import annotations

import argparse

from mmprime import SamplingConfig, from_pretrained
from mmprime.cli import console
from mmprime.cli.evaluations.text import pieces
from mmprime.cli.sampling import sampler
from mmprime.data import load_documents
from mmprime.evaluation.text.diversity import diversity, words
from mmprime.io import write_json

_ALL = 10_000  # pieces at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", metavar="POINT")
    parser.add_argument("--model", type=console.folder, required=True)
    parser.add_argument("--out", type=console.out_file, required=True)
    parser.add_argument("--num", type=console.positive, default=8, help="texts a point")
    parser.add_argument("--words", type=console.positive, default=44, help="of a piece")
    options = parser.parse_args()
    pipe, entries = from_pretrained(options.model), list[dict[str, str]]()
    groups = {"real text": pieces(load_documents("assets/sotu", "train"), options.words, 256, 0)}
    for point in options.points:
        name, steps, temperature, top_p = point.split("|")
        config = SamplingConfig(
            sampler(name.split()), int(steps), temperature=float(temperature), top_p=float(top_p), seed=1
        )
        texts = pipe.continue_text("", options.num, config=config).texts
        cut = pieces(texts, options.words, _ALL, 0)
        groups[point] = [piece for piece in cut if len(piece.split()) >= 0.8 * options.words]
        entries += [{"group": point, "text": piece} for piece in groups[point]]
        write_json(options.out, entries)
    for name, found in groups.items():
        value, error = diversity([words(piece) for piece in found]).entropy
        print(f"{name}: {len(found)} pieces, entropy {value:.3f} ± {error:.3f} nats/word")


if __name__ == "__main__":
    main()
