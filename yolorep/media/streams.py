"""Live sources, side by side: the newest frame of each, connected again when one is lost."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from yolorep.console import plural
from yolorep.errors import first_line, one_line
from yolorep.images import ImageError
from yolorep.media.connections import Patience, answers, connect
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.readers import Arrival, Connect, Reader
from yolorep.media.web import SourceError

#: Seconds between two looks whether a server is back, between two lines about damaged frames, for which closing waits.
_LOOK, _BETWEEN_LINES, _CLOSING = 1.0, 10.0, 0.5
#: Seconds after which a waiting main thread looks around: signals are handled then.
_TURN = 0.2
#: Readers that hang in a call that does not come back; no more are started beside them.
_MOST_HUNG = 3


class Stream:
    """A live source, read by threads of its own. A frame that nobody took is replaced by the next.

    A URL that turns out to be a file loses no frame: its reader waits until each was taken. Nor is it connected again.

    Args:
        entry: a camera index or URL.
        path: what its frames say they come from.
        vid_stride: keep every N-th frame only.
        reconnect_timeout: seconds without a frame after which it is given up; for ever if None.
        expect_file: it is probably a file: give it up if it cannot be opened at first.
        patience: how long is waited for what.
        connect: how it is opened.

    Attributes:
        lines: what changed, to be told.
        settled: it is no file, or at its end.
        ended: there is nothing more to take.
    """

    def __init__(
        self,
        entry: str,
        *,
        path: str,
        vid_stride: int = 1,
        reconnect_timeout: float | None = None,
        expect_file: bool = False,
        patience: Patience | None = None,
        connect: Connect = connect,
    ) -> None:
        self.lines: deque[str] = deque()
        self.settled, self.ended = not expect_file, False
        self._entry, self._path, self._vid_stride = entry, path, vid_stride
        self._reconnect_timeout = reconnect_timeout
        self._expect_file = expect_file
        self._patience = patience or Patience()
        self._connect = connect
        self._changed = threading.Condition()
        self._news = threading.Event()
        self._newest: Frame | Unreadable | None = None
        self._stopped = self._finished = False
        self._readers: list[Reader] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="stream")
        # Of what was seen so far.
        self._index, self._first_at = 0, 0.0
        self._size: tuple[int, int] | None = None
        self._damaged, self._told_damaged_at, self._whole_at = 0, -math.inf, time.monotonic()

    def start(self, news: threading.Event) -> None:
        """Begins to read; ``news`` is set whenever there is something to take or to tell."""
        self._news = news
        self._thread.start()

    def take(self) -> Frame | Unreadable | None:
        """Returns the newest frame, if there is one that was not taken; at last why the source was given up."""
        with self._changed:
            item, self._newest = self._newest, None
            self.ended = self._finished and item is None
            self._changed.notify_all()
        return item

    def stop(self) -> None:
        """Tells the threads to end."""
        with self._changed:
            self._stopped = True
            for reader in self._readers:
                reader.give_up()
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Waits for the threads; one whose call does not come back is left alone."""
        end = time.monotonic() + seconds
        for thread in (self._thread, *self._readers):
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        try:
            self._keep_connected()
        except Exception as error:  # a thread must not die without a word; the class tells that nobody expected it
            self._hand_over(Unreadable(self._path, f"{type(error).__name__}: {first_line(error)}"))
        finally:
            with self._changed:
                self._finished = self.settled = True
            self._news.set()

    def _keep_connected(self) -> None:
        wait, told = self._patience.first_wait, ""
        lost = time.monotonic()
        first = True
        while not self._stopped:
            began = time.monotonic()
            reader = self._new_reader()
            problem = self._follow(reader, lost, until=math.inf if first else self._give_up_at(lost))
            first = False
            with self._changed:
                reader.give_up()
            if problem is None:
                return
            if reader.seen:
                wait, told = self._patience.first_wait, ""
                began = lost = time.monotonic()
            hopeless = reader.is_file or (not self._index and (problem.final or self._expect_file))
            if hopeless or time.monotonic() >= self._give_up_at(lost):
                # Of the other, the last attempt may have been cut short.
                after = f"{'lost' if self._index else 'not reached'} for {time.monotonic() - lost:.1f} s: "
                reason = problem.reason if hopeless else after + (told or problem.reason)
                self._hand_over(Unreadable(self._path, reason))
                return
            if problem.reason != told:
                told = problem.reason
                self._tell(f"{self._state(reader)}: {told}; trying again")
            self._wait(began + wait, self._give_up_at(lost), look=problem.unreachable)
            wait = min(2 * wait, self._patience.longest_wait)

    def _new_reader(self) -> Reader:
        reader = Reader(
            self._entry,
            self._connect,
            patience=self._patience,
            index=self._index,
            vid_stride=self._vid_stride,
            changed=self._changed,
        )
        with self._changed:
            self._readers.append(reader)
        reader.start()
        return reader

    def _follow(self, reader: Reader, lost: float, *, until: float) -> SourceError | None:
        """Passes on what a reader gets until it is lost; None at the end of a file, or when stopped."""
        limit = self._patience.opening
        deadline = min(time.monotonic() + limit, until)
        damaged = 0
        while True:
            with self._changed:
                while not (self._stopped or reader.item or reader.over or reader.damaged > damaged):
                    self.settled = self.settled or reader.is_open
                    left = _TURN if reader.is_file else deadline - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                item, reader.item = reader.item, None
                self._changed.notify_all()
                if self._stopped:
                    return None
                new, damaged = reader.damaged - damaged, reader.damaged
                if not (item or new):
                    silent = SourceError(f"stalled, no frame for {limit:g} s" if reader.seen else "no answer")
                    return reader.problem if reader.over else silent
            limit = self._patience.silence
            deadline = time.monotonic() + limit
            if new:
                self._count_damaged(new)
            if isinstance(item, Arrival):
                self._pass_on(item, reader, lost)
            elif item:
                self._hand_over(replace(item, path=self._path))

    def _pass_on(self, arrival: Arrival, reader: Reader, lost: float) -> None:
        """Decodes a frame, and puts it in the place of one that nobody took."""
        try:
            image = arrival.picture()
        except ImageError:
            self._count_damaged(1)
            return
        size = image.shape[1], image.shape[0]
        if not reader.seen:
            reader.seen = True
            self._tell(f"back after {arrival.at - lost:.1f} s" if self._index else f"connected, {size[0]}x{size[1]}")
        if self._size not in (None, size):
            self._tell(f"the frame size is now {size[0]}x{size[1]}")
        self._whole_at = arrival.at
        self._tell_damaged(arrival.at)
        if not self._index:
            self._first_at = arrival.at
        self._index, self._size = arrival.number + 1, size
        frame = Frame(
            image,
            self._path,
            arrival.number,
            None,
            reader.fps,
            is_video=True,
            time=arrival.at - self._first_at,
            captured=arrival.captured,
        )
        with self._changed:
            self._newest = frame
        self._news.set()

    def _hand_over(self, item: Frame | Unreadable) -> None:
        """Passes on what must not be lost: once the one before it was taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is None or self._stopped)
            self._newest = item
        self._news.set()

    def _wait(self, until: float, give_up_at: float, *, look: bool) -> None:
        """Waits for the next attempt; shorter if a server that was away is there again."""
        until = min(until, give_up_at)
        while not self._stopped and (left := until - time.monotonic()) > 0:
            self._rest(min(left, _LOOK))
            if look and answers(self._entry):
                break
        while not self._stopped and time.monotonic() < give_up_at:
            with self._changed:
                self._readers = [reader for reader in self._readers if reader.is_alive()]
            if len(self._readers) < _MOST_HUNG:
                return
            self._rest(min(_LOOK, give_up_at - time.monotonic()))

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)

    def _give_up_at(self, lost: float) -> float:
        return math.inf if self._reconnect_timeout is None else lost + self._reconnect_timeout

    def _state(self, reader: Reader) -> str:
        return "lost" if reader.seen else "still lost" if self._index else "not reached"

    def _count_damaged(self, count: int) -> None:
        self._damaged += count
        now = time.monotonic()
        if now - self._whole_at >= self._patience.silence:  # nothing else comes
            self._tell_damaged(now)

    def _tell_damaged(self, now: float) -> None:
        if self._damaged and now - self._told_damaged_at >= _BETWEEN_LINES:
            self._tell(f"{plural('damaged frame', self._damaged)} left out")
            self._damaged, self._told_damaged_at = 0, now

    def _tell(self, line: str) -> None:
        self.lines.append(one_line(f"{self._path}: {line}"))  # a server may answer anything
        self._news.set()


def read_together(
    entries: Iterable[Iterable[Frame | Unreadable] | Stream], *, report: Callable[[str], None]
) -> Iterator[Frame | Unreadable]:
    """Reads files in their order, and live sources beside them: one frame of each in turn, of a live one its newest.

    Args:
        entries: files, and sources of which it is not known whether they are. A source that turns out to be a file is
            read to its end before the next entry begins; a live one lets the next begin at once.
        report: is given the lines that tell what became of a source.

    Returns:
        An iterator that has stopped the threads of its sources when it is closed.
    """
    news = threading.Event()
    waiting = iter(entries)
    streams: list[Stream] = []
    file: Iterator[Frame | Unreadable] = iter(())
    more = True

    def stop() -> None:
        for stream in streams:
            stream.stop()
        end = time.monotonic() + _CLOSING
        for stream in streams:
            stream.join(max(0.0, end - time.monotonic()))

    atexit.register(stop)  # where nobody closes: a thread inside OpenCV must not outlive the interpreter
    try:
        while more or streams:
            news.clear()
            idle = True
            item = next(file, None) if more else None
            if item is not None:
                idle = False
                yield item
            elif more and all(stream.settled for stream in streams):
                entry = next(waiting, None)
                more, idle = entry is not None, False
                if isinstance(entry, Stream):
                    streams.append(entry)
                    entry.start(news)
                elif entry is not None:
                    file = iter(entry)
            for stream in list(streams):
                while stream.lines:
                    report(stream.lines.popleft())
                if (item := stream.take()) is not None:
                    idle = False
                    yield item
                elif stream.ended and not stream.lines:
                    streams.remove(stream)
                    idle = False
            if idle:
                news.wait(_TURN)
    finally:
        atexit.unregister(stop)
        stop()
