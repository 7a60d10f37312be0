"""Regions as they are written, where they lie, and texts with holes."""

import json
from pathlib import Path

import pytest
import torch
from pipeline_world import TEXT_LENGTH, tiny_image_tokenizer

from mmprime.engine import Canvas, Codec, Region, Span, sampler_of
from mmprime.generation.infilling import read_partly, with_blanks
from mmprime.generation.regions import RegionSpec, locate, parse_region, read_regions, snap
from mmprime.tokenizers import ImageTokenizer, TextTokenizer

BYTES = TextTokenizer.bytes()
IMAGE = Codec.base(16, 2)
CANVAS = Canvas([Span("text", TEXT_LENGTH, Codec.base(BYTES.vocab_size, 2)), Span("image", (4, 4), IMAGE)])


@pytest.fixture(scope="module")
def image_tokenizer() -> ImageTokenizer:
    return tiny_image_tokenizer()


def put(words: str, image: ImageTokenizer, stands_for: dict[int, tuple[str, int]] | None = None) -> Region:
    return locate(parse_region(words.split(), "it"), CANVAS, image, stands_for)


def codes_of(mask: torch.Tensor) -> list[int]:
    """Codes of the picture that have a digit in the mask (N,)."""
    return CANVAS.view(mask[None], "image")[0].any(-1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("form", ["yaml", "json", "nested"])
def test_a_file_and_the_words_of_a_command_line_say_the_same(tmp_path: Path, form: str) -> None:
    entries = [{"name": "sky", "box": [0, 0, 32, 8], "window": [0, 0.5], "digits": 0, "budget": 2, "guidance": 5}]
    file = tmp_path / "regions.yaml"
    if form == "yaml":
        file.write_text("- name: sky\n  box: 0,0,32,8\n  window: 0, 0.5\n  digits: 0\n  budget: 2\n  guidance: 5\n")
    else:
        file.write_text(json.dumps({"regions": entries} if form == "nested" else entries))
    words = ["name=sky", "box=0,0,32,8", "window=0,0.5", "digits=0", "budget=2", "guidance=5"]
    assert read_regions(file) == [parse_region(words, "?")]
    assert parse_region(words, "?") == RegionSpec(
        "sky", box=(0, 0, 32, 8), window=(0.0, 0.5), digits=(0,), budget=2, guidance=5.0
    )


def test_where_a_region_lies(image_tokenizer: ImageTokenizer, tmp_path: Path) -> None:
    from PIL import Image

    box = put("box=0,0,9,8 order=halton temperature=0.5", image_tokenizer)
    assert codes_of(box.mask) == [0, 1], "9 pixels reach into the second code of 8"
    assert not box.mask[CANVAS.mask("text")].any()
    assert (box.order, box.temperature) == (sampler_of("halton"), 0.5)
    rest = put("box=0,0,9,8 outside=true", image_tokenizer).mask
    assert torch.equal(rest, CANVAS.mask("image") & ~box.mask)
    coarse = put("span=image digits=0", image_tokenizer).mask
    assert torch.equal(coarse, CANVAS.mask("image", digits=(0,)))
    drawn = Image.new("L", (64, 64))
    drawn.paste(255, (32, 0, 64, 16))
    drawn.save(tmp_path / "mask.png")
    assert codes_of(put(f"mask={tmp_path / 'mask.png'}", image_tokenizer).mask) == [2, 3]
    assert snap((7, 8, 9, 16), 8, (4, 4), "it") == (0, 1, 2, 2)


def test_words_and_blanks(image_tokenizer: ImageTokenizer) -> None:
    text = with_blanks("A ___ or ___ Rome.", BYTES, 2, ["Rome"])
    assert bytes(each for each in text.ids if each >= 0).decode() == "A or."
    assert sorted(set(text.stands_for.values())) == [("Rome", 0), ("___", 1), ("___", 2)]
    tokens = {hole: [t for t, each in text.stands_for.items() if each == hole] for hole in text.stands_for.values()}
    assert tokens["___", 1] == [1, 2]
    assert len(tokens["Rome", 0]) == len(" Rome")
    assert [text.ids[t] for t in tokens["Rome", 0]] == [-1] * 5
    second = put("blanks=2", image_tokenizer, text.stands_for).mask
    assert CANVAS.token_of[second].unique().tolist() == tokens["___", 2]
    assert put("words=Rome,___", image_tokenizer, text.stands_for).mask.sum() == 2 * len(text.stands_for)


def test_a_text_that_is_partly_known() -> None:
    codec = CANVAS.span("text").codec
    digits = codec.encode(torch.tensor([list(b"a bc d")]))[0]
    digits[2:4, 1] = -1  # half-known tokens are not known
    assert read_partly(digits, codec, BYTES) == "a  ___ d"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("box=0,0,8", "region 'it': box '0,0,8': give 4 with commas, got 3"),
        ("box=0,0,8,x", "region 'it': box '0,0,8,x'"),
        ("box=0,0,40,8", "box 0,0,40,8 is empty or leaves the picture of 32 x 32 pixels"),
        ("box=8,0,8,8", "is empty or leaves the picture"),
        ("colour=red", "region 'it' has no key 'colour'"),
        ("outside=maybe box=0,0,8,8", "give true or false"),
        ("budget=1.5 span=image", "budget '1.5'"),
        ("box=0,0,8,8 order=confidence", "order 'confidence' looks at the data"),
        ("box=0,0,8,8 span=text", "a box or a mask lies in a picture"),
        ("words=Paris", "nothing that is to be written stands for Paris"),
        ("blanks=3", "stands for blank 3"),
        ("span=image digits=7", "7"),
        ("span=sound", "sound"),
        ("box=0,0,32,32 outside=true", "region 'it' is empty on this canvas"),
    ],
)
def test_what_cannot_be_placed_is_refused(image_tokenizer: ImageTokenizer, words: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"region|digit|span") as caught:
        put(words, image_tokenizer, {0: ("Rome", 0)})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no list of regions"),
        ("box: 1", "holds no list of regions"),
        ("- [1, 2]", "holds no list of regions"),
        ("- {box: [", "neither YAML nor JSON"),
        ("- box: 0,0,8,8\n- windw: 0,1", "region 'region 2' has no key 'windw'"),
    ],
)
def test_files_that_hold_no_regions(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "regions.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"regions\.yaml") as caught:
        read_regions(file)
    assert said in str(caught.value)
    with pytest.raises(ValueError, match="no file of regions at"):
        read_regions(tmp_path / "none.yaml")


def test_holes_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="no ___ to fill in 'all is said'"):
        with_blanks("all is said", BYTES, 2)
    with pytest.raises(ValueError, match="no word 'Rom' to write anew"):
        with_blanks("Rome ___", BYTES, 2, ["Rom"])
