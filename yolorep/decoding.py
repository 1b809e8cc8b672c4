"""The bytes of an image file to BGR pixels: one reader of the header, two decoders, one rule for unusual numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from yolorep.image_headers import Header, ImageError, decoder_errors, open_pillow, read_header, upright_tiff

#: Called with what was done to the values of an image, if anything was.
Note = Callable[[str], None]

#: Formats that OpenCV decodes, faster; of the others Pillow's header and OpenCV's pixels need not be the same picture.
_OPENCV_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP", "PPM", "TIFF"})
_JPEG_END = b"\xff\xd9"
_SHRINK_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
#: Rows converted at once, so that temporary arrays stay small.
_ROWS = 256
#: Orientations that are mirrored, after rows and columns have changed places above 4 -> OpenCV's axis.
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}


def decode(data: bytes, *, shrink: int = 1, note: Note | None = None) -> tuple[Header, NDArray[np.uint8]]:
    """Decodes the bytes of an image file.

    Returns:
        (header, pixels (height, width, 3) uint8 BGR, C-contiguous, upright). Their height and width are the header's
        ``upright_size``; for a JPEG, whose decoder can shrink, that divided by ``shrink`` and rounded up.

    Raises:
        ImageError: if they are truncated, no image, of too many pixels, or of numbers whose range is not known.
    """
    header = read_header(data)
    if header.format == "TIFF":
        data = upright_tiff(data, header)
    if header.numbers in ("uint8", "uint16"):
        pixels = None if _needs_pillow(data, header) else _decode_cv2(data, header, shrink)
        # OpenCV refuses some files that are whole, such as a PNG without its last chunk.
        pixels = _decode_pillow(data) if pixels is None else pixels
    else:
        pixels = bytes_of(_decode_numbers(data, header), note)
    height, width = header.size
    if pixels.shape[:2] not in ((height, width), (-(-height // shrink), -(-width // shrink))):
        raise ImageError(f"damaged (its header says {width}x{height}, it holds {pixels.shape[1]}x{pixels.shape[0]})")
    return header, turned(pixels, header.orientation)


def turned(pixels: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    """Turns stored pixels upright, as an EXIF orientation of 1 to 8 says; anything else says nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    flip = _FLIPS.get(orientation) if isinstance(orientation, int) else None
    return pixels if flip is None else np.asarray(cv2.flip(pixels, flip), np.uint8)


def bytes_of(values: NDArray[Any], note: Note | None = None) -> NDArray[np.uint8]:
    """Brings the numbers of an image to 0..255, by a rule that keeps the images of a data set comparable.

    One of the ranges that images are kept in is taken as it is, whatever part of it the image fills: 0..1 (floats
    only), 0..255 or 0..65535, the one whose upper end is within 16 times the image's largest number. Floats may leave
    it by a tenth, as resampling does, and are clipped; NaN is black. An image between or beyond these ranges is
    refused: stretched by its own extremes it would not look like its neighbours.

    Args:
        values: (height, width), (height, width, 3) or (height, width, 4), whose last channel is dropped.
        note: called with what was done.

    Returns:
        (height, width, 3) uint8, channels in the order they were.

    Raises:
        ImageError: if the range is none of these.
    """
    values = values[..., :3] if values.ndim == 3 else values
    floats = values.dtype.kind == "f"
    with np.errstate(all="ignore"):
        # Those of floats pass over NaN, and make no copy.
        least, most = (np.fmin, np.fmax) if floats else (np.minimum, np.maximum)
        low, high = float(least.reduce(values, axis=None)), float(most.reduce(values, axis=None))
    top = _range_of(low, high, floats=floats)
    if top is None:
        ranges = "0 to 1, 0 to 255 or 0 to 65535" if floats else "0 to 255 or 0 to 65535"
        raise ImageError(
            f"{values.dtype} values from {low:g} to {high:g}, expected {ranges}; save the image with 8 or 16 bits"
        )
    if note:
        note(f"{values.dtype} values taken as 0 to {top}")
    pixels = np.empty((*values.shape[:2], 3), np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = np.clip(np.rint(np.nan_to_num(values[start : start + _ROWS]) * (255 / top)), 0, 255)
        pixels[start : start + _ROWS] = rows[..., None] if rows.ndim == 2 else rows
    return pixels


def _range_of(low: float, high: float, *, floats: bool) -> int | None:
    """The upper end of the range that an image's numbers are of."""
    slack = 0.1 if floats else 0.0
    for least, top in ((-1, 1), (255 / 16, 255), (65535 / 16, 65535)) if floats else ((-1, 255), (65535 / 16, 65535)):
        if low >= -slack * top and least <= high <= top * (1 + slack):
            return top
    return None


def _needs_pillow(data: bytes, header: Header) -> bool:
    """Whether OpenCV would not decode the file, or get it wrong."""
    if header.format in ("JPEG", "MPO"):
        # OpenCV 4 paints the missing part of a truncated JPEG grey. Most whole ones end with the marker, and quickly.
        return not (data.endswith(_JPEG_END) or data.rstrip(b"\0").endswith(_JPEG_END))
    return header.format not in _OPENCV_FORMATS or header.blended


def _decode_cv2(data: bytes, header: Header, shrink: int) -> NDArray[np.uint8] | None:
    flag = _SHRINK_FLAGS[shrink] if header.format in ("JPEG", "MPO") else cv2.IMREAD_COLOR
    image = _imdecode(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if image is None else np.asarray(image, np.uint8)


def _imdecode(data: bytes, flags: int) -> NDArray[Any] | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # as when it returns None: Pillow tries too, and says what is wrong
        return None
    return None if image is None else np.asarray(image)


def _decode_pillow(data: bytes) -> NDArray[np.uint8]:
    with decoder_errors(), open_pillow(data) as image:
        return pixels_of(image)


def pixels_of(image: Image.Image, note: Note | None = None) -> NDArray[np.uint8]:
    """The pixels of a Pillow image as (height, width, 3) uint8 BGR, as they are stored.

    Raises:
        ImageError: if its numbers are of a range that is not known.
    """
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        return bytes_of(np.asarray(image), note)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        pixels[top : top + _ROWS] = np.asarray(rows.convert("RGB"))[..., ::-1]
    return pixels


def _decode_numbers(data: bytes, header: Header) -> NDArray[Any]:
    """The values of an image of floats, of signed integers or of more than 16 bits: channels in OpenCV's order."""
    numbers = np.dtype(header.numbers)
    values = _imdecode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if values is None or values.dtype.itemsize != numbers.itemsize:
        with decoder_errors(), open_pillow(data) as image:
            image.load()
            if image.mode not in ("I", "F"):
                raise ImageError(f"{header.numbers} values in a picture that only 8 or 16 bits can be read of")
            values = np.asarray(image)
    # Of 32 bits, Pillow and older versions of OpenCV have no unsigned type.
    return values.view(numbers) if values.dtype.itemsize == numbers.itemsize else values.astype(numbers)
