"""A small RTSP server: Motion JPEG as RTP (RFC 2435) over the connection itself."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator

from tests.media.cameras import WebServer, jpeg

_SDP = (
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=framerate:25\r\na=control:track\r\n"
)
_HEADERS = {
    b"OPTIONS": b"Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN",
    b"DESCRIBE": b"Content-Type: application/sdp\r\nContent-Length: %d" % len(_SDP),
    b"SETUP": b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1",
    b"PLAY": b"Session: 1",
}


class RtspServer(WebServer):
    """Plays pictures of this size to whoever asks."""

    def __init__(self, height: int, width: int, *, port: int = 0) -> None:
        self._size = height, width
        super().__init__(self._play, port=port)
        self.url = f"rtsp://127.0.0.1:{self.port}/live"

    def _play(self, connection: socket.socket) -> None:
        _answer(connection, self.requests[-1], *self._size)


def _answer(connection: socket.socket, request: bytes, height: int, width: int) -> None:
    method = b""
    while request and method != b"PLAY":
        method = request.split()[0]
        number = re.search(rb"CSeq: *(\d+)", request)
        assert number
        head = b"RTSP/1.0 200 OK\r\nCSeq: %s\r\n%s\r\n\r\n" % (number[1], _HEADERS[method])
        connection.sendall(head + (_SDP if method == b"DESCRIBE" else b""))
        request = b"" if method == b"PLAY" else connection.recv(65536)
    for packet in _packets(jpeg(height, width), height, width):
        connection.sendall(packet)


def _packets(picture: bytes, height: int, width: int) -> Iterator[bytes]:
    """The same picture 25 times a second."""
    tables = b"".join(picture[found.end() + 3 : found.end() + 67] for found in re.finditer(b"\xff\xdb", picture))
    scan = picture.index(b"\xff\xda")
    data = picture[scan + 2 + int.from_bytes(picture[scan + 2 : scan + 4], "big") : -2]
    assert len(tables) == 128
    sequence = 0
    for number in range(1 << 30):
        for start in range(0, len(data), 1000):
            last = start + 1000 >= len(data)
            head = struct.pack(">BBHII", 0x80, 26 | last << 7, sequence & 0xFFFF, 3600 * number & 0xFFFFFFFF, 1)
            head += struct.pack(">IBBBB", start, 1, 255, width // 8, height // 8)
            payload = (
                head + (struct.pack(">BBH", 0, 0, 128) + tables if start == 0 else b"") + data[start : start + 1000]
            )
            yield b"$\0" + len(payload).to_bytes(2, "big") + payload
            sequence += 1
        time.sleep(0.04)
