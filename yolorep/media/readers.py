"""One connection to a live source, read by a thread that may be given up: a call into OpenCV can hang for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from yolorep.errors import first_line
from yolorep.media.connections import Connection, Patience, Picture
from yolorep.media.frames import Frame, Unreadable, read_frames
from yolorep.media.web import SourceError

#: Opens a source, as :func:`yolorep.media.connections.connect` does.
Connect: TypeAlias = Callable[[str, Patience], Connection]


class Arrival(NamedTuple):
    """A frame that was received.

    Attributes:
        picture: decodes it.
        number: how many came before it.
        at: when, by the monotonic clock.
        captured: when, in seconds since 1970.
    """

    picture: Picture
    number: int
    at: float
    captured: float


class Reader(threading.Thread):
    """Opens a source and keeps the newest frame of it. Of a file it waits until each frame is taken.

    Args:
        entry: a camera index or URL.
        connect: how it is opened.
        patience: for how long.
        index: of its first frame.
        vid_stride: every N-th frame counts.
        changed: notified of news; its lock guards the attributes.

    Attributes:
        item: the newest frame that was not taken.
        damaged: how often something else arrived in place of a frame.
        is_open: it is a live source, and connected.
        is_file: it is a file.
        fps: frames a second as the source says, divided by the stride.
        over: nothing more will come.
        problem: why; None at the end of a file.
        seen: for the owner: a frame of it was whole.
    """

    def __init__(
        self,
        entry: str,
        connect: Connect,
        *,
        patience: Patience,
        index: int,
        vid_stride: int,
        changed: threading.Condition,
    ) -> None:
        super().__init__(daemon=True, name=f"reader from frame {index}")
        self.item: Arrival | Frame | Unreadable | None = None
        self.damaged = 0
        self.is_open = self.is_file = self.over = self.seen = False
        self.fps: float | None = None
        self.problem: SourceError | None = None
        self._entry, self._connect, self._patience = entry, connect, patience
        self._index, self._vid_stride = index, vid_stride
        self._changed = changed
        self._given_up = False
        self._connection: Connection | None = None

    def run(self) -> None:
        """The thread."""
        problem: SourceError | None = None
        try:
            problem = self._read()
        except SourceError as error:
            problem = error
        except Exception as error:  # a thread must not die without a word; the class tells that nobody expected it
            problem = SourceError(f"{type(error).__name__}: {first_line(error)}")
        finally:
            with self._changed:
                self.over, self.problem = True, problem
                self._changed.notify_all()

    def give_up(self) -> None:
        """Tells the thread to end; with the lock held."""
        self._given_up = True
        if self._connection:
            self._connection.given_up = True
        self._changed.notify_all()

    def _read(self) -> SourceError | None:
        connection = self._connect(self._entry, self._patience)
        try:
            self._opened(connection)
            if not self.is_file:
                for index, picture in enumerate(connection.pictures(), start=self._index):
                    if self._given_up:
                        break
                    if picture is None:
                        self._count_damaged()
                    elif index % self._vid_stride == 0:
                        self._put(Arrival(picture, index, time.monotonic(), time.time()))
                return SourceError("the stream ended")
        finally:
            connection.close()
        for item in read_frames(self._entry, vid_stride=self._vid_stride):
            if not self._put_and_wait(item):
                break
        return None

    def _opened(self, connection: Connection) -> None:
        with self._changed:
            self._connection = connection
            connection.given_up = self._given_up
            self.is_file, self.is_open = connection.is_file, not connection.is_file
            self.fps = connection.fps / self._vid_stride if connection.fps else None
            self._changed.notify_all()

    def _put(self, item: Arrival) -> None:
        with self._changed:
            self.item = item
            self._changed.notify_all()

    def _count_damaged(self) -> None:
        with self._changed:
            self.damaged += 1
            self._changed.notify_all()

    def _put_and_wait(self, item: Frame | Unreadable) -> bool:
        with self._changed:
            self.item = item
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.item is None or self._given_up)
            return not self._given_up
