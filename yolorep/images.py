"""Image files to BGR pixels, the same way whatever the file format holds, and pixels to files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from yolorep.errors import UserError
from yolorep.files import atomic_write

#: Files with these endings are images of a data set.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
#: Formats that images are written in.
WRITTEN_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_JPEG_MAGIC, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_EXIF_ORIENTATION = 274
_SHRINK_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class ImageError(ValueError):
    """A file is not a complete image; the text says why, without the file's name."""


class ImageReadError(ImageError):
    """The bytes of a file could not be read: no permission, a disk or network fault. Next time they may be."""


def read_image(path: str | os.PathLike[str], *, shrink: int = 1) -> NDArray[np.uint8]:
    """Reads an image as colour pixels.

    EXIF orientation is applied. Grayscale is repeated over the channels, 16-bit values keep their upper byte, CMYK is
    converted, and an alpha channel is dropped (not blended: hidden colours stay what the file says).

    Args:
        path: image file.
        shrink: 1, 2, 4 or 8: a JPEG may be decoded at this fraction of its size, averaging pixels. That is much
            faster; other formats ignore it.

    Returns:
        (height, width, 3) uint8, BGR, C-contiguous.

    Raises:
        ImageError: if the file is missing, empty, truncated or no image.
    """
    return decode_image(_read_bytes(path), shrink=shrink)


def decode_image(data: bytes, *, shrink: int = 1) -> NDArray[np.uint8]:
    """Decodes the bytes of an image file, as :func:`read_image` does.

    Raises:
        ImageError: if they are truncated or no image.
    """
    image = None if _needs_pillow(data) else _decode_cv2(data, shrink)
    # OpenCV refuses some files that are whole, such as float TIFF or a PNG without its last chunk.
    return _decode_pillow(data) if image is None else image


def from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """Returns the pixels of a Pillow image of any mode as (height, width, 3) uint8 BGR, as :func:`read_image` does.

    Raises:
        ImageError: if it is a file that was opened and cannot be loaded.
    """
    with _pillow_errors():
        return _pixels_of(image)


def probe_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns (height, width) after EXIF orientation, having made sure that the whole file decodes.

    Raises:
        ImageError: if the file is missing, empty, truncated or no image.
    """
    data = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            whole = image.size
            # JPEG at 1/8 scale: every coefficient is still read, most of the arithmetic is saved.
            drafted = image.draft("L", (1, 1)) is not None
            image.load()
            # After loading: Pillow turns a TIFF upright itself.
            width, height = whole if drafted else image.size
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        # 16-bit colour TIFF, for one, is known to OpenCV only.
        decoded = _decode_cv2(data)
        if decoded is None:
            raise ImageError("not an image") from None
        return decoded.shape[0], decoded.shape[1]
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(_reason(error)) from error
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def as_image(image: NDArray[np.uint8] | str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Returns (height, width, 3) uint8 BGR pixels of an image file, or of an array that is such an image already.

    Raises:
        UserError: if a file is no readable image.
        ValueError: if an array is no such image.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(image)
        except ImageError as error:
            raise UserError(f"{image}: expected an image, cannot read it: {error}") from error
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected a (height, width, 3) uint8 BGR image, got {image.shape} {image.dtype}")
    return image


class Picture(np.ndarray[Any, np.dtype[np.uint8]]):
    """A (height, width, 3) BGR array that a notebook shows as the image it is."""

    def _repr_png_(self) -> bytes | None:
        return as_png(self)


def as_png(image: NDArray[Any]) -> bytes | None:
    """A (height, width, 3) uint8 BGR image as a PNG file; None for any other array."""
    if image.ndim != 3 or image.dtype != np.uint8 or not image.size:
        return None
    done, data = cv2.imencode(".png", image)
    return data.tobytes() if done else None


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes a BGR image atomically, in the format of the path's suffix, one of ``WRITTEN_SUFFIXES``.

    Raises:
        UserError: if the folder or the format cannot be written.
    """
    done, data = cv2.imencode(path.suffix, image)
    if not done:
        raise UserError(f"{path}: OpenCV cannot write an image of shape {image.shape} in this format")
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except OSError as error:
        raise ImageReadError(f"cannot be read ({error.strerror})") from error
    if not data:
        raise ImageError("empty file")
    return data


def _needs_pillow(data: bytes) -> bool:
    """Whether OpenCV would decode the file but get it wrong."""
    if data.startswith(_JPEG_MAGIC):
        # OpenCV 4 paints the missing part of a truncated JPEG grey. Most whole ones end with the marker, and quickly.
        return not (data.endswith(_JPEG_END) or data.rstrip(b"\0").endswith(_JPEG_END))
    try:
        with Image.open(io.BytesIO(data)) as image:
            # OpenCV multiplies the colours of a TIFF by its alpha. Which formats it turns upright differs by version.
            blended = image.format == "TIFF" and image.mode in ("RGBA", "LA", "PA")
            return blended or image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _decode_cv2(data: bytes, shrink: int = 1) -> NDArray[np.uint8] | None:
    flag = _SHRINK_FLAGS[shrink] if data.startswith(_JPEG_MAGIC) else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise ImageError("too large or damaged") from error
    return None if image is None else np.asarray(image, np.uint8)


def _decode_pillow(data: bytes) -> NDArray[np.uint8]:
    with _pillow_errors(), Image.open(io.BytesIO(data)) as opened:
        return _pixels_of(opened)


def _pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    image.load()  # which turns a TIFF upright
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        pixels = np.asarray(upright)
        if upright.mode != "F" and (upright.mode.startswith("I;16") or pixels.max(initial=0) > 255):
            pixels = pixels >> 8
        gray = np.clip(pixels, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    return np.ascontiguousarray(np.asarray(upright.convert("RGB"), np.uint8)[..., ::-1])


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turns what Pillow raises for files that are no image, or not a whole one, into ImageError."""
    try:
        yield
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError("not an image") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    return "truncated" if "truncated" in str(error).lower() else f"damaged ({error})"
