"""Where images come from: one iterator over files, folders, patterns, lists, videos, cameras and URLs."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.errors import UserError, suggest
from yolorep.images import IMAGE_SUFFIXES, ImageError, read_image

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
})
# fmt: on
LIST_SUFFIXES = frozenset({".txt", ".streams"})
URL_SCHEMES = frozenset({"http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp"})


@dataclass(frozen=True)
class Frame:
    """One image to look at.

    Attributes:
        image: (height, width, 3) BGR uint8.
        path: the file, URL or camera index it comes from.
        index: its position in the video, counted from 0; 0 for a still image.
        total: how many frames the source will yield as far as known (some containers only estimate it), None for
            live streams, 1 for a still image.
        fps: frames a second as they are yielded (a video's own divided by the stride), None if unknown.
        is_video: False for a still image.
    """

    image: NDArray[np.uint8]
    path: str
    index: int
    total: int | None
    fps: float | None
    is_video: bool


@dataclass(frozen=True)
class Unreadable:
    """An input, or the rest of a video, that could not be read.

    Attributes:
        path: the file, URL or camera index.
        reason: what is wrong with it.
    """

    path: str
    reason: str


def open_source(source: str | Path, *, vid_stride: int = 1) -> Iterator[Frame | Unreadable]:
    """Reads whatever ``source`` names.

    Args:
        source: an image or video file; a folder of these (not its subfolders; other files are passed over); a glob
            pattern; a ``.txt`` or ``.streams`` file with one path, URL or camera index a line (paths relative to the
            list's folder or the working directory); a camera index such as ``0``; a URL OpenCV can open (http,
            rtsp, rtmp, …). Nothing else is ever fetched from a network.
        vid_stride: yield every N-th frame of videos and streams, the first one included.

    Returns:
        An iterator over frames, those of one video consecutive, in sorted order of the paths. An input that cannot
        be read yields one ``Unreadable`` and the iteration goes on.

    Raises:
        UserError: at the call, if ``source`` names nothing; it says what was tried.
    """
    if vid_stride < 1:
        raise UserError(f"--vid-stride {vid_stride}: expected 1 or more (1 looks at every frame)")
    entries = _find(str(source))  # here, not at the first frame: a wrong source must fail before a model is loaded
    return _read(entries, vid_stride)


def _read(entries: list[str | Unreadable], vid_stride: int) -> Iterator[Frame | Unreadable]:
    for entry in entries:
        if isinstance(entry, Unreadable):
            yield entry
        elif _suffix(entry) in IMAGE_SUFFIXES:
            yield _read_image(entry)
        else:
            yield from _read_video(entry, vid_stride)


def _read_image(entry: str) -> Frame | Unreadable:
    if _is_stream(entry):
        capture = cv2.VideoCapture(entry)
        found, picture = capture.read()
        capture.release()
        if not found:
            return Unreadable(entry, "OpenCV cannot read an image from this URL")
        image = np.asarray(picture, np.uint8)
    else:
        try:
            image = read_image(entry)
        except ImageError as error:
            return Unreadable(entry, str(error))
    return Frame(image, entry, 0, 1, None, is_video=False)


def _read_video(entry: str, vid_stride: int) -> Iterator[Frame | Unreadable]:
    if not _is_stream(entry) and os.path.getsize(entry) == 0:
        yield Unreadable(entry, "the file is empty")
        return
    capture = cv2.VideoCapture(int(entry) if entry.isdecimal() else entry)
    try:
        if not capture.isOpened():
            yield Unreadable(entry, f"OpenCV cannot open this {_what(entry)}")
            return
        count = int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = rate / vid_stride if 0 < rate < math.inf else None
        total = math.ceil(count / vid_stride) if count else None
        index = 0
        while capture.grab():
            if index % vid_stride == 0:
                found, image = capture.retrieve()
                if not found:
                    break
                yield Frame(np.asarray(image, np.uint8), entry, index, total, fps, is_video=True)
            index += 1
        if index == 0:
            yield Unreadable(entry, f"not one frame of this {_what(entry)} can be decoded")
        elif _is_stream(entry) and not count:
            yield Unreadable(entry, f"the stream ended after {index} frames")
        elif index < count - max(2, count // 50):  # containers may be off by a frame or two
            yield Unreadable(entry, f"only the first {index} of {count} frames can be decoded")
    finally:
        capture.release()


def _find(source: str) -> list[str | Unreadable]:
    """Lists the inputs ``source`` names."""
    if _is_stream(source):
        return [source]
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return _media(f"folder '{source}'", [os.path.join(path, name) for name in os.listdir(path)])
    if os.path.isfile(path):
        if _suffix(path) in LIST_SUFFIXES:
            return _find_listed(path)
        if _is_media(path):
            return [path]
        raise UserError(
            f"{source}: expected an image ({_known(IMAGE_SUFFIXES)}), a video ({_known(VIDEO_SUFFIXES)}) "
            f"or a list ({_known(LIST_SUFFIXES)}), found a file with suffix '{_suffix(path)}'"
        )
    if glob.has_magic(path) and (matches := glob.glob(path, recursive=True)):
        return _media(f"pattern '{source}'", matches)
    raise UserError(_not_found(source, path))


def _find_listed(path: str) -> list[str | Unreadable]:
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected text, one path or URL a line; cannot read it ({error})") from error
    folder = os.path.dirname(path)
    entries: list[str | Unreadable] = []
    for line in dict.fromkeys(line for line in lines if line and not line.startswith("#")):
        candidates = [os.path.join(folder, os.path.expanduser(line)), os.path.expanduser(line)]
        found = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
        if _is_stream(line):
            entries.append(line)
        elif found is None:
            entries.append(Unreadable(line, f"listed in {path}, found neither beside it nor in the working directory"))
        elif not _is_media(found):
            entries.append(Unreadable(line, f"listed in {path}, is neither an image nor a video"))
        else:
            entries.append(found)
    if not entries:
        raise UserError(f"{path}: expected one path, URL or camera index a line, found none")
    return entries


def _not_found(source: str, path: str) -> str:
    """Says everything that was tried, and what exists instead."""
    scheme = urlsplit(source).scheme if "://" in source else ""
    tried = [
        f"file or folder ({os.path.abspath(path)} does not exist)",
        "glob pattern (matches nothing)" if glob.has_magic(path) else "glob pattern (no *, ? or [ in it)",
        "camera index (not a number)",
        f"URL ('{scheme}' is none of {_known(URL_SCHEMES)})" if scheme else "URL (no '://' in it)",
    ]
    missing = Path(path)
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    hint = suggest(missing.name, os.listdir(missing.parent)) if missing.parent.is_dir() else ""
    if missing != Path(path):
        hint = f"; '{missing.parent}' holds no '{missing.name}'{hint}"
    return f"source '{source}' was not found. Tried: {', '.join(tried)}{hint}"


def _media(where: str, paths: list[str]) -> list[str | Unreadable]:
    """Picks the images and videos, sorted."""
    media: list[str | Unreadable] = [path for path in sorted(paths) if _is_media(path)]
    if not media:
        raise UserError(
            f"{where}: expected images ({_known(IMAGE_SUFFIXES)}) or videos ({_known(VIDEO_SUFFIXES)}), "
            f"found {len(paths)} other entries"
            if paths
            else f"{where}: expected images or videos, found it empty"
        )
    return media


def _is_media(path: str) -> bool:
    return _suffix(path) in IMAGE_SUFFIXES | VIDEO_SUFFIXES and os.path.isfile(path)


def _is_stream(entry: str) -> bool:
    """Is it a camera index or a URL?"""
    return entry.isdecimal() or ("://" in entry and urlsplit(entry).scheme.lower() in URL_SCHEMES)


def _suffix(entry: str) -> str:
    path = urlsplit(entry).path if "://" in entry else entry
    return os.path.splitext(path)[1].lower()


def _what(entry: str) -> str:
    return "camera" if entry.isdecimal() else "URL" if _is_stream(entry) else "video"


def _known(names: frozenset[str]) -> str:
    return " ".join(sorted(names))
