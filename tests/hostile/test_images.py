"""Damaged and hostile image files: pixels or one line, the same from the scan and from the loader."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from tests.hostile.harness import Case, case
from tests.hostile.mutate import mutate_bytes, rng
from tests.image_files import TAG_TYPES, blank_png, exif_block, png_chunk, tiff, with_exif
from yolorep.images import ImageError, probe_image, read_image

PICTURE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
FRAMES = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE), Image.fromarray(PICTURE // 2)]
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 30000, 65500, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def saved(kind: str, image: Image.Image = FRAMES[0], **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def originals() -> dict[str, bytes]:
    """Whole files of every kind that can be written."""
    gray = FRAMES[0].convert("L")
    files = {
        "jpeg": with_exif(PICTURE, "JPEG", exif_block([6])),
        "progressive jpeg": saved("JPEG", progressive=True),
        "cmyk jpeg": saved("JPEG", FRAMES[0].convert("CMYK")),
        "mpo": with_exif(PICTURE, "MPO", exif_block([8], "LONG", ">")),
        "png": with_exif(PICTURE, "PNG", exif_block([3])),
        "png with exif at the end": with_exif(PICTURE, "PNG at the end", exif_block([5])),
        "16-bit png": saved("PNG", Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)),
        "palette png": saved("PNG", FRAMES[0].quantize(16), transparency=3),
        "animated png": saved("PNG", save_all=True, append_images=FRAMES[1:]),
        "webp": with_exif(PICTURE, "WEBP", exif_block([7])),
        "lossy webp": saved("WEBP", quality=50),
        "animated webp": saved("WEBP", save_all=True, append_images=FRAMES[1:]),
        "gif": saved("GIF", save_all=True, append_images=FRAMES[1:]),
        "bmp": saved("BMP"),
        "palette bmp": saved("BMP", FRAMES[0].quantize(16)),
        "ppm": saved("PPM"),
        "pgm": saved("PPM", gray),
        "plain ppm": b"P3 5 4 255\n" + b"7 9 250 " * 20,
        "jpeg 2000": saved("JPEG2000"),
        "tiff": tiff(PICTURE, (274, "SHORT", [6])),
        "tiff in tiles": saved("TIFF", compression="tiff_deflate", tiffinfo={322: 16, 323: 16}),
        "lzw tiff": saved("TIFF", compression="tiff_lzw"),
        "jpeg tiff": saved("TIFF", compression="jpeg"),
        "1-bit tiff": saved("TIFF", gray.convert("1"), compression="group4"),
        "float tiff": tiff(PICTURE.astype(np.float32) / 255, order=">"),
        "deflated int tiff": tiff(PICTURE[..., 0].astype(np.int32), deflate=True),
        "tiff with alpha": tiff(np.dstack([PICTURE, PICTURE[..., 0]]), (338, "SHORT", [2])),
    }
    if features.check("avif"):
        files["avif"] = saved("AVIF", speed=10)
    return files


def edit_header(data: bytes, source: random.Random) -> bytes:
    """Numbers near the beginning, where sizes are, replaced by others."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 3)):
        width, order = source.choice((1, 2, 4)), source.choice("<>")
        place = source.randrange(max(1, min(len(data), source.choice((32, 64, 600))) - width))
        number = source.choice(NUMBERS) % 256**width
        changed[place : place + width] = number.to_bytes(width, "little" if order == "<" else "big")
    return bytes(changed)


def edit_exif(kind: str, source: random.Random) -> bytes:
    """An orientation of any type, order and count, in a block that may be damaged."""
    form, count = source.choice(tuple(TAG_TYPES)), source.choice((1, 1, 2, 3))
    value: Any = source.choice((*range(10), 255))
    values = [str(value).encode()[:1]] * count if form == "ASCII" else [value % 128] * count
    block = exif_block(values * 2 if form == "RATIONAL" else values, form, source.choice("<>"))
    block = source.choice((bytes, bytes, lambda block: mutate_bytes(block, source)))(block)
    if kind == "TIFF":
        return tiff(PICTURE, (274, form, values * 2 if form == "RATIONAL" else values), order=source.choice("<>"))
    return with_exif(PICTURE, kind, block)


