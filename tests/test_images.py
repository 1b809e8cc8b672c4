from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.data.toy import smooth_image
from yolorep.images import ImageError, probe_image, read_image

RGB = smooth_image(45, 62)[..., ::-1].copy()
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
ALPHA = np.random.default_rng(0).integers(0, 256, (45, 62, 1), dtype=np.uint8)


def pillow(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opencv(pixels: np.ndarray, suffix: str) -> bytes:
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(suffix, pixels[..., order])[1].tobytes()


def colour(kind: str, **options: object) -> Callable[[], bytes]:
    return lambda: pillow(Image.fromarray(RGB), kind, **options)


GRAY_AS_RGB = np.repeat(GRAY[..., None], 3, axis=2)
RGBA = np.concatenate([RGB, ALPHA], axis=2)
PALETTE = Image.fromarray(RGB).quantize(64)
CMYK = Image.fromarray(RGB).convert("CMYK")
CASES: dict[str, tuple[Callable[[], bytes], np.ndarray, int]] = {
    "png": (colour("PNG"), RGB, 0),
    "bmp": (colour("BMP"), RGB, 0),
    "tiff": (colour("TIFF"), RGB, 0),
    "webp": (colour("WEBP", lossless=True), RGB, 0),
    "jpeg": (colour("JPEG", quality=98, subsampling=0), RGB, 6),
    "progressive jpeg": (colour("JPEG", quality=98, subsampling=0, progressive=True), RGB, 6),
    "gray png": (lambda: pillow(Image.fromarray(GRAY), "PNG"), GRAY_AS_RGB, 0),
    "gray jpeg": (lambda: pillow(Image.fromarray(GRAY), "JPEG", quality=98), GRAY_AS_RGB, 4),
    "gray 16-bit png": (lambda: pillow(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"), GRAY_AS_RGB, 0),
    "gray 16-bit tiff": (lambda: pillow(Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF"), GRAY_AS_RGB, 0),
    "gray float tiff": (lambda: pillow(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), GRAY_AS_RGB, 0),
    "16-bit png": (lambda: opencv(RGB.astype(np.uint16) * 257, ".png"), RGB, 0),
    "16-bit tiff": (lambda: opencv(RGB.astype(np.uint16) * 257, ".tiff"), RGB, 0),
    "16-bit png with alpha": (lambda: opencv(RGBA.astype(np.uint16) * 257, ".png"), RGB, 0),
    "png with alpha": (lambda: pillow(Image.fromarray(RGBA), "PNG"), RGB, 0),
    "tiff with alpha": (lambda: pillow(Image.fromarray(RGBA), "TIFF"), RGB, 0),
    "webp with alpha": (lambda: pillow(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True), RGB, 0),
    "gray png with alpha": (lambda: pillow(Image.fromarray(np.dstack([GRAY, ALPHA])), "PNG"), GRAY_AS_RGB, 0),
    "palette png": (lambda: pillow(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "palette png with transparency": (
        lambda: pillow(PALETTE, "PNG", transparency=3),
        np.asarray(PALETTE.convert("RGB")),
        0,
    ),
    "1-bit png": (
        lambda: pillow(Image.fromarray(GRAY).convert("1"), "PNG"),
        np.asarray(Image.fromarray(GRAY).convert("1").convert("RGB")),
        0,
    ),
    "cmyk jpeg": (lambda: pillow(CMYK, "JPEG", quality=98, subsampling=0), RGB, 8),
    "cmyk tiff": (lambda: pillow(CMYK, "TIFF"), RGB, 2),
    "jpeg with text after its end": (lambda: colour("JPEG", quality=98, subsampling=0)() + b"text", RGB, 6),
    "jpeg with bytes after its end": (lambda: colour("JPEG", quality=98, subsampling=0)() + b"\0" * 50, RGB, 6),
}


@pytest.mark.parametrize("case", CASES)
def test_reads_every_kind_of_file(case: str, tmp_path: Path) -> None:
    make, expected, tolerance = CASES[case]
    path = tmp_path / "image"
    path.write_bytes(make())
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]
    assert image.shape == (45, 62, 3)
    assert np.abs(image[..., ::-1].astype(int) - expected).max() <= tolerance
    assert probe_image(path) == (45, 62)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_exif_orientation(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "image"
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    path.write_bytes(pillow(Image.fromarray(RGB), kind, exif=exif, **options))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    image = read_image(path)
    assert image.shape[:2] == probe_image(path) == ((62, 45) if orientation > 4 else (45, 62))
    assert np.abs(image[..., ::-1].astype(int) - expected).max() <= 6


@pytest.mark.parametrize("orientation", [1, 6])
def test_shrinking_decoder_keeps_what_is_seen(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "image.jpg"
    path.write_bytes(pillow(Image.fromarray(smooth_image(101, 160)), "JPEG", quality=98, exif=exif))
    full, half = read_image(path), read_image(path, shrink=2)
    assert half.shape == ((51, 80, 3) if orientation == 1 else (80, 51, 3))
    small = cv2.resize(full, half.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(half.astype(int) - small).mean() < 2


def test_shrink_is_ignored_where_it_would_not_average(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(colour("PNG")())
    assert read_image(path, shrink=4).shape == (45, 62, 3)


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty file"),
    "text": (b"no image at all", "not an image"),
    "half a jpeg": (colour("JPEG")()[:900], "truncated"),
    "half a progressive jpeg": (colour("JPEG", progressive=True)()[:900], "truncated"),
    "half a png": (colour("PNG")()[:1500], "truncated"),
    "half a webp": (colour("WEBP", lossless=True)()[:900], "damaged|not an image"),
    "half a bmp": (colour("BMP")()[:900], "truncated"),
    "half a tiff": (colour("TIFF")()[:900], "damaged|truncated|not an image"),
    "jpeg header only": (colour("JPEG")()[:4], "damaged|truncated|not an image"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("function", [read_image, probe_image])
def test_broken_files_are_told_apart(case: str, function: Callable[[Path], object], tmp_path: Path) -> None:
    content, reason = BROKEN[case]
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason):
        function(path)


@pytest.mark.parametrize("function", [read_image, probe_image])
def test_missing_file_and_folder(function: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        function(tmp_path / "image.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        function(tmp_path)


@pytest.mark.parametrize("function", [read_image, probe_image])
def test_what_never_ends_and_what_is_too_long(function: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("zero.png", "pipe.png"):
        with pytest.raises(ImageError, match=r"cannot be read \(a device or pipe\)"):
            function(tmp_path / name)
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(10**10)
    with pytest.raises(ImageError, match="10,000,000,000 bytes are more than 8 a pixel of the limit; raise it"):
        function(tmp_path / "long.png")
    with pytest.raises(ImageError, match="cannot be read"):
        function(Path("a\0b.png"))
