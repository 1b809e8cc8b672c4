"""Image files to BGR pixels, the same way whatever the file format holds, and pixels to files."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from yolorep.console import plural
from yolorep.decoding import Note as Note
from yolorep.decoding import decode, pixels_of, turned
from yolorep.errors import UserError
from yolorep.files import atomic_write
from yolorep.image_headers import ImageError as ImageError
from yolorep.image_headers import ImageReadError as ImageReadError
from yolorep.image_headers import decoder_errors, exif_orientation
from yolorep.image_headers import limit_pixels as limit_pixels
from yolorep.image_headers import max_pixels as max_pixels

if TYPE_CHECKING:
    from torch import Tensor

#: What :func:`as_image` takes.
ImageLike: TypeAlias = Union[str, "os.PathLike[str]", NDArray[np.uint8], Image.Image, "Tensor"]

# fmt: off
#: Files with these endings are images. Which of them can be decoded depends on how Pillow was built, too.
IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
})
# fmt: on
#: Neither images nor worth a word: labels and lists beside images, and what systems leave behind.
_BESIDE_SUFFIXES = frozenset({".cache", ".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".yaml", ".yml"})
#: Formats that images are written in.
WRITTEN_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_EXIF_ORIENTATION = 274
#: A file may have as many bytes as 16 bits of four colours take, for every pixel it may have.
_MOST_BYTES = 8
_SUFFIXES_SHOWN = 5


def read_image(path: str | os.PathLike[str], *, shrink: int = 1, note: Note | None = None) -> NDArray[np.uint8]:
    """Reads an image as colour pixels.

    EXIF orientation is applied. Grayscale is repeated over the channels, 16-bit values keep their upper byte, CMYK is
    converted, and an alpha channel is dropped (not blended: hidden colours stay what the file says). Floats, signed
    integers and integers of 32 bits and more are brought to 0..255 as :func:`yolorep.decoding.bytes_of` says. Of a
    file of several pictures it is the first.

    Args:
        path: image file.
        shrink: 1, 2, 4 or 8: a JPEG may be decoded at this fraction of its size, averaging pixels. That is much
            faster; other formats ignore it.
        note: called with what was done to floats and other unusual numbers.

    Returns:
        (height, width, 3) uint8, BGR, C-contiguous.

    Raises:
        ImageError: if the file is missing, empty, truncated, no image, or one of more pixels than
            :func:`yolorep.image_headers.max_pixels`.
    """
    return decode_image(_read_bytes(path), shrink=shrink, note=note)


def decode_image(data: bytes, *, shrink: int = 1, note: Note | None = None) -> NDArray[np.uint8]:
    """Decodes the bytes of an image file, as :func:`read_image` does.

    Raises:
        ImageError: as :func:`read_image`.
    """
    return decode(data, shrink=shrink, note=note)[1]


def probe_image(path: str | os.PathLike[str], *, note: Note | None = None) -> tuple[int, int]:
    """Returns (height, width) as :func:`read_image` has it, which is made sure of: the whole file is decoded.

    Args:
        path: image file.
        note: as for :func:`read_image`.

    Raises:
        ImageError: as :func:`read_image`.
    """
    # JPEG at 1/8 scale: every coefficient is still read, most of the arithmetic is saved.
    return decode(_read_bytes(path), shrink=8, note=note)[0].upright_size


def from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """Returns the pixels of a Pillow image of any mode as (height, width, 3) uint8 BGR, as :func:`read_image` does.

    Raises:
        ImageError: if it has no pixels, or is a file that was opened and cannot be loaded.
    """
    if 0 in image.size:
        raise ImageError(f"without pixels, {image.width}x{image.height}")
    with decoder_errors():
        pixels = pixels_of(image)  # by which Pillow has turned a TIFF upright
        exif = image.info.get("exif") if image.format != "TIFF" else None
        orientation = exif_orientation(exif) if exif else image.getexif().get(_EXIF_ORIENTATION, 1)
        return turned(pixels, orientation)


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


def passed_over(paths: Iterable[str]) -> str:
    """Says how many files are not read, by suffix: ``3 files passed over: .heic 2, .svg 1``.

    Labels and lists (``.txt``, ``.xml``, ``.json``, …), what systems leave behind (``Thumbs.db``, ``.DS_Store``) and
    folders are not counted. Empty if nothing is left.
    """
    names = [os.path.basename(path) for path in paths if not os.path.isdir(path)]
    suffixes = [os.path.splitext(name)[1].lower() for name in names if not name.startswith(".")]
    counts = Counter(suffix for suffix in suffixes if suffix not in _BESIDE_SUFFIXES)
    if not counts:
        return ""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{suffix or 'without suffix'} {count}" for suffix, count in most[:_SUFFIXES_SHOWN]]
    more = " and others" if len(counts) > _SUFFIXES_SHOWN else ""
    return f"{plural('file', counts.total())} passed over: {', '.join(shown)}{more}"


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        state, most = os.stat(path), _MOST_BYTES * max_pixels()
        # A pipe would never end, nor would a link to a device; of a folder the system says what it is.
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
            raise ImageReadError("cannot be read (a device or pipe)")
        if state.st_size > most:
            raise ImageError(
                f"{state.st_size:,} bytes are more than {_MOST_BYTES} a pixel of the limit; raise it with --max-pixels"
            )
        data = Path(path).read_bytes()
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except ValueError as error:  # a name that no file can have
        raise ImageError(f"cannot be read ({error})") from error
    except OSError as error:
        raise ImageReadError(f"cannot be read ({error.strerror})") from error
    if not data:
        raise ImageError("empty file")
    return data
