"""Cameras on the network: a local server that stalls, drops, changes size, sends garbage, and ends."""

from __future__ import annotations

import base64
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path

import pytest

from tests.media.cameras import HASTY, Answer, WebServer, jpeg, mjpeg, part, plain, web_server
from tests.media.files import make_image, write_video
from tests.media.rtsp import RtspServer
from yolorep.media.connections import Patience
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.sources import open_source

FOREVER = repeat(part(jpeg()))


def steps(*parts: bytes) -> tuple[Answer, Callable[[], None]]:
    """Sends the parts one by one, each when the function is called."""
    turns = threading.Semaphore(1)

    def each() -> Iterator[bytes]:
        for data in parts:
            turns.acquire(timeout=120)
            yield data

    return mjpeg(each(), then=lambda: turns.acquire(timeout=120)), turns.release


@pytest.mark.parametrize("length", [True, False])
def test_frame_sizes_are_followed(length: bool) -> None:
    sizes = [(96, 128), (96, 128), (200, 300), (48, 64), (96, 128)]
    answer, go_on = steps(*(part(jpeg(*size), length=length) for size in sizes))
    lines: list[str] = []
    with web_server(answer) as server:
        items = open_source(server.url, note=lines.append, patience=HASTY)
        frames = []
        for frame in islice(items, len(sizes)):
            frames.append(frame)
            go_on()
    items.close()  # type: ignore[attr-defined]
    assert [frame.image.shape[:2] for frame in frames] == sizes
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [line.partition("stream: ")[2] for line in lines[:4]] == [
        "connected, 128x96",
        "the frame size is now 300x200",
        "the frame size is now 64x48",
        "the frame size is now 128x96",
    ]


def test_garbage_is_left_out() -> None:
    garbage = [part(bytes([i, 0xFF]) * 500) for i in range(20)]
    cut = [part(jpeg()[: 100 * i], length=False) for i in range(2, 5)]
    answer, go_on = steps(part(jpeg()), b"".join([*garbage, b"\xff\xd8 or not", *cut]) + part(jpeg(48, 64)))
    with web_server(answer) as server:
        items = open_source(server.url, note=[].append, patience=HASTY)
        assert next(items).image.shape == (96, 128, 3)  # type: ignore[union-attr]
        go_on()
        assert next(items).image.shape == (48, 64, 3)  # type: ignore[union-attr]
        assert len(server.requests) == 1
    items.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (mjpeg([part(jpeg())] * 2, pause=0.02), "lost: the stream ended"),
        (mjpeg([part(jpeg()), b"--frame--\r\n"]), "lost: the stream ended"),
        (mjpeg([part(jpeg())], then=lambda: time.sleep(100)), "lost: stalled, no frame for 0.2 s"),
        (plain(b"503 Service Unavailable"), "not reached: the server answers 503 Service Unavailable"),
        (plain(b"200 OK"), "not reached: nothing arrived"),
        (plain(b"500 \x1b[31mred"), r"not reached: the server answers 500 \x1b[31mred; trying again"),
        (lambda connection: connection.sendall(b"RTSP/1.0 200 OK\r\n\r\n"), "not reached: the server does not answer"),
        (lambda connection: None, "not reached: remote end closed connection without response"),
        (lambda connection: time.sleep(100), "not reached: no answer"),
    ],
)
def test_a_fault_is_told_and_overcome(answer: Answer, told: str) -> None:
    lines: list[str] = []
    # Short only where the wait is what is told; then the server is given as many attempts as it takes.
    waits = {"silence": 0.2} if "stalled" in told else {"opening": 0.5} if "no answer" in told else {}
    with web_server(answer, mjpeg(repeat(part(jpeg(48, 64))), pause=0.01)) as server:
        items = open_source(
            server.url.replace("//", "//me:secret@"), note=lines.append, patience=replace(HASTY, **waits)
        )
        next(frame for frame in items if frame.image.shape == (48, 64, 3))  # type: ignore[union-attr]
    items.close()  # type: ignore[attr-defined]
    shown = server.url.replace("//", "//***@")
    assert any(line.startswith(f"{shown}: {told}") for line in lines), lines


def test_a_stream_that_drips_is_left_alone() -> None:
    patience = replace(HASTY, opening=0.2)
    drips = [mjpeg(repeat(b"--frame\r\n"), pause=0.02) for _ in range(4)]
    with web_server(*drips, mjpeg(FOREVER, pause=0.01)) as server:
        items = open_source(server.url, note=[].append, patience=patience)
        next(items)  # more than may hang at a time
        assert len(server.requests) >= 5
        items.close()  # type: ignore[attr-defined]


CIRCLES = b"302 Found\r\nLocation: /stream"
ELSEWHERE = b"302 Found\r\nLocation: rtsp://me:secret@host/live?token=secret"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (plain(CIRCLES), "the server answers 302 The HTTP server returned a redirect error that would lead to"),
        (plain(ELSEWHERE), "the server answers 302 Found - Redirection to url 'rtsp://***@host/live?token=***"),
        (plain(b"404 Not Found"), "the server answers 404 Not Found"),
        (plain(b"401 Unauthorized"), "the server answers 401 Unauthorized; put user:password@ into the URL"),
        (
            plain(b"200 OK\r\nContent-Type: text/html", b"<html>" * 100),
            "expected a video, the server sends text/html, which OpenCV cannot read",
        ),
    ],
)
def test_what_is_no_stream_is_told_at_once(answer: Answer, reason: str) -> None:
    with web_server(answer) as server:
        (item,) = open_source(server.url)
    assert isinstance(item, Unreadable) and item.path == server.url and item.reason.startswith(reason)


