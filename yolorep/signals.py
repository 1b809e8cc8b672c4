"""Signals that ask a command to end: Ctrl-C, a kill, a terminal that is closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

#: Those there are on this system.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class _Stop(KeyboardInterrupt):
    """Of a class of its own, for Python notes where a plain KeyboardInterrupt leaves ``exec``.

    It would end by SIGINT then, whatever the exit code.
    """


class StopSignals:
    """Turns these signals into KeyboardInterrupt; a context manager for a program's entry, never for a library.

    The first one lets the command finish what it began. A second one breaks that off, still without leaving half a
    file; what takes longer than ``grace`` then, in native code say, is ended at once. Signals that are ignored, by
    ``nohup`` say, stay so. Outside the main thread it does nothing.

    Args:
        grace: seconds that a command may still take after the second signal.

    Attributes:
        received: the first signal, or None.
    """

    def __init__(self, *, grace: float = 2.0) -> None:
        self._grace = grace
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._terminals = [stream for stream in (1, 2) if _is_terminal(stream)]
        self._pipe: tuple[int, int] | None = None
        self._ended = threading.Event()
        self._unraisable = sys.unraisablehook

    @property
    def exit_code(self) -> int:
        """As shells count: 128 and the signal's number."""
        return 128 + (self.received or signal.SIGINT)

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._interrupt)
            self._watch()
            if self._before:
                self._unraisable, sys.unraisablehook = sys.unraisablehook, self._raise_again
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        sys.unraisablehook = self._unraisable
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[1])  # which ends the thread
        if self.received is not None:
            self.nothing_is_left()
            return
        for number, before in self._before.items():
            signal.signal(number, before)

    def nothing_is_left(self) -> None:
        """What was begun is finished, and the process about to end: another signal ends it at once."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in self._before:
            signal.signal(number, self._leave)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        for stream in self._terminals:
            if not _is_terminal(stream):  # it was closed: printing to it would be an error amidst finishing
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if not (_is_finalizer(frame) and self._come_back()):
            raise _Stop

    def _come_back(self) -> bool:
        """Sees to it that the signal is heard of again a little later; False where that is not possible."""
        if not hasattr(signal, "setitimer"):
            return False
        signal.signal(signal.SIGALRM, self._interrupt_later)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return True

    def _raise_again(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Where an exception has nowhere to go, in a callback of the garbage collector say."""
        if not (isinstance(unraisable.exc_value, _Stop) and self._come_back()):
            self._unraisable(unraisable)

    def _interrupt_later(self, _: int, frame: FrameType | None) -> None:
        assert self.received is not None
        self._interrupt(self.received, frame)

    def _leave(self, *_: object) -> None:
        os._exit(self.exit_code)

    def _watch(self) -> None:
        """Counts signals in a thread: the main one hears of them between two Python instructions only."""
        if sys.platform == "win32" or not self._before:
            return
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._count, args=(self._pipe[0],), name="yolorep-signals", daemon=True).start()

    def _count(self, pipe: int) -> None:
        count = 0
        while count < 2 and (numbers := os.read(pipe, 1)):
            if numbers[0] in self._before:
                self.received = self.received or signal.Signals(numbers[0])
                count += 1
        if count < 2:
            os.close(pipe)
        elif not self._ended.wait(self._grace):
            self._leave()


@contextmanager
def stopping_held() -> Iterator[None]:
    """Around what starts processes: a signal that asks to end waits until they are told how to behave.

    In a process just forked, or in what runs around forking, Python would print the exception and go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPPING if callable(signal.getsignal(number))}
    wakeup = signal.set_wakeup_fd(-1)  # of this process only
    for number in before:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(held):
            signal.raise_signal(number)


def _is_finalizer(frame: FrameType | None) -> bool:
    """Whether something is being closed that should be closed to its end."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _is_terminal(stream: int) -> bool:
    try:
        return os.isatty(stream)
    except OSError:
        return False
