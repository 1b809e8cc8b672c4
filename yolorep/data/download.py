"""Fetching data sets: only when asked, checked against a SHA-256, unpacked without leaving the target folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from queue import Empty, SimpleQueue
from typing import IO, Any, cast

from yolorep.console import progress, say
from yolorep.errors import UserError, first_line, suggest
from yolorep.files import atomic_write

_KEYS = ("url", "sha256", "to")
#: Files of a data set.
_MOST = 1000
_SCHEMES = ("https://", "http://", "file://")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class DownloadLimits:
    """When a download is given up, whatever the server does.

    Attributes:
        largest: bytes of a file.
        silence: seconds without a byte.
        patience: seconds that a file may always take, and the answer before it.
        rate: bytes a second that must arrive on average beyond that.
        unpacked: times its own size that an archive may unpack to, above a GiB.
    """

    largest: int = 100 << 30
    silence: float = 30.0
    patience: float = 60.0
    rate: float = 10_000.0
    unpacked: int = 100


_LIMITS = DownloadLimits()


@dataclass(frozen=True)
class Download:
    """One file to fetch.

    Attributes:
        url: where it is.
        sha256: of the file, 64 hexadecimal digits.
        to: folder for the content of a zip or tar archive, or the name of any other file, relative to the data set.
    """

    url: str
    sha256: str
    to: str


def parse_downloads(value: Any, faults: list[str]) -> list[Download]:
    """Checks the ``download`` list of a data YAML; what is wrong is appended to ``faults``."""
    if not isinstance(value, list) or len(value) > _MOST:
        faults.append(f"download: expected a list of {{url, sha256, to}}, found {str(value)[:80]}")
        return []
    known = len(faults)
    for number, item in enumerate(value):
        where = f"download.{number}"
        if not isinstance(item, dict):
            faults.append(f"{where}: expected {{url, sha256, to}}, found {str(item)[:80]}")
            continue
        faults += [f"{where}.{key}: unknown key{suggest(str(key), _KEYS)}" for key in item if key not in _KEYS]
        if not str(item.get("url", "")).startswith(_SCHEMES):
            faults.append(f"{where}.url: expected an address with {' or '.join(_SCHEMES)}, found {item.get('url')!r}")
        # Digits only would be read as a number by YAML, hence str().
        if not re.fullmatch(r"[0-9a-fA-F]{64}", str(item.get("sha256", ""))):
            faults.append(f"{where}.sha256: expected 64 hexadecimal digits, found {item.get('sha256')!r}")
        to = item.get("to")
        if not isinstance(to, str) or not _stays_inside(to):
            faults.append(f"{where}.to: expected a path inside the data set, found {to!r}")
    if len(faults) > known:
        return []
    return [Download(item["url"], str(item["sha256"]).lower(), item["to"]) for item in value]


def download_all(downloads: list[Download], root: Path, *, limits: DownloadLimits = _LIMITS) -> None:
    """Fetches files into ``root``. Each is checked before anything of it appears there.

    Raises:
        UserError: if a file cannot be fetched, does not have its checksum, is an archive that is not safe, or goes
            beyond the limits.
    """
    for item in downloads:
        target = root / item.to
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
                file = Path(scratch) / "file"
                _fetch(item, file, limits)
                _install(item, file, target, Path(scratch), limits)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error
        say(f"downloaded {item.url} to {target}")


def _fetch(item: Download, file: Path, limits: DownloadLimits) -> None:
    digest = hashlib.sha256()
    try:
        with _answer(item.url, limits) as response, file.open("wb") as out:
            length = response.headers.get("Content-Length")
            total = -(-int(length) // _CHUNK) if length else None
            parts = _chunks(response, limits)
            for chunk in progress(parts, total=total, desc=f"downloading {item.url}", unit="MiB"):
                digest.update(chunk)
                out.write(chunk)
    # HTTPException: what the server says is no HTTP. ValueError: no length, or no address.
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError, _GivenUp) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise UserError(f"{item.url}: cannot be downloaded ({reason})") from error
    if digest.hexdigest() != item.sha256:
        raise UserError(
            f"{item.url}: expected a file with sha256 {item.sha256}, found {digest.hexdigest()} "
            f"({file.stat().st_size} bytes); nothing was kept"
        )


class _GivenUp(Exception):
    """A download that is too large or too slow."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to other servers of its kind only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("http://", "https://")):
            raise urllib.error.URLError(f"redirected to {newurl}, expected http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _answer(url: str, limits: DownloadLimits) -> Any:
    """What a server answers, its body still to be read.

    Raises:
        _GivenUp: if that takes too long, though a byte comes now and then.
    """
    opener = urllib.request.build_opener(_Redirects())
    answers: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(opener.open(url, timeout=limits.silence))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=limits.patience)
    except Empty:
        raise _GivenUp(f"no whole answer in {limits.patience:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _chunks(stream: Any, limits: DownloadLimits) -> Iterator[bytes]:
    """About a MiB at a time, of what arrives however slowly.

    Raises:
        _GivenUp: beyond the limits.
    """
    start, size, held = time.monotonic(), 0, b""
    while part := stream.read1(_CHUNK):
        size += len(part)
        if size > limits.largest:
            raise _GivenUp(f"it is larger than {limits.largest} bytes")
        if time.monotonic() - start > limits.patience + size / limits.rate:
            raise _GivenUp(f"{size} bytes in {time.monotonic() - start:.0f} s are too slow")
        held += part
        if len(held) >= _CHUNK:
            yield held
            held = b""
    yield held


def _install(item: Download, file: Path, target: Path, scratch: Path, limits: DownloadLimits) -> None:
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    room = (1 << 30) + limits.unpacked * file.stat().st_size
    try:
        if zipfile.is_zipfile(file):
            _unpack_zip(file, unpacked, room)
        elif tarfile.is_tarfile(file):
            _unpack_tar(file, unpacked, room)
        else:
            with atomic_write(target) as temporary:
                shutil.copyfile(file, temporary)
            return
    except _UnsafeMember as error:
        raise UserError(f"{item.url}: refused: {error}; nothing was unpacked") from error
    except OSError as error:
        if error.errno is not None:  # of the disk; without a number, of bzip2
            raise
        raise _damaged(item, error) from error
    except _DAMAGED as error:
        raise _damaged(item, error) from error
    _merge(unpacked, target)


#: RuntimeError: encrypted, or compressed in a way that zipfile does not know.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    RuntimeError,
    ValueError,
    zlib.error,
    LZMAError,
    struct.error,
)


