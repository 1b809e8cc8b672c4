"""Servers that lie, stall and never end, and archives that are none."""

from __future__ import annotations

import hashlib
import io
import socketserver
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case
from tests.hostile.mutate import mutate_bytes, rng
from yolorep.data.download import Download, DownloadLimits, download_all
from yolorep.errors import UserError

BODY = b"0 0.5 0.5 0.1 0.1\n" * 10
OK = b"HTTP/1.1 200 OK\r\n"
#: Small ones, to be reached in a test; those of time for what takes it only.
LIMITS = DownloadLimits(largest=3 << 20)
SHORT = {
    "drips": DownloadLimits(patience=0.2, rate=1 << 40),
    "drips-before": DownloadLimits(patience=0.4),
    "stalls": DownloadLimits(silence=0.4),
}

Send = Callable[[bytes], None]


def _drip(send: Send) -> None:
    send(OK + b"\r\n")
    for _ in range(100):
        send(b"x")
        time.sleep(0.05)


def _drip_before(send: Send) -> None:
    send(OK + b"A: ")
    for _ in range(100):
        send(b"x")
        time.sleep(0.05)


def _endless(send: Send) -> None:
    send(OK + b"\r\n")
    while True:
        send(bytes(1 << 16))


def _stalls(send: Send) -> None:
    send(OK + b"Content-Length: 100\r\n\r\nabc")
    time.sleep(1)


#: What a server sends, and what is said about it.
ANSWERS: dict[str, tuple[bytes | Callable[[Send], None], str]] = {
    "whole": (OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, ""),
    "without-length": (OK + b"\r\n" + BODY, ""),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), ""),
    "hangs-up": (b"", "without response"),
    "garbage": (b"\0\xff garbage\r\n\r\n", "garbage"),
    "no-number": (b"HTTP/1.1 abc\r\n\r\n", "abc"),
    "long-status": (b"HTTP/1.1 200 " + b"x" * 100_000, "got more than 65536 bytes"),
    "many-headers": (OK + b"A: b\r\n" * 300 + b"\r\n", "got more than 100 headers"),
    "long-header": (OK + b"A: " + b"b" * 100_000 + b"\r\n\r\n", "got more than 65536 bytes"),
    "length-is-text": (OK + b"Content-Length: abc\r\n\r\n" + BODY, "invalid literal"),
    "length-is-negative": (OK + b"Content-Length: -5\r\n\r\n" + BODY, ""),
    "length-is-huge": (OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + BODY, ""),
    "length-has-many-digits": (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY, "cannot be downloaded"),
    "truncated": (OK + b"Content-Length: 500\r\n\r\n" + BODY[:50], "expected a file with sha256"),
    "longer-than-said": (OK + b"Content-Length: 50\r\n\r\n" + BODY, "expected a file with sha256"),
    "chunk-of-no-size": (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc", "cannot be downloaded"),
    "chunk-cut-off": (OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\nabc", "cannot be downloaded"),
    "not-there": (b"HTTP/1.1 404 Not Found\r\n\r\n", "Not Found"),
    "fault": (b"HTTP/1.1 500 \xff\xfe\r\n\r\n", "cannot be downloaded"),
    "another-page": (OK + b"\r\n<html>log in</html>", "expected a file with sha256"),
    "to-a-file": (b"HTTP/1.1 302 x\r\nLocation: file:///etc/passwd\r\n\r\n", "Redirection to url 'file"),
    "to-ftp": (b"HTTP/1.1 302 x\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "redirected to ftp://127"),
    "to-itself": (b"HTTP/1.1 302 x\r\nLocation: /to-itself\r\n\r\n", "infinite loop"),
    "to-no-port": (b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:abc/\r\n\r\n", "nonnumeric port"),
    "to-nobody": (b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:9/\r\n\r\n", "refused"),
    "drips": (_drip, "are too slow"),
    "drips-before": (_drip_before, "no whole answer in 0.4 s"),
    "endless": (_endless, "it is larger than 3145728 bytes"),
    "stalls": (_stalls, "timed out"),
}  # fmt: skip


class _Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode().strip("/")
        while self.rfile.readline().strip():
            pass
        answer, _ = ANSWERS[path]
        try:
            if callable(answer):
                answer(self.wfile.write)  # type: ignore[arg-type]
            else:
                self.wfile.write(answer)
        except OSError:
            pass  # given up, as it should be


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Answer) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def fetch(url: str, content: bytes, folder: Path, said: str = "") -> None:
    limits = SHORT.get(folder.name, LIMITS)
    try:
        download_all([Download(url, hashlib.sha256(content).hexdigest(), "set")], folder, limits=limits)
    except UserError as error:
        assert said and said in str(error)
        assert not list(folder.iterdir())  # nothing stays behind
        raise
    assert not said and (folder / "set").read_bytes() == content


def test_servers(hostile: Hostile, server: str, tmp_path: Path) -> None:
    hostile(
        Case(name, lambda name=name, said=said: fetch(f"{server}/{name}", BODY, tmp_path / name, said))  # type: ignore[misc]
        for name, (_, said) in ANSWERS.items()
    )


def archives() -> list[bytes]:
    members = {"a/b.txt": b"one" * 100, "c.txt": b"two" * 1000}
    found = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        found.append(buffer.getvalue())
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        found.append(buffer.getvalue())
    return found


def install(content: bytes, folder: Path) -> None:
    file = folder / "archive"
    folder.mkdir()
    file.write_bytes(content)
    before = {*folder.parent.parent.iterdir(), *folder.parent.iterdir()}
    try:
        download_all([Download(file.as_uri(), hashlib.sha256(content).hexdigest(), "set")], folder / "data")
    finally:
        assert {*folder.parent.parent.iterdir(), *folder.parent.iterdir()} == before  # nothing beside it


def damaged(folder: Path, seeds: range) -> Iterator[Case]:
    good = archives()
    for seed in seeds:
        content = mutate_bytes(good[seed % len(good)], rng("archive", seed))
        yield Case(f"archive {seed}", lambda seed=seed, content=content: install(content, folder / str(seed)))  # type: ignore[misc]


def test_archives(hostile: Hostile, tmp_path: Path) -> None:
    hostile(damaged(tmp_path, range(8)))


@pytest.mark.slow
def test_many_archives(hostile: Hostile, tmp_path: Path) -> None:
    hostile(damaged(tmp_path, range(100, 200)))


def test_an_archive_that_grows_without_measure_is_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}", bytes(1 << 20))
    zipped = bytearray(bomb.getvalue())
    place = zipped.rindex(b"PK\x01\x02")
    zipped[place + 24 : place + 28] = (0xFFFFFF00).to_bytes(4, "little")  # the size of the last one
    header = tarfile.TarInfo("a")
    header.size = 5 << 30
    for content in (bytes(zipped), header.tobuf() + bytes(1024)):
        folder = tmp_path / hashlib.sha256(content).hexdigest()
        with pytest.raises(UserError, match="it would unpack to [45]"):
            install(content, folder)
        assert not list((folder / "data").iterdir())