def check(data: bytes, path: Path) -> None:
    """Reads a file as the scan does and as the loader does, and compares.

    Raises:
        ImageError: if it is refused, by both.
    """
    path.write_bytes(data)
    said: list[str] = []
    size, shapes = None, {}
    try:
        size = probe_image(path)
    except ImageError as error:
        said.append(str(error))
    for shrink in (1, 2):
        try:
            pixels = read_image(path, shrink=shrink)
        except ImageError as error:
            said.append(str(error))
            continue
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.flags["C_CONTIGUOUS"]
        shapes[shrink] = pixels.shape[:2]
    if said:
        assert len(said) == 3, (said, size, shapes)
        raise ImageError(said[0])
    assert size is not None and shapes[1] == size, (size, shapes)
    assert shapes[2] in (size, (-(-size[0] // 2), -(-size[1] // 2))), (size, shapes)


def mutants(seeds: range, path: Path) -> list[Case]:
    """Every kind of file, each damaged in each way once a seed."""
    ways: dict[str, Callable[[bytes, random.Random], bytes]] = {"bytes": mutate_bytes, "header": edit_header}
    cases = [
        case(f"{kind}, {way} {seed}", check, change(data, rng(f"{kind} {way}", seed)), path)
        for kind, data in originals().items()
        for way, change in ways.items()
        for seed in seeds
    ]
    cases += [
        case(f"exif of a {kind} {seed}", check, edit_exif(kind, rng(f"exif {kind}", seed)), path)
        for kind in ("JPEG", "MPO", "PNG", "PNG at the end", "WEBP", "TIFF")
        for seed in seeds
    ]
    return cases


def bombs() -> dict[str, bytes]:
    """Small files that ask for a lot."""
    small, inflated = blank_png(64, 64), zlib.compress(bytes(1 << 24), 9)
    megabyte = zlib.compress(bytes(1_000_000), 9)
    gif, bmp = saved("GIF"), saved("BMP")
    progressive = saved("JPEG", Image.new("L", (4000, 4000)), progressive=True)
    pass_ = progressive[progressive.rindex(b"\xff\xda") : -2]

    def with_chunks(*chunks: bytes) -> bytes:
        return small[:33] + b"".join(chunks) + small[33:]

    return {
        "a large png": blank_png(30000, 30000),
        "text in a png": with_chunks(png_chunk(b"zTXt", b"a\0\0" + inflated)),
        "much text in a png": with_chunks(*[png_chunk(b"zTXt", b"%d\0\0" % i + megabyte) for i in range(300)]),
        "profiles in a png": with_chunks(*[png_chunk(b"iCCP", b"a\0\0" + megabyte)] * 500),
        "chunks in a png": with_chunks(*[png_chunk(b"tEXt", b"a\0b")] * 50_000),
        "a frame beside its gif": gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:],
        "frames in a gif": saved("GIF", Image.new("L", (16, 16)), save_all=True,
                                 append_images=[Image.new("L", (16, 16), i % 256) for i in range(1000)]),
        "a run-length bmp": bmp[:18] + struct.pack("<iiHHI", 9000, 9000, 1, 8, 1) + bytes(2000),
        "passes in a jpeg": progressive[:-2] + pass_ * 400 + b"\xff\xd9",
        "a text ppm": b"P3 9000 9000 255\n" + b"0 " * 100_000,
        "strips in a tiff": tiff(PICTURE, (273, "LONG", [8] * 100_000), (279, "LONG", [64] * 100_000)),
        "channels in a tiff": tiff(PICTURE, (277, "SHORT", [65535])),
        "a tile in a tiff": tiff(PICTURE, (322, "LONG", [60000]), (323, "LONG", [60000])),
        "large floats": tiff(np.zeros((8, 8, 3)), (256, "LONG", [9000]), (257, "LONG", [9000])),
    }  # fmt: skip


def test_damaged_images(hostile: Callable[..., None], tmp_path: Path) -> None:
    hostile(mutants(range(2), tmp_path / "image"))


def test_image_bombs(hostile: Callable[..., None], tmp_path: Path) -> None:
    hostile(case(name, check, data, tmp_path / "image") for name, data in bombs().items())


@pytest.mark.slow
def test_many_damaged_images(hostile: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "image"
    hostile([*mutants(range(2, 20), path), case("at the limit", check, blank_png(9400, 9400), path)])
