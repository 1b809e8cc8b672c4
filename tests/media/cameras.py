"""Cameras made on the spot: sources that do what a test says, and an HTTP server that does the same."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import cv2
import numpy as np

from tests.media.files import make_image
from yolorep.images import ImageError
from yolorep.media.connections import Connection, Patience, Picture

#: Hurries to connect again, and waits as long as a busy machine may take.
HASTY = Patience(first_wait=0.02, longest_wait=0.05, opening=120.0, silence=120.0)


def jpeg(height: int = 96, width: int = 128) -> bytes:
    return bytes(cv2.imencode(".jpg", make_image(height, width))[1].tobytes())


def part(picture: bytes, *, length: bool = True) -> bytes:
    size = b"Content-Length: %d\r\n" % len(picture) if length else b""
    return b"--frame\r\nContent-Type: image/jpeg\r\n%s\r\n%s\r\n" % (size, picture)


def damaged() -> np.ndarray:
    raise ImageError("damaged")


class Script(Connection):
    """A source that yields images; a word is one that cannot be decoded, None is none at all, callables are called."""

    def __init__(self, steps: Iterable[object], *, is_file: bool = False) -> None:
        self._steps = steps
        self.is_file = is_file
        self.closed = False

    def pictures(self) -> Iterator[Picture | None]:
        for step in self._steps:
            if callable(step):
                step()
            elif isinstance(step, str):
                yield damaged
            else:
                yield None if step is None else partial(np.asarray, step)

    def close(self) -> None:
        self.closed = True


class Camera:
    """Opens one script after the other; of an error it raises it; the last one is repeated."""

    def __init__(self, *scripts: Iterable[object] | Exception) -> None:
        self._scripts = list(scripts)
        self.opened: list[Script] = []

    def __call__(self, entry: str, patience: Patience) -> Connection:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if isinstance(script, Exception):
            raise script
        self.opened.append(Script(script))
        return self.opened[-1]


#: Sends bytes to whoever asks; it is closed when the function comes back.
Answer = Callable[[socket.socket], None]


class WebServer:
    """Answers every request with the next of its functions; the last one is repeated."""

    def __init__(self, *answers: Answer, port: int = 0) -> None:
        self._answers = list(answers)
        self._socket = socket.create_server(("127.0.0.1", port))
        self.requests: list[bytes] = []
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/stream"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            self._connections.append(connection)
            threading.Thread(target=self._answer, args=(connection, answer), daemon=True).start()

    def _answer(self, connection: socket.socket, answer: Answer) -> None:
        with connection:
            try:
                self.requests.append(connection.recv(65536))
                answer(connection)
            except OSError:  # who asked has gone
                pass

    def close(self) -> None:
        """Stops at once: whoever is connected is cut off."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def web_server(*answers: Answer) -> Iterator[WebServer]:
    server = WebServer(*answers)
    try:
        yield server
    finally:
        server.close()


def mjpeg(parts: Iterable[bytes], *, pause: float = 0.0, then: Callable[[], object] = lambda: None) -> Answer:
    """An answer of parts."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for data in parts:
            connection.sendall(data)
            time.sleep(pause)
        then()

    return answer


def plain(head: bytes, body: bytes = b"") -> Answer:
    return lambda connection: connection.sendall(b"HTTP/1.0 " + head + b"\r\n\r\n" + body)
