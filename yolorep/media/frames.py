"""From one image, video, camera or URL to its frames."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.decoding import quiet_opencv
from yolorep.image_headers import check_pixels
from yolorep.images import IMAGE_SUFFIXES, ImageError, Note, decode_image, read_image
from yolorep.media.urls import WEB_SCHEMES, is_camera, is_stream, scheme_of, suffix_of
from yolorep.media.web import SourceError, fetch

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
})
# fmt: on
#: Reads of a video that may fail in a row, if it states its number of frames and if it does not.
MOST_FAILED, FEW_FAILED = 10_000, 100
#: Of an image on a server: bytes, and seconds until it is here.
MOST_BYTES, MOST_SECONDS = 1 << 28, 60.0


@dataclass(frozen=True)
class Frame:
    """One image to look at.

    Attributes:
        image: (height, width, 3) BGR uint8.
        path: the file, URL (without passwords) or camera index it comes from; ``stdin``, ``screen``, or empty where it
            is none of these.
        index: its number in the video; of a still image its position in the folder, list or pattern. Counted from 0.
        total: how many frames the source will yield as far as known (some containers only estimate it), None for
            live streams, 1 for a still image.
        fps: frames a second as they are yielded (a video's own divided by the stride), None if unknown.
        is_video: False for a still image.
        time: seconds since the first frame: as the video says, for a live stream as the clock says.
        captured: of a live stream, when the frame arrived, in seconds since 1970; None for files.
    """

    image: NDArray[np.uint8]
    path: str
    index: int
    total: int | None
    fps: float | None
    is_video: bool
    time: float = 0.0
    captured: float | None = None


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
    if is_stream(entry) and scheme_of(entry) not in WEB_SCHEMES:
        return False
    suffix = suffix_of(entry)
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES or not os.path.isfile(entry):
        return suffix in IMAGE_SUFFIXES
    with open(entry, "rb") as file:
        animated = file.read(4) == b"GIF8"  # of which OpenCV would read the first frame
    return not animated and bool(cv2.haveImageReader(opencv_name(entry)))


def _read_image(entry: str, position: int, note: Note | None) -> Frame | Unreadable:
    try:
        if is_stream(entry):
            image = decode_image(fetch(entry, most_bytes=MOST_BYTES, seconds=MOST_SECONDS), note=note)
        else:
            image = read_image(entry, note=note)
    except (ImageError, SourceError) as error:
        return Unreadable(entry, str(error))
    return Frame(image, entry, position, 1, None, is_video=False)


def quiet_videos() -> None:
    """Keeps OpenCV and FFmpeg from writing to stderr, unless the environment asks: what is wrong is said here."""
    quiet_opencv()
    _quiet_ffmpeg()


@cache
def _quiet_ffmpeg() -> None:
    variable = "OPENCV_FFMPEG_LOGLEVEL"
    if variable not in os.environ:
        os.environ[variable] = "-8"  # AV_LOG_QUIET
        cv2.VideoCapture("", cv2.CAP_FFMPEG)  # it is read when the first video is opened, and never again
        del os.environ[variable]


def open_capture(entry: str | int) -> cv2.VideoCapture:
    """A video, a URL or a camera, as OpenCV opens it; a name that is no text too, on which OpenCV would crash."""
    return cv2.VideoCapture(opencv_name(entry) if isinstance(entry, str) else entry)


def opencv_name(path: str) -> str:
    """A path as OpenCV can be given it: as bytes, which its types leave out, where they are no text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)  # type: ignore[return-value]
    return path


def _read_video(entry: str, vid_stride: int) -> Iterator[Frame | Unreadable]:
    if not is_stream(entry) and not _has_content(entry):
        yield Unreadable(entry, "the file is empty")
        return
    capture = open_capture(int(entry) if is_camera(entry) else entry)
    try:
        count = int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0)) if capture.isOpened() else 0
        if not capture.isOpened():
            yield Unreadable(entry, f"OpenCV cannot open this {_what(entry)}")
        elif fault := _too_large(capture):
            yield Unreadable(entry, fault)
        else:
            yield from _read_file(capture, entry, count=count, vid_stride=vid_stride)
    finally:
        capture.release()


def _too_large(capture: cv2.VideoCapture) -> str:
    """Why the frames of a video are not decoded: their size; empty if they are."""
    try:
        check_pixels(int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
    except ImageError as error:
        return f"frames of {error}"
    return ""


def _read_file(capture: cv2.VideoCapture, entry: str, *, count: int, vid_stride: int) -> Iterator[Frame | Unreadable]:
    """Reads a video to the number of frames it states, past those that cannot be decoded."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate < math.inf else 0.0
    fps = rate / vid_stride or None
    total = math.ceil(count / vid_stride) if count else None
    index, lost, failed = 0, 0, 0  # of the frame that comes next; frames lost before it; reads that failed since
    before = 0.0  # seconds of the last frame
    most = MOST_FAILED if count and not is_stream(entry) else FEW_FAILED  # a network may take its time to fail
    while not failed or failed < (min(count - index, most) if count else most):
        number, seconds, image = index, 0.0, None
        grabbed = capture.grab()
        if grabbed:
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if failed:  # one read may fail for several frames; the clock knows how many
                passed = round((seconds - before) * rate) - 1 if index else round(seconds * rate)
                number += max(failed, min(passed, count - 1 - index))
            if seconds <= 0 and rate:  # not every decoder tells
                seconds = number / rate
            if number % vid_stride == 0:
                grabbed, image = capture.retrieve()
        if not grabbed:
            failed += 1
            continue
        lost, index, before, failed = lost + number - index, number + 1, seconds, 0
        if image is not None:
            yield Frame(np.asarray(image, np.uint8), entry, number, total, fps, is_video=True, time=seconds)
    missing = max(count - index, 0)
    if index == 0:
        yield Unreadable(entry, f"not one frame of this {_what(entry)} can be decoded")
    elif not lost and missing <= max(2, count // 50):  # containers may be off by a frame or two
        return
    elif lost or before * rate > index:  # decoders may drop some in silence
        yield Unreadable(entry, f"{lost + missing}{f' of {count}' if count else ''} frames cannot be decoded")
    else:
        yield Unreadable(entry, f"only the first {index} of {count} frames can be decoded")


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return True  # what is wrong shows when it is opened


def _what(entry: str) -> str:
    return "camera" if is_camera(entry) else "URL" if is_stream(entry) else "video"
