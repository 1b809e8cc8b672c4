"""Image files written byte by byte, as no library writes them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

#: Number type of a tag -> its number and struct format.
TAG_TYPES = {
    "BYTE": (1, "B"),
    "ASCII": (2, "c"),
    "SHORT": (3, "H"),
    "LONG": (4, "I"),
    "RATIONAL": (5, "I"),
    "SBYTE": (6, "b"),
    "SSHORT": (8, "h"),
    "SLONG": (9, "i"),
    "FLOAT": (11, "f"),
    "DOUBLE": (12, "d"),
}

Tag = tuple[int, str, list[Any]]


def directory(tags: list[Tag], order: str, *, start: int, next_offset: int = 0) -> bytes:
    """A TIFF directory that lies at ``start``, its long values behind it."""
    entries, behind = struct.pack(order + "H", len(tags)), b""
    end = start + 2 + 12 * len(tags) + 4
    for tag, kind, values in sorted(tags, key=lambda entry: entry[0]):
        number, form = TAG_TYPES[kind]
        raw = struct.pack(f"{order}{len(values)}{form}", *values)
        count = len(values) // 2 if kind == "RATIONAL" else len(values)
        entries += struct.pack(order + "HHI", tag, number, count)
        if len(raw) > 4:
            entries += struct.pack(order + "I", end + len(behind))
            behind += raw + b"\0" * (len(raw) % 2)
        else:
            entries += raw.ljust(4, b"\0")
    return entries + struct.pack(order + "I", next_offset) + behind


def exif_block(values: list[Any], kind: str = "SHORT", order: str = "<") -> bytes:
    """An EXIF block that holds an orientation and nothing else, without its name."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return head + directory([(274, kind, values)], order, start=8)


def tiff(pixels: np.ndarray, *tags: Tag, order: str = "<", deflate: bool = False, colours: int | None = None) -> bytes:
    """A TIFF of one strip that holds any array (height, width) or (height, width, channels)."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    strip = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    strip = zlib.compress(strip) if deflate else strip
    kinds = {"u": 1, "i": 2, "f": 3}
    own: list[Tag] = [
        (256, "LONG", [width]),
        (257, "LONG", [height]),
        (258, "SHORT", [8 * pixels.dtype.itemsize] * channels),
        (259, "SHORT", [8 if deflate else 1]),
        (262, "SHORT", [(2 if channels > 2 else 1) if colours is None else colours]),
        (273, "LONG", [8]),
        (277, "SHORT", [channels]),
        (278, "LONG", [height]),
        (279, "LONG", [len(strip)]),
        (339, "SHORT", [kinds[pixels.dtype.kind]] * channels),
    ]
    strip += b"\0" * (len(strip) % 2)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(strip))
    given = {tag for tag, _, _ in tags}
    own = [entry for entry in own if entry[0] not in given]
    return head + strip + directory([*own, *tags], order, start=8 + len(strip))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def blank_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, a thousand times smaller than its pixels."""
    packer, row = zlib.compressobj(9), b"\0" * (1 + -(-width // 8))
    counts = [min(1000, height - start) for start in range(0, height, 1000)]
    rows = b"".join(packer.compress(row * count) for count in counts) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def with_exif(picture: np.ndarray, kind: str, block: bytes) -> bytes:
    """A file of an RGB picture, losslessly where the format can, with an EXIF block put in as it is."""
    image, out = Image.fromarray(picture), io.BytesIO()
    if kind in ("JPEG", "MPO"):
        more: dict[str, Any] = {"save_all": True, "append_images": [image]} if kind == "MPO" else {}
        image.save(out, kind, quality=98, subsampling=0, **more)
        data, segment = out.getvalue(), b"Exif\0\0" + block
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    if kind == "WEBP":
        image.save(out, kind, lossless=True, exif=block)
        return out.getvalue()
    image.save(out, "PNG")
    data, chunk = out.getvalue(), png_chunk(b"eXIf", block)
    at = 33 if kind == "PNG" else len(data) - 12  # behind the header, or behind the pixels
    return data[:at] + chunk + data[at:]
