"""What reading a data set found out, kept as plain arrays in the user's cache directory."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from yolorep.config import cache_dir
from yolorep.console import say
from yolorep.errors import UserError
from yolorep.files import atomic_write
from yolorep.image_headers import max_pixels

#: Raise it when the meaning of a cache file changes.
VERSION = 2

_DIGEST_SIZE = hashlib.sha256().digest_size

Arrays = dict[str, NDArray[Any]]


def cache_file(kind: str, paths: Iterable[str]) -> Path:
    """The name of a cache file: another one as soon as size or modification time of any of ``paths`` changes.

    What can be decoded, and how large an image may be, is part of what was found out.
    """
    digest = hashlib.sha256(f"{kind} {VERSION} {PIL.__version__} {cv2.__version__} {max_pixels()}".encode())
    for path in paths:
        digest.update(f"{path}\0{file_state(path)}\n".encode("utf-8", "surrogateescape"))
    return cache_dir() / "labels" / f"{kind}-{digest.hexdigest()[:32]}.npz"


def file_state(path: str) -> str:
    """Size and modification time of a file, or "missing"."""
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def load_arrays(path: Path) -> Arrays | None:
    """Reads what ``save_arrays`` wrote; None if there is nothing, or it is damaged, which costs a second reading."""
    try:
        packed = path.read_bytes()
    except OSError:
        return None
    content, digest = packed[:-_DIGEST_SIZE], packed[-_DIGEST_SIZE:]
    if hashlib.sha256(content).digest() != digest:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Writes arrays atomically. That the cache directory cannot be written is told, and no error."""
    try:
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        with atomic_write(path) as temporary:
            temporary.write_bytes(packed.getvalue() + hashlib.sha256(packed.getvalue()).digest())
    except (OSError, UserError) as error:
        say(f"labels are not cached: {error}")


def pack_json(value: Any) -> NDArray[np.uint8]:
    """A JSON value as an array, to be stored among others without pickle."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpack_json(array: NDArray[np.uint8]) -> Any:
    """The inverse of ``pack_json``."""
    return json.loads(array.tobytes())
