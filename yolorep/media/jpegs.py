"""Cutting a stream of bytes into the JPEGs it holds, as they arrive."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
#: What may stand before a JPEG: white space, and the boundary and header of a part of a multipart stream.
_GAP = re.compile(rb"[\s\0]*(?:--[^\xff]*)?")
#: Where a part begins.
_PART = re.compile(rb"(?:^|\n)--")
#: A marker inside coded pixels that is neither a stuffed byte nor a restart: the end of the scan.
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SCAN, _WITHOUT_LENGTH = 0xDA, {0x01, *range(0xD0, 0xD8)}
_LONGEST_GAP, _LONGEST_MAGIC = 65536, 64
#: Of one JPEG in a stream that may hold anything.
MOST_BYTES = 1 << 25


def split_jpegs(chunks: Iterable[bytes]) -> Generator[bytes, None, bytes]:
    """Yields each JPEG once its last byte has arrived; pictures inside one (thumbnails) stay where they are.

    Args:
        chunks: the stream, cut anywhere: JPEGs one behind another, as ``ffmpeg -f mjpeg`` writes them, or the parts of
            a multipart stream, as cameras send them. It ends where anything else follows a JPEG. The last one may be
            cut off.

    Returns:
        How what follows begins.
    """
    stream = _Arrived(chunks)
    while _skip_gap(stream):
        end = _end_of_jpeg(stream)
        yield bytes(stream.data[:end])
        del stream.data[:end]
    stream.holds(_LONGEST_MAGIC)
    return bytes(stream.data[:_LONGEST_MAGIC])


def find_jpegs(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields each JPEG of a stream that may hold anything beside them, and an empty one for every part that is none."""
    stream = _Arrived(chunks, most=MOST_BYTES)
    while (garbage := _skip_garbage(stream)) is not None:
        yield from [b""] * garbage
        end = _end_of_jpeg(stream)
        yield bytes(stream.data[:end])
        del stream.data[:end]


class _Arrived:
    """What has arrived of a stream and was not taken away.

    Attributes:
        data: the bytes.
    """

    def __init__(self, chunks: Iterable[bytes], *, most: int | None = None) -> None:
        self.data = bytearray()
        self._chunks = iter(chunks)
        self._most = most

    def more(self) -> bool:
        """Waits for another chunk; False at the end, or where there are too many bytes for one JPEG."""
        if self._most and len(self.data) >= self._most:
            return False
        chunk = next(self._chunks, b"")
        self.data += chunk
        return bool(chunk)

    def holds(self, size: int) -> bool:
        """Waits until there are ``size`` bytes; False if there never will be."""
        while len(self.data) < size:
            if not self.more():
                return False
        return True


def _skip_gap(stream: _Arrived) -> bool:
    """Takes away what stands before a JPEG; False if none follows."""
    while True:
        gap = _GAP.match(stream.data)
        size = gap.end() if gap else 0
        begins = stream.data[size : size + len(JPEG_START)]
        if begins == JPEG_START:
            del stream.data[:size]
            return True
        if len(begins) == len(JPEG_START) or size > _LONGEST_GAP:
            return False
        if not stream.more():
            del stream.data[:size]
            return False


def _skip_garbage(stream: _Arrived) -> int | None:
    """Takes away everything before a JPEG; returns how many parts of it are none, None if no JPEG follows."""
    parts, clean, searched = 0, True, 0
    while (start := stream.data.find(JPEG_START + b"\xff", searched)) < 0:
        if len(stream.data) > _LONGEST_GAP:
            parts, clean = parts + len(_PART.findall(stream.data)), False
            del stream.data[: -len(JPEG_START)]
        searched = max(len(stream.data) - len(JPEG_START), 0)  # the first bytes of a JPEG may have arrived
        if not stream.more():
            return None
    skipped = bytes(stream.data[:start])
    del stream.data[:start]
    parts += len(_PART.findall(skipped))
    return max(parts - 1, 0 if clean and _GAP.fullmatch(skipped) else 1)


def _end_of_jpeg(stream: _Arrived) -> int:
    """Where the JPEG ends that the stream begins with: behind its last marker, or where another or no data follow."""
    position = segment = len(JPEG_START)
    while stream.holds(position + 2) and stream.data[position] == 0xFF:
        segment = position
        marker = stream.data[position + 1]
        if marker == JPEG_END[1]:
            return position + len(JPEG_END)
        if marker == JPEG_START[1]:  # of the next: this one is cut off
            return position
        if marker == 0xFF:  # filling
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif stream.holds(position + 4):
            position += 2 + int.from_bytes(stream.data[position + 2 : position + 4], "big")
            if marker == _SCAN:
                position = _end_of_scan(stream, position)
        else:
            break
    following = stream.data.find(JPEG_START + b"\xff", segment)  # a segment was cut off: it claims bytes of others
    return len(stream.data) if following < 0 else following


def _end_of_scan(stream: _Arrived, position: int) -> int:
    while not (marker := _SCAN_END.search(stream.data, position)):
        position = max(position, len(stream.data) - 1)  # its first byte may have arrived
        if not stream.more():
            return len(stream.data)
    return marker.start()
