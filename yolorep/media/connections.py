"""Connecting to a live source, and reading what it sends until it is lost."""

from __future__ import annotations

import math
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse
from itertools import chain, takewhile
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.image_headers import check_pixels
from yolorep.images import ImageError, decode_image
from yolorep.media.jpegs import find_jpegs
from yolorep.media.urls import WEB_SCHEMES, is_camera, scheme_of
from yolorep.media.web import SourceError, chunks_of, open_url

#: One frame, to be decoded; raises ImageError if it is damaged.
Picture: TypeAlias = Callable[[], NDArray[np.uint8]]

#: Ports of URLs that name none. Of the others a port may be open for one visitor only.
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
#: How often OpenCV may find no frame before the source counts as lost, and how long that takes at most.
_MOST_MISSES, _LONGEST_MISS = 20, 1.0
#: Frames that come without having been waited for, in the first second, were sent while we connected.
_CATCHING_UP = 1.0


@dataclass(frozen=True)
class Patience:
    """How long a live source is waited for, in seconds.

    Attributes:
        first_wait: between the first two attempts to connect; doubled for each further one.
        longest_wait: between any two.
        opening: an attempt may take this long.
        silence: without a frame for so long, a source is lost.
    """

    first_wait: float = 0.5
    longest_wait: float = 10.0
    opening: float = 10.0
    silence: float = 5.0


class Connection(ABC):
    """A source that is open.

    Attributes:
        fps: frames a second as it says itself, None if it does not.
        is_file: it has an end: a file on a server.
        given_up: set from outside: nobody waits for its pictures any more, they may end.
    """

    fps: float | None = None
    is_file: bool = False
    given_up: bool = False

    @abstractmethod
    def pictures(self) -> Iterator[Picture | None]:
        """Yields frames as they arrive; waits for them. None stands for what arrived in place of one.

        Raises:
            SourceError: where the source is lost for a reason that is known.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go of it."""


def connect(entry: str, patience: Patience) -> Connection:
    """Opens a camera index or URL.

    Multipart JPEGs over HTTP are read by our own reader: OpenCV's would bring every size to that of the first frame.

    Raises:
        SourceError: if it cannot be opened.
    """
    return _connect_web(entry, patience) if scheme_of(entry) in WEB_SCHEMES else _Capture(entry, patience)


def answers(entry: str, *, timeout: float = 1.0) -> bool | None:
    """Whether a server listens at the port of a URL; None if one cannot ask without disturbing."""
    scheme = scheme_of(entry)
    if scheme not in _PORTS:
        return None
    try:
        url = urlsplit(entry)
        socket.create_connection((url.hostname or "", url.port or _PORTS[scheme]), timeout=timeout).close()
    except (OSError, ValueError):
        return False
    return True


def _connect_web(entry: str, patience: Patience) -> Connection:
    response = open_url(entry, timeout=patience.opening)
    kind = response.headers.get_content_type()
    chunks = chunks_of(response)
    # A few servers name another type; a boundary is one.
    head = b"" if kind.startswith("multipart/") else next(chunks, b"")
    if kind.startswith("multipart/") or head.lstrip().startswith(b"--"):
        return _Multipart(response, chain([head], chunks) if head else chunks)
    response.close()
    if not head:
        raise SourceError("nothing arrived")
    try:
        return _Capture(entry, patience)
    except SourceError as error:
        raise SourceError(f"expected a video, the server sends {kind}, which OpenCV cannot read", final=True) from error


class _Multipart(Connection):
    """JPEGs as parts of one answer that does not end (MJPEG), as cameras send them."""

    def __init__(self, response: HTTPResponse, chunks: Iterator[bytes]) -> None:
        self._response = response
        self._chunks = chunks

    def pictures(self) -> Iterator[Picture | None]:
        # Bytes may drip in for ever without becoming a picture.
        for jpeg in find_jpegs(takewhile(lambda _: not self.given_up, self._chunks)):
            yield partial(decode_image, jpeg) if jpeg else None

    def close(self) -> None:
        self._response.close()


class _Capture(Connection):
    """Whatever OpenCV opens."""

    def __init__(self, entry: str, patience: Patience) -> None:
        self._capture = _open(entry, patience)
        if not self._capture.isOpened():
            self._capture.release()
            if is_camera(entry):
                raise SourceError(f"there is no camera {entry}, or another program uses it", final=True)
            if answers(entry) is False:
                raise SourceError("no answer at its host and port", unreachable=True)
            raise SourceError("OpenCV cannot open this URL")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < math.inf else None
        try:
            check_pixels(
                int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
            )
        except ImageError as error:
            self._capture.release()
            raise SourceError(f"frames of {error}", final=True) from error
        self.is_file = not is_camera(entry) and self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0

    def pictures(self) -> Iterator[Picture | None]:
        start = time.monotonic()
        waited_for = 0.3 / self.fps if self.fps else 0.005
        current = False
        held: Picture | None = None
        misses = 0
        while misses < _MOST_MISSES and not self.given_up:
            asked = time.monotonic()
            grabbed = self._capture.grab()
            now = time.monotonic()
            if not grabbed:
                misses = _MOST_MISSES if now - asked > _LONGEST_MISS else misses + 1
                continue
            misses = 0
            current = current or now - asked > waited_for or now - start > _CATCHING_UP
            found, image = self._capture.retrieve()
            picture = partial(np.asarray, image, np.uint8) if found else None
            held = picture or held
            if current:
                yield picture
        if held and not current:
            yield held

    def close(self) -> None:
        self._capture.release()


def _open(entry: str, patience: Patience) -> Any:
    if is_camera(entry):
        return cv2.VideoCapture(int(entry))
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        return cv2.VideoCapture(entry)
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        int(1000 * patience.opening),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(1000 * patience.silence),
    ]
    return cv2.VideoCapture(entry, cv2.CAP_FFMPEG, limits)