def _damaged(item: Download, error: Exception) -> UserError:
    return UserError(
        f"{item.url}: expected a complete zip or tar archive, found one that does not unpack ({first_line(error)})"
    )


class _UnsafeMember(Exception):
    """An archive member that would be written outside its folder, is no plain file, or is larger than it may be."""


def _stays_inside(name: str) -> bool:
    """Whether a relative path stays below its folder on every system."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or ".." in path.parts or "\0" in name:
            return False
    return bool(name)


def _check_member(name: str, *, plain: bool) -> None:
    if not _stays_inside(name):
        raise _UnsafeMember(f"member '{name}' would be written outside the target folder")
    if not plain:
        # Data sets need neither links nor devices; a link could redirect a later member.
        raise _UnsafeMember(f"member '{name}' is a link or special file")


def _check_room(size: int, room: int) -> None:
    if size > room:
        raise _UnsafeMember(f"it would unpack to {size} bytes or more, expected at most {room} of one of its size")


def _unpack_zip(file: Path, folder: Path, room: int) -> None:
    with zipfile.ZipFile(file) as archive:
        _check_room(sum(member.file_size for member in archive.infolist()), room)
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_member(member.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        for member in progress(archive.infolist(), desc=f"unpacking into {folder.parent.parent}", unit="files"):
            if not member.is_dir():
                with archive.open(member) as source:
                    _write(source, folder / member.filename)


def _unpack_tar(file: Path, folder: Path, room: int) -> None:
    with tarfile.open(file) as archive:
        members, size = [], 0
        for member in archive:
            members.append(member)
            size += max(member.size, 0)
            _check_room(size, room)
            _check_member(member.name, plain=member.isfile() or member.isdir())
        for member in progress(members, desc=f"unpacking into {folder.parent.parent}", unit="files"):
            if member.isfile():
                with cast("IO[bytes]", archive.extractfile(member)) as source:
                    _write(source, folder / member.name)


def _write(source: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        shutil.copyfileobj(source, out, _CHUNK)


def _merge(unpacked: Path, target: Path) -> None:
    """Moves a tree into place: in one step if there is nothing yet, file by file into an existing folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        unpacked.rename(target)
        return
    for parent, folders, names in os.walk(unpacked):
        place = target / os.path.relpath(parent, unpacked)
        for name in folders:
            (place / name).mkdir(exist_ok=True)
        for name in names:
            os.replace(os.path.join(parent, name), place / name)
