"""The two layouts of torch's files, checked: a zip with a member a storage, and the stream of torch 1.5 and before.

Nothing is unpacked to disk. A zip's checksums are compared for every member that is read, and all but unused storages
are; the old layout has none.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

MAX_PICKLE_BYTES = 64 << 20
#: Bytes of a zip's table of contents: about 60,000 members.
MAX_TABLE_BYTES = 4 << 20
#: Members that are neither the pickle nor a storage, such as ``byteorder``, and bytes of one.
MAX_NOTES, MAX_NOTE_BYTES = 64, 1 << 20
#: How the old layout begins: a pickled number that stands for nothing, and the layout's version.
LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_VERSION = b"M\xe9\x03."
#: How a zip's last record begins, its length, and how far from the end it may be.
_END, _END_BYTES, _END_WITHIN = b"PK\x05\x06", 22, 22 + 65535
#: The same of the record that comes before it, for large files; torch always writes one.
_END64, _END64_BYTES = b"PK\x06\x06", 56


class Refused(Exception):
    """Why a file is not read."""


class Archive(ABC):
    """An open file of torch's.

    Attributes:
        size: bytes of the file, which its tensors cannot exceed.
        pickles: the instructions that describe the content: one pickle, or in the old layout three: about the machine,
            the content, and the order of the storages.
        legacy: it has the old layout.
    """

    size: int
    pickles: BinaryIO
    legacy: bool

    @abstractmethod
    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        """The values that the instructions call ``key``, as a flat tensor; in the old layout zeros until filled."""

    @abstractmethod
    def fill(self, keys: list[str]) -> None:
        """Reads the values of the old layout, which follow the instructions in this order."""


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Opens a file that torch wrote.

    Raises:
        Refused: if it is none, or made to do harm.
        zipfile.BadZipFile: if it is damaged.
    """
    if is_legacy(path):
        with path.open("rb") as file:
            yield _Legacy(file)
    else:
        check_table(path)
        with zipfile.ZipFile(path) as archive:
            yield _Zip(archive, os.path.getsize(path))


def is_legacy(path: Path) -> bool:
    """Whether a file has the layout of torch 1.5 and before."""
    with path.open("rb") as file:
        return file.read(2 + len(LEGACY_MAGIC))[2:] == LEGACY_MAGIC


def check_table(path: Path) -> None:
    """Makes sure that a zip's table of contents does not take long to read.

    Raises:
        Refused: if it does.
        zipfile.BadZipFile: if there is none.
    """
    size = os.path.getsize(path)
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise zipfile.BadZipFile("no beginning")
        file.seek(max(0, size - _END_WITHIN))
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_BYTES:
        raise zipfile.BadZipFile("no end")
    tables = [struct.unpack_from("<I", tail, end + 12)[0]]
    end64 = tail.rfind(_END64)
    if end64 >= 0 and len(tail) - end64 >= _END64_BYTES:
        tables.append(struct.unpack_from("<Q", tail, end64 + 40)[0])
    if max(tables) > MAX_TABLE_BYTES:
        raise Refused(f"its table of contents is larger than {MAX_TABLE_BYTES >> 20} MB")


class _Zip(Archive):
    legacy = False

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self.size = archive, size
        names = archive.namelist()
        _check_members(archive, size)
        pickles = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise Refused(f"expected one data.pkl in the archive, found {len(pickles)}")
        self._prefix = pickles[0].removesuffix("data.pkl")
        if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_BYTES:
            raise Refused(f"data.pkl is larger than {MAX_PICKLE_BYTES >> 20} MB")
        self.pickles = io.BytesIO(archive.read(pickles[0]))
        self._storages: dict[str, Tensor] = {}
        notes = [name for name in names if name != pickles[0] and not name.startswith(f"{self._prefix}data/")]
        if len(notes) > MAX_NOTES:
            raise Refused(f"it has {len(notes)} members that torch does not write")
        for name in notes:
            self._read_note(name)

    def _read_note(self, name: str) -> None:
        if self._archive.getinfo(name).file_size > MAX_NOTE_BYTES:
            raise Refused(f"the member {name[:80]!r} is not one that torch writes")
        content = self._archive.read(name)
        if name == f"{self._prefix}byteorder" and content != b"little":
            raise Refused("expected little-endian tensors")

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in self._storages:
            member = f"{self._prefix}data/{key}"
            if member not in self._archive.NameToInfo:
                raise Refused(f"the storage {key} is missing")
            size, expected = self._archive.getinfo(member).file_size, count * dtype.itemsize
            if size != expected:
                raise Refused(f"the storage {key} has {size} bytes, expected {expected}")
            data = self._archive.read(member)  # compares the checksum
            self._storages[key] = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0).to(dtype)
        return self._storages[key]

    def fill(self, keys: list[str]) -> None:
        raise Refused("a list of storages, which a zip has no use for")


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Raises Refused for members that torch does not write."""
    members = archive.infolist()
    for info in members:
        name = info.filename
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Refused(f"the member {name[:80]!r} is compressed or encrypted, which torch never does")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise Refused(f"the member {name[:80]!r} points outside of the archive")
        if info.file_size != info.compress_size:
            raise Refused(f"the member {name[:80]!r} has two sizes, {info.file_size} and {info.compress_size} bytes")
    if len(archive.NameToInfo) != len(members):
        raise Refused("two of its members have the same name")
    if sum(info.file_size for info in members) > size:
        raise Refused("its members are larger than the file")


class _Legacy(Archive):
    legacy = True

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        magic, version = (self.pickles.read(2 + len(part))[2:] for part in (LEGACY_MAGIC, LEGACY_VERSION))
        if (magic, version) != (LEGACY_MAGIC, LEGACY_VERSION):
            raise Refused("an unknown version of torch's old layout")
        self._storages: dict[str, Tensor] = {}
        self._bytes_left = self.size

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in self._storages:
            self._bytes_left -= count * dtype.itemsize
            if count < 0 or self._bytes_left < 0:
                raise Refused("its storages are larger than the file")
            self._storages[key] = torch.zeros(count, dtype=dtype)
        return self._storages[key]

    def fill(self, keys: list[str]) -> None:
        self._file.seek(self.pickles.tell())
        if set(keys) != self._storages.keys() or len(keys) != len(self._storages):
            raise Refused("its list of storages does not fit its tensors")
        for key in keys:
            storage = self._storages[key]
            count = self._file.read(8)
            if len(count) != 8 or struct.unpack("<q", count)[0] != storage.numel():
                raise Refused(f"the storage {key} has another size than its tensors")
            data = self._file.read(storage.numel() * storage.element_size())
            if len(data) != storage.numel() * storage.element_size():
                raise Refused("the file is cut off")
            if data:
                storage.copy_(torch.frombuffer(bytearray(data), dtype=storage.dtype))
        if self._file.read(1):
            raise Refused("something follows its storages")
