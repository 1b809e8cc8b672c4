"""What is piped into the program: an image, JPEGs, or another video."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from yolorep.errors import UserError
from yolorep.images import ImageError, decode_image
from yolorep.media.frames import Frame, Unreadable, read_frames
from yolorep.media.jpegs import JPEG_START, split_jpegs

#: What its frames say they come from.
STDIN = "stdin"

_CHUNK, _LONGEST_MAGIC = 65536, 4
#: In a JPEG that is followed by other views of its scene, which are no frames.
_MULTI_PICTURE = b"MPF\0"
#: How images of other kinds begin, and where a PNG ends.
_IMAGE_STARTS = (b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_MORE = Unreadable(STDIN, "more follows the first image, expected nothing; only JPEGs can follow each other")


def open_stdin(*, vid_stride: int = 1) -> Iterator[Frame | Unreadable]:
    """Reads what is piped into the program: one image file, JPEGs, whose frames come as they arrive, or a video file.

    Any other video than JPEGs is read to its end before its first frame comes: OpenCV reads videos from files only.

    Raises:
        UserError: at the call, if nothing is piped.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(
            "source '-': expected an image, a video or a stream of JPEGs piped into the program, found no pipe; "
            "write, for example, cat street.jpg | yolorep detect --source -"
        )
    return _read_pipe(sys.stdin.buffer, vid_stride)


def _read_pipe(stream: BinaryIO, vid_stride: int) -> Iterator[Frame | Unreadable]:
    chunks = iter(lambda: stream.read1(_CHUNK), b"")  # type: ignore[attr-defined]  # what is there, without waiting
    head = b""
    while len(head) < _LONGEST_MAGIC and (chunk := next(chunks, b"")):
        head += chunk
    everything = itertools.chain([head], chunks)
    if not head:
        yield Unreadable(STDIN, "nothing arrived")
    elif head.lstrip().startswith(b"--"):  # the boundary of a part
        yield from _read_stream(_split(everything), vid_stride)
    elif head.startswith(JPEG_START):
        yield from _read_jpegs(_split(everything), vid_stride)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, STDIN)
            with open(path, "wb") as file:
                file.writelines(everything)
            for item in read_frames(path, vid_stride=vid_stride):
                yield replace(item, path=STDIN)
            if head.startswith(b"\x89PNG") and _is_image(Path(path).read_bytes().partition(_PNG_END)[2]):
                yield _MORE


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The JPEGs, and how another image that follows them begins."""
    rest = yield from split_jpegs(chunks)
    if _is_image(rest):
        yield rest


def _is_image(data: bytes) -> bool:
    return data.lstrip(b"\0\r\n").startswith((JPEG_START, *_IMAGE_STARTS))


def _read_jpegs(jpegs: Iterator[bytes], vid_stride: int) -> Iterator[Frame | Unreadable]:
    """One JPEG alone is a still image, several are a stream."""
    first = next(jpegs)
    second = b"" if _MULTI_PICTURE in first else next(jpegs, b"")
    if second.startswith(JPEG_START):
        yield from _read_stream(itertools.chain([first, second], jpegs), vid_stride)
        return
    try:
        yield Frame(decode_image(first), STDIN, 0, 1, None, is_video=False)
    except ImageError as error:
        yield Unreadable(STDIN, str(error))
    if second:
        yield _MORE


def _read_stream(jpegs: Iterator[bytes], vid_stride: int) -> Iterator[Frame | Unreadable]:
    start = 0.0
    for index, jpeg in enumerate(jpegs):
        if not jpeg.startswith(JPEG_START):
            yield _MORE
            return
        start = start or time.monotonic()
        if index % vid_stride:
            continue
        seconds = time.monotonic() - start
        try:
            yield Frame(decode_image(jpeg), STDIN, index, None, None, is_video=True, time=seconds)
        except ImageError as error:
            yield Unreadable(STDIN, f"frame {index + 1}: {error}")
