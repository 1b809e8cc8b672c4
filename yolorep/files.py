"""Writing files so that nothing half-written stays behind."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from yolorep.errors import UserError

#: Bytes of a file's name without its suffix: file systems take 255, and the longest suffix written has five.
STEM_BYTES = 250
#: Characters of a suffix that some writer may know.
LONGEST_SUFFIX = 16
#: What no other file could be written after, either.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it is fsynced and renamed onto ``path``.

    On any exception the temporary file is removed and an older ``path`` stays as it was.

    Raises:
        UserError: if the folder cannot be written, or takes no file of that name.
        OSError: naming ``path``, if writing fails: a full disk, say.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_folder(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Short, as the file's own name may be as long as the file system takes. The suffix is kept: image and video
        # writers choose the format by it.
        suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f".part{suffix}")
    except (OSError, ValueError) as error:  # a ValueError is a name that cannot be encoded
        raise _cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        with errors_named(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path``; on success it is fsynced and takes the place of ``path``.

    On any exception it is removed and an older ``path`` stays as it was.

    Raises:
        UserError: if the folder around it cannot be written.
        OSError: naming ``path``, if writing fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=".part"))
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from error
    new, old = work / path.name, work / "old"
    try:
        with errors_named(path):
            new.mkdir()
            yield new
            for file in new.rglob("*"):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            if path.exists():
                path.rename(old)
            try:
                new.rename(path)
            except BaseException:  # Ctrl-C too must not leave the place empty
                if old.exists() and not path.exists():
                    old.rename(path)
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_device_or_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether it is a device or a pipe, which might be read for ever."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def real_paths(paths: Iterable[str]) -> Iterator[str]:
    """Where each file is once links are followed. A folder is looked up once, however many files it holds."""
    folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        yield os.path.realpath(path) if os.path.islink(path) else os.path.join(folders[folder], name)


def distinct_files(paths: Iterable[str]) -> list[str]:
    """Each file once, however many links lead to it, in the order given: by its own path if that is among them."""
    paths = list(paths)
    kept: dict[str, str] = {}
    for path, real in zip(paths, real_paths(paths), strict=True):
        if real not in kept or (os.path.islink(kept[real]) and not os.path.islink(path)):
            kept[real] = path
    chosen = set(kept.values())
    return [path for path in dict.fromkeys(paths) if path in chosen]


def walk_files(folder: str, onerror: Callable[[OSError], None]) -> Iterator[str]:
    """Every file below a folder, through links too, but each folder once, by a path without links if there is one.

    A link that leads to a folder around it is not followed: what lies beside the folder is not below it.

    Args:
        folder: where to begin.
        onerror: called where a folder cannot be read.
    """
    top = os.path.realpath(folder)
    seen: set[str] = set()
    waiting: deque[tuple[str, str, tuple[str, ...]]] = deque([(folder, top, (top,))])
    while waiting:
        path, real, around = waiting.popleft()
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            onerror(error)
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                waiting.appendleft((entry.path, os.path.join(real, entry.name), around))
            elif not (entry.is_symlink() and os.path.isdir(entry.path)):  # a link to itself leads to none
                yield entry.path
            else:
                target = os.path.realpath(entry.path)
                if not any(Path(outer).is_relative_to(target) for outer in (*around, real)):
                    waiting.append((entry.path, target, (*around, target)))


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Makes errors of the operating system name the file that is being written as the user knows it.

    Raises:
        OSError: naming ``path``, in place of one that names a temporary file or none.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"could not be written ({error.strerror or error})", str(path)) from error


class SteadyFile:
    """A file for writers in C++, which end the process where Python would raise: it keeps the error for later.

    Args:
        file: where to write to, open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Takes bytes; after an error it only pretends to."""
        if self._error is None:
            try:
                self._file.write(data)
            except BaseException as error:  # Ctrl-C too
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: closing the file does."""

    def check(self) -> None:
        """Raises what went wrong, if anything did."""
        if self._error is not None:
            raise self._error


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, atomically, see :func:`valid_text`."""
    with atomic_write(path) as temporary:
        temporary.write_text(valid_text(text), encoding="utf-8")


def valid_text(text: str) -> str:
    """Text that UTF-8 can hold: what a name does not decode to is written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def fit_stem(stem: str, tail: str = "") -> str:
    """``stem`` and ``tail`` as the name, without its suffix, of a file that every file system takes.

    A stem that is too long is cut and gets a mark made of all of it, so that two of them stay apart. What the file
    system cannot encode is written as hexadecimal digits.
    """
    encoding = sys.getfilesystemencoding()
    try:
        encoded = os.fsencode(stem)
    except UnicodeEncodeError:
        encoded = stem.encode(encoding, "backslashreplace").replace(b"\\", b"_")
    room = STEM_BYTES - len(os.fsencode(tail))
    if len(encoded) <= room:
        return os.fsdecode(encoded) + tail
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:8]}"
    return encoded[: room - len(mark)].decode(encoding, "ignore") + mark + tail


def new_run_dir(project: str | Path, name: str, *, exist_ok: bool = False) -> Path:
    """Makes and returns ``project/name``, or ``project/name2``, ``name3``, … when that exists already.

    Args:
        project: parent folder.
        name: folder name wanted.
        exist_ok: use an existing folder instead of counting up.

    Raises:
        UserError: if it cannot be created or written.
    """
    project = Path(project)
    number = 1
    while True:
        folder = project / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "Permission denied")
            return folder
        except FileExistsError:
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: expected a folder to write results to, found a file; use --project"
                ) from None
            number += 1
        except (OSError, ValueError) as error:  # a ValueError is a name that cannot be encoded
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"{folder}: cannot create the results folder ({reason}); pass a writable one with --project"
            ) from error


def _is_folder(path: Path) -> bool:
    """Unlike ``Path.is_dir()``, it raises OSError for a name that is too long."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _cannot_write(path: Path, error: OSError | ValueError) -> Exception:
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return OSError(error.errno, f"could not be written ({error.strerror})", str(path))
    reason = error.strerror if isinstance(error, OSError) else error
    named = getattr(error, "errno", None) in (None, errno.ENAMETOOLONG, errno.EISDIR, errno.EINVAL, errno.EILSEQ)
    advice = "choose another name" if named else "choose a writable folder"
    return UserError(f"{path}: cannot be written ({reason}); {advice}")


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
