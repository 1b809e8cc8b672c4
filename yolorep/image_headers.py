"""What an image file says about itself, read before a pixel is decoded: format, size, orientation, kind of numbers."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, ImageFile

#: Formats that are decoded, as Pillow names them; HEIF is Pillow's once a package has registered it. Others are not
#: even tried: Pillow hands some to programs of their own.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_AND_HEIF = (b"ftypavif", b"ftypavis", b"ftypheic", b"ftypheix", b"ftypmif1")
#: More passes than any encoder makes; a file of a few kilobytes could ask for thousands.
_MAX_SCANS = 50

_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES = 256, 257, 258, 274, 277
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 322, 323, 338, 339
#: Among the extra samples: alpha that the colours have not been multiplied by.
_ALPHA = 2
#: Type of a tag's values -> struct format. Rationals are two numbers.
_TAG_TYPES = {
    1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q",
}  # fmt: skip


class ImageError(ValueError):
    """A file is not a complete image; the text says why, without the file's name."""


class ImageReadError(ImageError):
    """The bytes of a file could not be read: no permission, a disk or network fault. Next time they may be."""


def max_pixels() -> int:
    """The most pixels an image may have: Pillow's ``Image.MAX_IMAGE_PIXELS``, 89 million unless it is set."""
    return sys.maxsize if Image.MAX_IMAGE_PIXELS is None else int(Image.MAX_IMAGE_PIXELS)


def limit_pixels(limit: int | None) -> None:
    """Sets the most pixels an image may have, for the whole process and for Pillow too; None leaves it as it is."""
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = limit


def check_pixels(height: int, width: int, *, each: int = 1) -> None:
    """Refuses a picture of more pixels than :func:`max_pixels`; one of large numbers counts ``each`` times.

    Raises:
        ImageError: saying how the limit is raised.
    """
    if height * width * each > max_pixels():
        counted = f", which count {each} times for their large numbers," if each > 1 else ""
        raise ImageError(
            f"{width}x{height} pixels{counted} are more than the limit of {max_pixels():,}; raise it with --max-pixels"
        )


@dataclass(frozen=True)
class Header:
    """What a file says about its first picture.

    Attributes:
        format: as Pillow names it.
        size: height and width in pixels as stored, before the picture is turned upright.
        orientation: 1 to 8 as EXIF counts them; 1, upright, where the file says nothing or nonsense.
        numbers: of one sample: ``uint8``, ``uint16``, ``float32``, …
        blended: whether OpenCV would multiply a TIFF's colours by its alpha.
        orientation_at: where a TIFF holds its orientation tag, 0 if it has none.
    """

    format: str
    size: tuple[int, int]
    orientation: int = 1
    numbers: str = "uint8"
    blended: bool = False
    orientation_at: int = 0

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width of the picture turned upright."""
        return self.size[::-1] if self.orientation > 4 else self.size


def read_header(data: bytes) -> Header:
    """Reads the header of an image file, and looks at nothing else.

    The orientation is the first value of the EXIF tag (of a TIFF, of its own tag), whatever number type and byte order
    it has; of an AVIF, what its transformations say.

    Raises:
        ImageError: if it is no image, or one of more pixels than :func:`max_pixels`.
    """
    if data[:4] in _TIFF_STARTS:
        return _tiff_header(data)
    png_exif = _png_exif(data) if data.startswith(_PNG_START) else b""
    with decoder_errors(), open_pillow(data) as image:
        exif = png_exif or _raw_profile(image) if image.format == "PNG" else image.info.get("exif")
        height, width = image.height, image.width
        if height < 1 or width < 1:
            raise ImageError(f"without pixels, {width}x{height}")
        # The decoder of JPEG 2000 holds 32 bits of every colour.
        check_pixels(height, width, each=max(1, len(image.getbands()) - 1) if image.format == "JPEG2000" else 1)
        progressive = image.info.get("progressive") or image.info.get("progression")
        if progressive and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
            raise ImageError(f"{scans} passes over the picture are more than the limit of {_MAX_SCANS}")
        numbers = "float32" if image.mode == "F" else "uint8"
        return Header(str(image.format), (height, width), exif_orientation(exif), numbers)


def open_pillow(data: bytes) -> ImageFile.ImageFile:
    """A file as a lazy Pillow image, tried as the formats that are decoded and as no other.

    Raises:
        ImageError: if it is none of these.
    """
    Image.preinit()
    formats = ("TIFF",) if data[:4] in _TIFF_STARTS else _FORMATS
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        # Not Image.open: it compares the size with a limit of its own, and warns.
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = accept(data[:16]) if factory and accept else False
        if isinstance(accepted, str):
            raise ImageError(f"{name}, which this installation of Pillow cannot decode")
        if factory and accepted:
            return factory(io.BytesIO(data), "")
    if data[4:12] in _AVIF_AND_HEIF:
        raise ImageError("AVIF or HEIF, which this installation of Pillow cannot decode")
    raise ImageError("not an image")


@contextmanager
def decoder_errors() -> Iterator[None]:
    """Turns whatever a decoder raises into ImageError."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more pixels than the limit of {max_pixels():,}; raise it with --max-pixels") from error
    except MemoryError as error:
        raise ImageError("more memory is needed than there is") from error
    except Exception as error:  # a decoder raises what its code runs into: struct.error, KeyError, ZeroDivisionError, …
        text = " ".join(str(error).split())[:200]
        if text == "unknown pixel mode":
            raise ImageError("of a kind that neither Pillow nor OpenCV decodes") from error
        raise ImageError("truncated" if "truncated" in text.lower() else f"damaged ({text})") from error


