"""Image files to BGR pixels, the same way whatever the file format holds, and pixels to files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from yolorep.errors import UserError
from yolorep.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

#: What :func:`as_image` takes.
ImageLike: TypeAlias = Union[str, "os.PathLike[str]", NDArray[np.uint8], Image.Image, "Tensor"]

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
        ImageError: if it has no pixels, or is a file that was opened and cannot be loaded.
    """
    if 0 in image.size:
        raise ImageError(f"without pixels, {image.width}x{image.height}")
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


def as_image(image: ImageLike, *, colour: str = "bgr") -> NDArray[np.uint8]:
    """Returns (height, width, 3) uint8 BGR pixels of whatever one image is held in.

    Args:
        image: a file; a uint8 array (height, width) or (height, width, 1), grey, or (height, width, 3 or 4), colours in
            the order of ``colour``, whose alpha is dropped; a Pillow image of any mode, turned upright as its EXIF
            says; or a (3, height, width) tensor, see :func:`from_tensor`.
        colour: ``"bgr"`` or ``"rgb"``: of arrays.

    Raises:
        UserError: if it is no image, or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(image)
        except ImageError as error:
            raise UserError(f"{image}: expected an image, cannot read it: {error}") from error
    if isinstance(image, np.ndarray):
        return _from_array(image, colour)
    if isinstance(image, Image.Image):
        try:
            return from_pillow(image)
        except ImageError as error:
            raise UserError(f"expected a Pillow image that can be loaded, found one that is {error}") from error
    import torch  # late: who has no tensor need not wait for it

    if isinstance(image, torch.Tensor) and image.ndim == 3:
        return from_tensor(image)[0]
    found = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, torch.Tensor) else type(image).__name__
    raise UserError(
        f"expected an image: a path, a numpy array, a Pillow image or a tensor (3, height, width), found {found}"
    )


def from_tensor(tensor: Tensor) -> list[NDArray[np.uint8]]:
    """Returns the images of a tensor as (height, width, 3) uint8 BGR arrays.

    Args:
        tensor: (3, height, width) or (n, 3, height, width) RGB, uint8 or floats of 0 to 1, which are rounded to 1/255.

    Raises:
        UserError: if it is no such tensor.
    """
    import torch

    batch = tensor[None] if tensor.ndim == 3 else tensor
    floating = tensor.is_floating_point()
    if batch.ndim != 4 or batch.shape[1] != 3 or batch.numel() == 0 or not (floating or tensor.dtype == torch.uint8):
        raise UserError(
            "expected an RGB tensor (3, height, width) or (n, 3, height, width) of uint8, or of floats from 0 to 1, "
            f"got {tuple(tensor.shape)} {tensor.dtype}"
        )
    batch = batch.detach().cpu()
    if floating:
        low, high = batch.float().aminmax()
        if not (low >= 0 and high <= 1):  # nor NaN
            raise UserError(f"expected a tensor of floats from 0 to 1, got {low:g} to {high:g}; divide pixels by 255")
        batch = (batch.float() * 255).round().to(torch.uint8)
    return [np.ascontiguousarray(image[::-1].transpose(1, 2, 0)) for image in batch.numpy()]


def _from_array(array: NDArray[Any], colour: str) -> NDArray[np.uint8]:
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or channels not in (1, 3, 4) or array.size == 0:
        raise UserError(
            f"expected a uint8 array (height, width), grey, or (height, width, 3 or 4), {colour.upper()} or "
            f"{colour.upper()}A, got {array.shape} {array.dtype}"
        )
    if channels == 3 and colour == "bgr":
        return array
    codes = {1: cv2.COLOR_GRAY2BGR, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_BGRA2BGR}
    return np.asarray(cv2.cvtColor(array, cv2.COLOR_RGBA2BGR if channels == 4 and colour == "rgb" else codes[channels]))


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
    try:
        done, data = cv2.imencode(path.suffix, image)
    except cv2.error:  # which OpenCV 5 only prints
        done = False
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
