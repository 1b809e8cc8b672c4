"""The standard input, replaced by a pipe that the test writes into."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest


@contextmanager
def open_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[BinaryIO]:
    """Yields the end to write into; it is closed at the end."""
    reading, writing = os.pipe()
    with io.TextIOWrapper(os.fdopen(reading, "rb")) as stdin, os.fdopen(writing, "wb") as pipe:
        monkeypatch.setattr("sys.stdin", stdin)
        yield pipe


def pipe_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Pipes ``data`` in, from a thread: a pipe holds only so much."""
    reading, writing = os.pipe()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(os.fdopen(reading, "rb")))

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    threading.Thread(target=write, daemon=True).start()


def until(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Waits until something has happened."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