def exif_orientation(exif: object) -> int:
    """The orientation in an EXIF block, with or without its name before it; 1 where it holds none."""
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    tags = _Tags.read(block)
    return tags.orientation if tags else 1


@dataclass(frozen=True)
class _Tags:
    """The first directory of a TIFF or EXIF block.

    Attributes:
        block: the TIFF or EXIF block.
        order: of its bytes, as struct says it.
        big: whether it is a BigTIFF.
        entries: tag -> where its first entry lies.
        repeated: tags that have another one.
    """

    block: bytes
    order: str
    big: bool
    entries: dict[int, int]
    repeated: set[int]

    @classmethod
    def read(cls, block: bytes) -> _Tags | None:
        """None if the block holds no directory."""
        if block[:4] not in _TIFF_STARTS:
            return None
        order, big = "<" if block[:2] == b"II" else ">", b"+" in block[2:4]
        try:
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), block, 8 if big else 4)
            (count,) = struct.unpack_from(order + ("Q" if big else "H"), block, start)
        except (struct.error, OverflowError):
            return None
        step, start = (20, start + 8) if big else (12, start + 2)
        entries: dict[int, int] = {}
        repeated: set[int] = set()
        for position in range(start, min(start + count * step, len(block) - step + 1), step):
            (tag,) = struct.unpack_from(order + "H", block, position)
            if entries.setdefault(tag, position) != position:
                repeated.add(tag)
        return cls(block, order, big, entries, repeated)

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag, ``default`` if it is missing or no whole number."""
        position = self.entries.get(tag)
        if position is None:
            return default
        kind, count = struct.unpack_from(self.order + ("HQ" if self.big else "HI"), self.block, position + 2)
        form, room = _TAG_TYPES.get(kind), 8 if self.big else 4
        if form is None or count < 1:
            return default
        place = position + (12 if self.big else 8)
        try:
            if struct.calcsize("=" + form) * count > room:
                (place,) = struct.unpack_from(self.order + ("Q" if self.big else "I"), self.block, place)
            values = struct.unpack_from(self.order + form, self.block, place)
        except (struct.error, OverflowError):
            return default
        if len(values) == 2:
            values = (values[0] / values[1],) if values[1] else (default,)
        return int(values[0]) if values[0] == values[0] // 1 else default

    @property
    def orientation(self) -> int:
        value = self.number(_ORIENTATION, 1)
        return value if 1 <= value <= 8 else 1


def _tiff_header(data: bytes) -> Header:
    tags = _Tags.read(data)
    if tags is None:
        raise ImageError("truncated" if len(data) < 1024 else "damaged (no directory)")
    if tags.repeated & {_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT}:
        raise ImageError("damaged (a tag is there twice)")  # of which one decoder takes this, another that
    height, width, samples = tags.number(_HEIGHT, 0), tags.number(_WIDTH, 0), tags.number(_SAMPLES, 1)
    if height < 1 or width < 1:
        raise ImageError(f"without pixels, {width}x{height}")
    kind = {2: "int", 3: "float"}.get(tags.number(_SAMPLE_FORMAT, 1), "uint")
    size = next((size for size in (1, 2, 4) if tags.number(_BITS, 1) <= 8 * size), 8)
    # Four bytes a pixel are what any decoder takes.
    check_pixels(height, width, each=max(1, samples * size // 4) if size > 2 else 1)
    check_pixels(tags.number(_TILE_HEIGHT, 1), tags.number(_TILE_WIDTH, 1))
    return Header(
        "TIFF",
        (height, width),
        tags.orientation,
        f"{kind}{8 * size}",
        blended=tags.number(_EXTRA_SAMPLES, 0) == _ALPHA and (samples == 4 or size == 1),
        orientation_at=tags.entries.get(_ORIENTATION, 0),
    )


def upright_tiff(data: bytes, header: Header) -> bytes:
    """A TIFF whose orientation tag says "upright": decoders read it each in its way and turn the picture."""
    if not header.orientation_at:
        return data
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    entry = struct.pack(order + ("HHQHHI" if big else "HHIHH"), _ORIENTATION, 3, 1, 1, 0, *((0,) if big else ()))
    at = header.orientation_at
    return data if data[at : at + len(entry)] == entry else data[:at] + entry + data[at + len(entry) :]


def _png_exif(data: bytes) -> bytes:
    """The EXIF block of a PNG, which may follow the pixels, where Pillow finds it after decoding only.

    Raises:
        ImageError: if the PNG has two headers, of which readers take different ones, or two colour profiles, each of
            which would be inflated.
    """
    exif, once, position = b"", set(), len(_PNG_START)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in once:
            raise ImageError(f"damaged (two chunks {kind.decode()})")
        if kind in (b"IHDR", b"iCCP"):
            once.add(kind)
        if kind == b"eXIf":
            exif = exif or data[position + 8 : position + 8 + length]
        position += length + 12
    return exif


def _raw_profile(image: Image.Image) -> bytes:
    """An EXIF block as programs wrote it into a PNG's text before there was a chunk for it: hexadecimal."""
    text = image.info.get("Raw profile type exif")
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) if isinstance(text, str) else b""
    except ValueError:
        return b""
