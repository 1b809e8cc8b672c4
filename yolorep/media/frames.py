"""From one image, video, camera or URL to its frames."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.image_headers import check_pixels
from yolorep.images import IMAGE_SUFFIXES, ImageError, Note, read_image

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
})
# fmt: on
URL_SCHEMES = frozenset({"http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp"})


@dataclass(frozen=True)
class Frame:
    """One image to look at.

    Attributes:
        image: (height, width, 3) BGR uint8.
        path: the file, URL or camera index it comes from; ``stdin``, ``screen``, or empty where it is none of these.
        index: its number in the video; of a still image its position in the folder, list or pattern. Counted from 0.
        total: how many frames the source will yield as far as known (some containers only estimate it), None for
            live streams, 1 for a still image.
        fps: frames a second as they are yielded (a video's own divided by the stride), None if unknown.
        is_video: False for a still image.
        time: seconds since the first frame: as the video says, for a live stream as the clock says.
    """

    image: NDArray[np.uint8]
    path: str
    index: int
    total: int | None
    fps: float | None
    is_video: bool
    time: float = 0.0


@dataclass(frozen=True)
class Unreadable:
    """An input, or the rest of a video, that could not be read.

    Attributes:
        path: the file, URL or camera index.
        reason: what is wrong with it.
    """

    path: str
    reason: str


def read_frames(
    entry: str, *, position: int = 0, vid_stride: int = 1, note: Note | None = None
) -> Iterator[Frame | Unreadable]:
    """Reads one file, URL or camera index; what is wrong with it comes as ``Unreadable``.

    Args:
        entry: the path of an existing image or video, or one that :func:`is_stream`.
        position: the ``index`` of an image.
        vid_stride: yield every N-th frame of a video or stream.
        note: called with how unusual numbers of an image are taken.
    """
    if is_image(entry):
        yield _read_image(entry, position, note)
    else:
        yield from _read_video(entry, vid_stride)


def is_image(entry: str) -> bool:
    """Whether it is an image, by its suffix; a file whose suffix says nothing is looked into."""
    suffix = suffix_of(entry)
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES or not os.path.isfile(entry):
        return suffix in IMAGE_SUFFIXES
    with open(entry, "rb") as file:
        animated = file.read(4) == b"GIF8"  # of which OpenCV would read the first frame
    return not animated and bool(cv2.haveImageReader(entry))


def is_stream(entry: str) -> bool:
    """Whether it is a camera index or a URL."""
    return _is_camera(entry) or ("://" in entry and entry.partition("://")[0].lower() in URL_SCHEMES)


def _is_camera(entry: str) -> bool:
    """Whether it is a camera index: a number that OpenCV can take."""
    return entry.isdecimal() and len(entry) < 10


def suffix_of(entry: str) -> str:
    """The suffix of a path or URL, in lower case and with its dot."""
    try:
        path = urlsplit(entry).path if "://" in entry else entry
    except ValueError:  # [ without ]
        return ""
    return os.path.splitext(path)[1].lower()


def _read_image(entry: str, position: int, note: Note | None) -> Frame | Unreadable:
    if is_stream(entry):
        capture = cv2.VideoCapture(entry)
        found, picture = capture.read()
        capture.release()
        if not found:
            return Unreadable(entry, "OpenCV cannot read an image from this URL")
        image = np.asarray(picture, np.uint8)
    else:
        try:
            image = read_image(entry, note=note)
        except ImageError as error:
            return Unreadable(entry, str(error))
    return Frame(image, entry, position, 1, None, is_video=False)


def _read_video(entry: str, vid_stride: int) -> Iterator[Frame | Unreadable]:
    if not is_stream(entry) and os.path.getsize(entry) == 0:
        yield Unreadable(entry, "the file is empty")
        return
    capture = cv2.VideoCapture(int(entry) if _is_camera(entry) else entry)
    try:
        if not capture.isOpened():
            yield Unreadable(entry, f"OpenCV cannot open this {_what(entry)}")
            return
        if fault := _too_large(capture):
            yield Unreadable(entry, fault)
            return
        count = int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = rate / vid_stride if 0 < rate < math.inf else None
        total = math.ceil(count / vid_stride) if count else None
        live = is_stream(entry) and not count
        index, start = 0, 0.0
        while capture.grab():
            start = start or time.monotonic()
            if index % vid_stride == 0:
                seconds = time.monotonic() - start if live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if not live and seconds <= 0 and fps:  # not every decoder tells
                    seconds = index / rate
                found, image = capture.retrieve()
                if not found:
                    break
                yield Frame(np.asarray(image, np.uint8), entry, index, total, fps, is_video=True, time=seconds)
            index += 1
        if index == 0:
            yield Unreadable(entry, f"not one frame of this {_what(entry)} can be decoded")
        elif live:
            yield Unreadable(entry, f"the stream ended after {index} frames")
        elif index < count - max(2, count // 50):  # containers may be off by a frame or two
            yield Unreadable(entry, f"only the first {index} of {count} frames can be decoded")
    finally:
        capture.release()


def _too_large(capture: cv2.VideoCapture) -> str:
    """Why the frames of a video are not decoded: their size; empty if they are."""
    try:
        check_pixels(int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
    except ImageError as error:
        return f"frames of {error}"
    return ""


def _what(entry: str) -> str:
    return "camera" if _is_camera(entry) else "URL" if is_stream(entry) else "video"
