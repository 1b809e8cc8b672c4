"""Writing files so that nothing half-written stays behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from yolorep.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; on success it is fsynced and renamed onto ``path``.

    On any exception the temporary file is removed and an older ``path`` stays as it was.

    Raises:
        UserError: if the folder cannot be written.
        OSError: naming ``path``, if writing fails: a full disk, say.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept: image and video writers choose the format by it.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=f".part{path.suffix}")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error
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
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error
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
    """Writes ``text`` as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
        except OSError as error:
            raise UserError(
                f"{folder}: cannot create the results folder ({error.strerror}); pass a writable one with --project"
            ) from error


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
