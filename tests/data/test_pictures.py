"""One picture reader: every kind of picture as upright 8-bit RGB on white, or one line that names it."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmprime.data import pictures
from mmprime.data.pictures import picture_notes, picture_size, read_picture, read_square

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)


def packed(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def header_of(width: int, height: int) -> bytes:
    """A PNG that says it has this size, and holds no pixels."""
    png = bytearray(packed(np.zeros((1, 1), np.uint8)))
    png[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    return bytes(png)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(read_picture(data, "x"))


GREYS = {
    "8-bit PNG": packed(RAMP),
    "16-bit PNG": packed(RAMP.astype(np.uint16) * 257),
    "16-bit TIFF": packed(RAMP.astype(np.uint16) * 257, "TIFF"),
    "16-bit TIFF, white is 0": packed(65535 - RAMP.astype(np.uint16) * 257, "TIFF", tiffinfo={262: 0}),
    "float TIFF": packed(RAMP.astype(np.float32) / 255, "TIFF"),
    "float TIFF, white is 0": packed(1 - RAMP.astype(np.float32) / 255, "TIFF", tiffinfo={262: 0}),
}


@pytest.mark.parametrize("name", GREYS)
def test_a_grey_ramp_is_the_same_at_every_depth(name: str) -> None:
    found = pixels(GREYS[name])
    assert (found == RAMP[..., None]).all()
    assert (np.asarray(read_square(GREYS[name], 64)) == found).all()
    assert (np.asarray(read_square(GREYS[name], 64, "pad")) == found).all()


def test_sixteen_bits_are_rounded() -> None:
    values = np.array([[0, 128, 129, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    assert pixels(packed(values))[0, :, 0].tolist() == [0, 0, 1, 127, 128, 254, 255, 255]


def test_twelve_bits_of_a_tiff_reach_white() -> None:
    def entry(tag: int, kind: int, value: int) -> bytes:
        return tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + b"\1\0\0\0" + value.to_bytes(4, "little")

    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 3)]
    head = b"II*\0" + (12).to_bytes(4, "little") + b"\xff\xf8\x00\0"  # 0xfff and 0x800
    directory = len(tags).to_bytes(2, "little") + b"".join(entry(*tag) for tag in tags) + bytes(4)
    assert pixels(head + directory)[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (packed(RAMP.astype(np.int32) * 1000, "TIFF"), r"integers from 0 to 255000.*8 or 16 bits"),
        (packed(RAMP.astype(np.int32), "TIFF"), r"integers from 0 to 255 "),
        (packed(RAMP.astype(np.float32), "TIFF"), r"floats from 0\.0 to 255\.0; floats from 0 \(black\) to 1"),
        (packed(np.full((4, 4), np.nan, np.float32), "TIFF"), "floats from"),
        (packed(COLOUR, "JPEG")[:700], "truncated"),
        (packed(COLOUR)[:100], "Truncated"),
        (packed(COLOUR, "GIF")[:900], "truncated"),
        (packed(COLOUR, "TIFF")[:-40], "truncated"),
        (packed(COLOUR, "TIFF")[:9], "none of PNG, JPEG, WEBP, BMP, GIF, TIFF, or its header is damaged"),
        (packed(COLOUR, "WEBP")[:100], "decoder"),
        (packed(COLOUR, "BMP")[:100], "truncated"),
        (b"", "it is empty"),
        (b"<html>404</html>", "none of PNG.*<html>404"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "none of PNG.*%!PS"),
        (header_of(20000, 20000), r"more than 67,108,864"),
        (header_of(13000, 13000), r"13000 x 13000 pixels, more than 67,108,864"),
        (header_of(65536, 1), r"65536 x 1 pixels.*a side over 65,535; make it smaller"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_name(data: bytes, words: str) -> None:
    for read in (read_picture, read_square):
        arguments = () if read is read_picture else (16,)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=rf"^a/b\.png is not a readable image: .*({words})") as caught:
                read(data, *arguments, name="a/b.png")
        assert "\n" not in str(caught.value)


def test_no_flipped_bit_of_a_png_changes_a_picture() -> None:
    good = packed(COLOUR[:12, :12])
    for place in range(0, len(good), 3):
        bad = bytearray(good)
        bad[place] ^= 16
        try:
            assert (pixels(bytes(bad)) == COLOUR[:12, :12]).all()
        except ValueError as error:
            assert str(error).startswith("x is not a readable image")  # noqa: PT017


def test_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no image at .*gone\.png$"):
        read_square(tmp_path / "gone.png", 8)
    (tmp_path / "batch.png").mkdir()
    with pytest.raises(ValueError, match=r"batch\.png is not a readable image: it is a folder"):
        picture_size(tmp_path / "batch.png")
    (tmp_path / "really.gif").write_bytes(packed(COLOUR, "WEBP", lossless=True))
    assert (np.asarray(read_picture(tmp_path / "really.gif")) == COLOUR).all()


def test_transparency_becomes_white() -> None:
    colour = Image.fromarray(COLOUR)
    half = Image.new("L", (64, 64), 255)
    half.paste(0, (0, 0, 64, 32))
    clear = colour.copy()
    clear.putalpha(half)
    palette = colour.quantize(16)
    forms = {
        "RGBA": packed(clear),
        "LA": packed(Image.merge("LA", (Image.fromarray(RAMP), half))),
        "WEBP": packed(clear, "WEBP", lossless=True),
    }
    for name, data in forms.items():
        assert (pixels(data)[:32] == 255).all(), name
        assert (pixels(data)[40, 10] != 255).any(), name
    index = int(np.asarray(palette)[5, 5])
    for data in (packed(palette, transparency=index), packed(palette, "GIF", transparency=index)):
        assert (pixels(data)[np.asarray(palette) == index] == 255).all()
    marked = packed(np.array([[7, 8]], np.uint16), transparency=7)
    assert pixels(marked)[0, :, 0].tolist() == [255, 0]
    assert pixels(packed(np.array([[7, 8]], np.uint8), transparency=7))[0, :, 0].tolist() == [255, 8]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("flag", range(1, 9))
def test_orientation_is_applied_to_pixels_and_size(flag: int, kind: str) -> None:
    way = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # of the flag, to Image.Transpose
    stored = COLOUR[:21, :40]
    exif = Image.Exif()
    exif[0x112] = flag
    data = packed(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright = Image.fromarray(stored)
    upright = upright.transpose(Image.Transpose(way[flag])) if flag > 1 else upright
    assert (pixels(data) == np.asarray(upright)).all()
    assert picture_size(data) == upright.size
    for fit in ("crop", "pad"):
        assert (np.asarray(read_square(data, 8, fit)) == np.asarray(read_square(packed(upright), 8, fit))).all()


def test_colour_modes_are_read() -> None:
    colour = Image.fromarray(COLOUR)
    for name, data in {
        "CMYK": packed(colour.convert("CMYK"), "JPEG", quality=95),
        "LAB": packed(colour.convert("LAB"), "TIFF"),
        "YCbCr": packed(colour.convert("YCbCr"), "JPEG", quality=95, subsampling=0),
    }.items():
        assert np.abs(pixels(data).astype(int) - COLOUR).mean() < 3, name
    assert set(pixels(packed(colour.convert("1"))).flatten()) == {0, 255}
    high = np.array([[[0x12FF, 0x8000, 0xFFFF]]], ">u2").tobytes()
    head = b"MM\0*" + (14).to_bytes(4, "big") + high
    tags = [(256, 1), (257, 1), (258, 122), (259, 1), (262, 2), (273, 8), (277, 3), (279, 6)]
    body = b"".join(
        tag.to_bytes(2, "big") + b"\0\3" + (3 if tag == 258 else 1).to_bytes(4, "big")
        + (value.to_bytes(4, "big") if tag == 258 else value.to_bytes(2, "big") + b"\0\0")
        for tag, value in tags
    )  # fmt: skip
    data = head + len(tags).to_bytes(2, "big") + body + bytes(4)
    data += bytes(122 - len(data)) + b"\0\x10" * 3
    assert pixels(data).flatten().tolist() == [0x12, 0x80, 0xFF]


def test_of_several_frames_the_first_is_read_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    monkeypatch.setattr(pictures, "_warned_of_frames", [])
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = packed(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[0, 0].tolist() == [255, 0, 0], kind
    assert capsys.readouterr().err == "warning: x has several frames; of such pictures only the first is read\n"
    monkeypatch.setattr(pictures, "_warned_of_frames", [])
    pixels(packed(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert not capsys.readouterr().err  # a phone's photo that carries a second picture is one picture


def plain(picture: Image.Image, side: int, fit: str) -> np.ndarray:
    """The same by Pillow at full size: crop or pad to a square, then resize."""
    edge = (min if fit == "crop" else max)(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    page = Image.new("RGB", (edge, edge), "white")
    if fit == "crop":
        page = picture.crop((left, top, left + edge, top + edge))
    else:
        page.paste(
            picture,
            (-left, -top) if min(picture.size) == edge else ((edge - picture.width) // 2, (edge - picture.height) // 2),
        )
    return np.asarray(page.resize((side, side), Image.Resampling.BICUBIC)).astype(int)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (97, 41), (41, 97), (1, 300), (300, 1), (16, 16), (9, 5)])
def test_squares_equal_those_made_at_full_size(
    size: tuple[int, int], fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for strip in (2**20, 100):
        monkeypatch.setattr(pictures, "_STRIP", strip)
        found = np.asarray(read_square(packed(noise), 16, fit)).astype(int)
        wanted = plain(Image.fromarray(noise), 16, fit)
        tall = fit == "pad" and size[1] > size[0]  # its long side goes first, so rounding differs
        assert np.abs(found - wanted).max() <= (1 if tall else 0)


def test_a_large_jpeg_is_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = Image.fromarray(COLOUR).resize((640, 480), Image.Resampling.BICUBIC)
    data = packed(smooth, "JPEG", quality=95, subsampling=0)
    whole = np.asarray(read_square(data, 16)).astype(int)
    monkeypatch.setattr(pictures, "_LARGE", 1000)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 640 * 480 // 16)
    for fit in ("crop", "pad"):
        found = np.asarray(read_square(data, 16, fit)).astype(int)
        assert np.abs(found - plain(smooth, 16, fit)).max() <= 6
    assert np.abs(whole - plain(smooth, 16, "crop")).max() <= 3
    with pytest.raises(ValueError, match="640 x 480 pixels"):
        read_picture(data)
    with pytest.raises(ValueError, match="640 x 480 pixels"):
        read_square(packed(smooth, "JPEG", progressive=True), 16)
    assert picture_size(data) == (640, 480)


def test_webp_may_have_a_quarter_of_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 4096)
    assert read_picture(packed(COLOUR)).size == (64, 64)
    with pytest.raises(ValueError, match="64 x 64 pixels, more than 1,024"):
        read_picture(packed(COLOUR, "WEBP"))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["thin", "tall", "square", "13000", "jpeg"])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_peak_memory_stays_small(case: str, fit: str, tmp_path: Path) -> None:
    """At most 300 MB over what an interpreter with Pillow has, whatever the size of the picture."""
    size = {"thin": (5000, 1), "tall": (1, 65535), "square": (8192, 8192), "13000": (13000, 13000)}.get(
        case, (13000, 13000)
    )
    file = tmp_path / "x.png"
    Image.new("RGB", size, "red").save(file, "JPEG" if case == "jpeg" else "PNG")
    code = (
        "import resource, sys\n"
        "from PIL import Image\n"
        "from mmprime.data.pictures import read_square\n"
        "Image.new('RGB', (64, 64)).resize((8, 8))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try:\n    read_square(sys.argv[1], 64, sys.argv[2])\n    made = 'read'\n"
        "except ValueError:\n    made = 'refused'\n"
        "print((peak() - before) // 1024, made)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file), fit], capture_output=True, text=True, check=True)
    megabytes, made = done.stdout.split()
    assert int(megabytes) < 300
    assert made == ("refused" if case == "13000" else "read")


def test_nothing_larger_than_the_strip_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    new = Image.new
    monkeypatch.setattr(
        Image, "new", lambda mode, size, *rest: made.append(size[0] * size[1]) or new(mode, size, *rest)
    )
    read_square(packed(np.zeros((1, 5000, 3), np.uint8)), 16, "pad")
    read_square(packed(np.zeros((5000, 1, 3), np.uint8)), 16, "pad")
    assert max(made) == 16 * 5000


def test_notes_of_a_picture() -> None:
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("nfe", "7")
    assert picture_notes(packed(COLOUR, pnginfo=about)) == {"nfe": "7"}
