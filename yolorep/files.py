"""Writing files so that nothing half-written stays behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        # What the user knows is the file's own name, not the temporary one's.
        raise OSError(error.errno, f"could not be written ({error.strerror or error})", str(path)) from error
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
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise OSError(error.errno, f"could not be written ({error.strerror or error})", str(path)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_endless(path: str | os.PathLike[str]) -> bool:
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
            if not os.path.isdir(entry.path):  # a link to itself is none either
                yield entry.path
            elif not entry.is_symlink():
                waiting.appendleft((entry.path, os.path.join(real, entry.name), around))
            else:
                target = os.path.realpath(entry.path)
                if not any(Path(outer).is_relative_to(target) for outer in (*around, real)):
                    waiting.append((entry.path, target, (*around, target)))


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
