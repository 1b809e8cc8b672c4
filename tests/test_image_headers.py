from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from tests.data.toy import smooth_image
from tests.image_files import TAG_TYPES, Tag, blank_png, directory, exif_block, png_chunk, tiff, with_exif
from yolorep.decoding import turned
from yolorep.image_headers import limit_pixels, max_pixels
from yolorep.images import ImageError, as_image, decode_image, probe_image, read_image

RGB = smooth_image(45, 62)[..., ::-1].copy()
#: As no camera writes it, but legally: type, byte order, count of values.
ENCODINGS = [(kind, order, count) for kind in TAG_TYPES for order in "<>" for count in (1, 2, 3)]


def values(orientation: int, kind: str, count: int) -> list[Any]:
    if kind == "ASCII":
        return [str(orientation).encode()] * count
    return [orientation, 1] * count if kind == "RATIONAL" else [orientation] * count


def check_upright(data: bytes, orientation: int, path: Path, *, tolerance: int) -> None:
    """The scan's size, the loader's pixels, and those of every shrinking decoder agree, and are turned so."""
    expected = turned(RGB[..., ::-1], orientation)
    path.write_bytes(data)
    assert probe_image(path) == expected.shape[:2]
    pixels = read_image(path)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance
    for shrink in (2, 4, 8):
        small = read_image(path, shrink=shrink).shape[:2]
        assert small in (expected.shape[:2], tuple(-(-side // shrink) for side in expected.shape[:2]))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "PNG, behind the pixels", "WEBP", "TIFF"])
def test_one_reader_decides_the_orientation(kind: str, tmp_path: Path) -> None:
    for number, (form, order, count) in enumerate(ENCODINGS):
        # One of the eight an encoding; 0 and 9 mean nothing.
        for orientation in (number % 8 + 1, (0, 9)[number % 2])[: 1 + (number % 4 == 0)]:
            tag: Tag = (274, form, values(orientation, form, count))
            if kind == "TIFF":
                data = tiff(RGB, tag, order=order)
            else:
                data = with_exif(RGB, kind, exif_block(tag[2], form, order))
            meant = orientation if 1 <= orientation <= 8 and form != "ASCII" else 1
            check_upright(data, meant, tmp_path / "image", tolerance=6 if kind in ("JPEG", "MPO") else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "AVIF"])
def test_every_orientation(kind: str, orientation: int, tmp_path: Path) -> None:
    if kind == "TIFF":
        data = tiff(RGB, (274, "SHORT", [orientation]))
    elif kind == "AVIF":
        if not features.check("avif"):
            pytest.skip("Pillow is built without AVIF")
        out, exif = io.BytesIO(), Image.Exif()
        exif[274] = orientation
        Image.fromarray(RGB).save(out, "AVIF", quality=95, exif=exif)
        data = out.getvalue()
    else:
        data = with_exif(RGB, kind, exif_block([orientation]))
    check_upright(data, orientation, tmp_path / "image", tolerance=30 if kind == "AVIF" else 6)
    with Image.open(tmp_path / "image") as image:
        assert np.array_equal(as_image(image).shape, read_image(tmp_path / "image").shape)


@pytest.mark.parametrize(
    "block",
    [
        b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"XX*\0\x08\0\0\0", b"II*\0\x08\0\0\0\xff\xff",
        exif_block([6])[:15], exif_block([6]).replace(b"\x12\x01", b"\x13\x01"), exif_block([6, 6, 6])[:-6],
        exif_block([1, 0], "RATIONAL"), exif_block([float("nan")], "FLOAT"), exif_block([float("inf")], "DOUBLE"),
    ],
)  # fmt: skip
def test_damaged_exif_says_nothing(block: bytes, tmp_path: Path) -> None:
    check_upright(with_exif(RGB, "PNG", block), 1, tmp_path / "image", tolerance=0)


def gif(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (16, 16)).save(out, "GIF")
    return out.getvalue()[:6] + struct.pack("<HH", width, height) + out.getvalue()[10:]


def bmp(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (16, 16)).save(out, "BMP")
    return out.getvalue()[:18] + struct.pack("<ii", width, height) + out.getvalue()[26:]


def jpeg(width: int, height: int, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("L", (16, 16)).save(out, "JPEG", **options)
    data = out.getvalue()
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def webp(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "WEBP", lossless=True)
    data = out.getvalue()
    at = data.index(b"VP8L") + 9
    return data[:at] + struct.pack("<I", (side - 1) << 14 | (side - 1)) + data[at + 4 :]


TINY = np.zeros((8, 8), np.uint8)
TOO_LARGE = {
    "png": blank_png(30000, 30000),
    "gif": gif(30000, 30000),
    "bmp": bmp(30000, 30000),
    "bmp from the top": bmp(30000, -30000),
    "jpeg": jpeg(30000, 30000),
    "progressive jpeg": jpeg(30000, 30000, progressive=True),
    "ppm": b"P6 30000 30000 255\n",
    "webp": webp(16383),
    "webp that Pillow lets pass": webp(10000),
    "tiff": tiff(TINY, (256, "LONG", [30000]), (257, "LONG", [30000])),
    "tiff, 64 bits": tiff(TINY, (256, "LONG", [2**32 - 1]), (257, "LONG", [2**32 - 1])),
    "tiff of floats": tiff(np.zeros((8, 8, 3), np.float32), (256, "LONG", [9000]), (257, "LONG", [9000])),
    "tiff of one tile": tiff(TINY, (322, "LONG", [60000]), (323, "LONG", [60000])),
}
DAMAGED = {
    "two png headers": blank_png(30000, 300)[:33] + blank_png(8, 8)[8:],
    "two colour profiles": blank_png(8, 8)[:33] + png_chunk(b"iCCP", b"a\0\0") * 2 + blank_png(8, 8)[33:],
    "two tiff widths": b"II*\0\x08\0\0\0" + directory([(256, "LONG", [8]), (256, "LONG", [30000])], "<", start=8),
    "no tiff size": b"II*\0\x08\0\0\0" + directory([(256, "LONG", [8])], "<", start=8),
    "passes": jpeg(16, 16, progressive=True)[:-2] + b"\xff\xda" * 51,
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
    "icon": b"\0\0\1\0\1\0" + bytes(40),
}


@pytest.mark.parametrize("case", TOO_LARGE)
@pytest.mark.parametrize("function", [read_image, probe_image])
def test_too_many_pixels(case: str, function: Any, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(TOO_LARGE[case])
    with pytest.raises(ImageError, match=r"pixels.* the limit of 89,478,485; raise it with --max-pixels"):
        function(tmp_path / "image")


@pytest.mark.parametrize("case", DAMAGED)
def test_files_that_decoders_take_differently(case: str) -> None:
    with pytest.raises(ImageError, match=r"damaged|without pixels|more than the limit of 50|not an image"):
        decode_image(DAMAGED[case])


def test_what_pillow_cannot_decode_is_named() -> None:
    with pytest.raises(ImageError, match="AVIF or HEIF, which this installation of Pillow cannot decode"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))


def test_the_limit_is_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back at the end
    for data in (blank_png(40, 50), with_exif(RGB[:50, :40], "JPEG", b""), tiff(np.zeros((50, 40), np.uint8))):
        limit_pixels(45 * 40)
        assert max_pixels() == 45 * 40
        size = 50 if data[:4] != b"\xff\xd8\xff\xe1" else 45
        if size == 50:
            with pytest.raises(ImageError, match="40x50 pixels are more than the limit of 1,800"):
                decode_image(data)
        limit_pixels(None)
        assert max_pixels() == 45 * 40
        limit_pixels(50 * 40)
        assert decode_image(data).shape == (size, 40, 3)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="Pillow without JPEG 2000")
def test_colours_of_jpeg_2000_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder holds 32 bits of each."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50 * 40)
    for mode, times in (("L", 1), ("RGB", 2), ("RGBA", 3)):
        written = io.BytesIO()
        Image.new(mode, (40, 50)).save(written, "JPEG2000")
        if times == 1:
            assert decode_image(written.getvalue()).shape == (50, 40, 3)
            continue
        with pytest.raises(ImageError, match=f"40x50 pixels, which count {times} times .* are more than the limit"):
            decode_image(written.getvalue())


def test_a_bomb_costs_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(blank_png(30000, 30000))
    code = (
        "import resource, sys, time\n"
        "from yolorep.images import ImageError, probe_image, read_image\n"
        "start = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for read in (probe_image, read_image):\n"
        "    try:\n"
        "        sys.exit(f'read: {read(sys.argv[1])}')\n"
        "    except ImageError:\n"
        "        pass\n"
        "print(time.process_time() - start[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.png")], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 1
    assert kilobytes < 100_000