def test_passwords() -> None:
    asks = plain(b'401 Unauthorized\r\nWWW-Authenticate: Basic realm="camera"')
    digest = plain(b'401 Unauthorized\r\nWWW-Authenticate: Digest realm="camera", nonce="1", qop="auth"')
    for question, expected in ((asks, base64.b64encode(b"me:p@ss")), (digest, b'Digest username="me"')):
        with web_server(question, mjpeg(FOREVER, pause=0.01)) as server:
            items = open_source(server.url.replace("//", "//me:p%40ss@"), note=[].append, patience=HASTY)
            assert next(items).path == server.url.replace("//", "//***@")
            items.close()  # type: ignore[attr-defined]
            assert b"Authorization" not in server.requests[0] and expected in server.requests[1]


@pytest.mark.slow
def test_a_server_that_comes_back_is_noticed_before_the_next_attempt() -> None:
    server = WebServer(mjpeg(FOREVER, pause=0.01))
    server.close()
    begun: list[tuple[float, WebServer]] = []

    def report(line: str) -> None:
        if line == f"{server.url}: not reached: connection refused; trying again":
            begun.append((time.monotonic(), WebServer(mjpeg(FOREVER, pause=0.01), port=server.port)))

    items = open_source(server.url, note=report, patience=Patience(first_wait=600, longest_wait=600))
    next(items)
    ((start, back),) = begun
    assert time.monotonic() - start < 300  # about a second where the machine is not busy
    back.close()
    items.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_back_within_two_seconds() -> None:
    # One of three times: the machine may be busy.
    assert any(_seconds_until_back() < 2 for _ in range(3))


def _seconds_until_back() -> float:
    lines: list[str] = []
    begun: list[tuple[float, WebServer]] = []
    server = WebServer(mjpeg(FOREVER, pause=0.01))

    def come_back() -> None:
        time.sleep(8)  # waits have grown: the next attempt would be 7 s later
        again = WebServer(mjpeg(FOREVER, pause=0.01), port=server.port)
        begun.append((time.monotonic(), again))

    def report(line: str) -> None:
        lines.append(line)
        if "still lost: connection refused" in line:
            threading.Thread(target=come_back, daemon=True).start()

    items = open_source(server.url, note=report)
    for frame in items:
        if frame.index == 0:  # type: ignore[union-attr]
            server.close()
        if begun:
            break
    took = time.monotonic() - begun[0][0]
    items.close()  # type: ignore[attr-defined]
    begun[0][1].close()
    assert re.search(r"back after \d+\.", lines[-1])
    return took


@pytest.mark.slow
def test_rtsp_is_lost_and_comes_back_with_another_size() -> None:
    lines: list[str] = []
    server, again = RtspServer(96, 128), None
    items = open_source(server.url.replace("//", "//me:secret@"), note=lines.append, patience=HASTY)
    sizes = []
    for frame in items:
        sizes.append(frame.image.shape[:2])  # type: ignore[union-attr]
        if frame.index == 10:  # type: ignore[union-attr]
            server.close()
            again = RtspServer(48, 64, port=server.port)
        if frame.index > 20:  # type: ignore[union-attr]
            break
    items.close()  # type: ignore[attr-defined]
    assert again
    again.close()
    assert list(dict.fromkeys(sizes)) == [(96, 128), (48, 64)]
    assert [re.sub(r"\d+\.\d s", "1 s", line.partition("live: ")[2]) for line in lines] == [
        "connected, 128x96",
        "lost: the stream ended; trying again",
        "back after 1 s",
        "the frame size is now 64x48",
    ]


@pytest.mark.slow
def test_a_slow_look_at_a_quick_stream_is_never_at_an_old_frame() -> None:
    server = RtspServer(96, 128)
    ages = []
    for frame in open_source(server.url, note=print):
        ages.append(time.time() - frame.captured)  # type: ignore[union-attr,operator]
        time.sleep(0.5)
        if len(ages) == 10:
            break
    server.close()
    # Were frames kept, the last would be seconds old. The machine may be busy at one of them.
    assert sorted(ages)[5] < 0.2 and frame.index > 20  # type: ignore[union-attr]


def test_files_on_a_server_lose_nothing_and_stay_in_order(tmp_path: Path) -> None:
    clips = {name: write_video(tmp_path / name, 9).read_bytes() for name in ("a.mp4", "b.mp4")}

    def send(connection: socket.socket, name: str) -> None:
        head = b"HTTP/1.0 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: %d\r\n\r\n" % len(clips[name])
        connection.sendall(head + clips[name])

    class Server(WebServer):
        def _answer(self, connection: socket.socket, answer: Answer) -> None:
            with connection:
                send(connection, connection.recv(65536).split()[1].decode()[1:6])

    server = Server(plain(b""))
    urls = [f"http://127.0.0.1:{server.port}/{name}?token=abc" for name in clips]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    frames = []
    for frame in open_source(tmp_path / "list.txt", note=print):
        frames.append(frame)
        time.sleep(0.01)
    server.close()
    assert all(isinstance(frame, Frame) and frame.captured is None for frame in frames)
    expected = [(url.replace("abc", "***"), index) for url in urls for index in range(9)]
    assert [(frame.path, frame.index) for frame in frames] == expected


def test_an_image_on_a_server_takes_its_time(tmp_path: Path) -> None:
    with web_server(plain(b"200 OK", jpeg()), plain(b"404 Gone"), plain(b"200 OK", jpeg()[:-500])) as server:
        whole, gone, cut = (next(open_source(f"{server.url}.jpg?key=abc")) for _ in range(3))
    assert isinstance(whole, Frame) and whole.image.shape == make_image().shape and not whole.is_video
    assert whole.path == f"{server.url}.jpg?key=***"
    assert gone == Unreadable(whole.path, "the server answers 404 Gone")
    assert cut == Unreadable(whole.path, "truncated")
