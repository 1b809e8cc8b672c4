"""Reading files that torch pickled without running them.

Such a file is a zip with a pickle of whole Python objects. A pickle is a program; this reader runs only the part of it
that describes tensors and plain values. A class that is merely *instantiated* becomes an inert stub that holds the
attributes the file gives it; a function that is *called* must be on a short list, or the file is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolorep.errors import UserError

MAX_PICKLE_BYTES = 64 << 20
STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


#: What unpickling raises when the instructions make no sense.
DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class Refused(Exception):
    """Why a file is not read."""


def read_foreign(path: Path) -> Any:
    """Reads any file that torch wrote as a zip: its tensors and plain values, with inert stubs for all other objects.

    Raises:
        UserError: one line, if the file is no such file or wants to run something.
    """
    with reading(path, "file of weights"):
        return unpickle(path)


def unpickle(path: Path) -> Any:
    """What the pickle in a file describes, to be called within :func:`reading`."""
    with zipfile.ZipFile(path) as archive:
        return _Reader(archive).load()


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turns what goes wrong while a file is read into a UserError that calls it a file of that kind."""
    try:
        yield
    except Refused as error:
        raise UserError(f"{path}: refused: {error}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: expected a checkpoint (a zip file), found something else or a damaged one") from error
    except (*DAMAGE, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable {kind}: {reason}") from error


class Stub:
    """Stands for an object of any class: swallows what it is made with, keeps the attributes it is given."""

    qualified_name = ""
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Storage:
    """A storage type named by the pickle."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _stub_class(module: str, name: str) -> type[Stub]:
    return type("Stub", (Stub,), {"qualified_name": f"{module}.{name}"})


def _inert(*_args: Any) -> None:
    """The value of a call whose result nothing here needs."""


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("_codecs.encode with unexpected arguments")
    return text.encode("latin1")


class _Reader(pickle._Unpickler):  # the Python implementation: its REDUCE can be overridden
    """Unpickles into tensors, plain values and stubs."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        for name in names:
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise Refused(f"the member {name!r} is compressed, which torch never does")
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise Refused(f"the member {name!r} points outside of the archive")
        pickles = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise Refused(f"expected one data.pkl in the archive, found {len(pickles)}")
        self.prefix = pickles[0].removesuffix("data.pkl")
        if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_BYTES:
            raise Refused(f"data.pkl is larger than {MAX_PICKLE_BYTES >> 20} MB")
        order = f"{self.prefix}byteorder"
        if order in names and (archive.getinfo(order).file_size != 6 or archive.read(order) != b"little"):
            raise Refused("expected little-endian tensors")
        self.archive = archive
        # Every value of a checkpoint is stored once: tensors that add up to more are a bomb.
        self.bytes_left = 2 * sum(info.file_size for info in archive.infolist())
        self.storages: dict[str, Tensor] = {}
        self.callable: list[Callable[..., Any]] = []
        super().__init__(io.BytesIO(archive.read(pickles[0])), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Maps a global to something harmless."""
        full = f"{module}.{name}"
        if module in ("torch", "torch.storage") and name in STORAGE_TYPES:
            return _Storage(STORAGE_TYPES[name])
        known: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_parameter": _rebuild_parameter,
            "torch.Size": tuple,
            "collections.OrderedDict": OrderedDict,
            "__builtin__.set": set,
            "builtins.set": set,
            "_codecs.encode": _encode,
            "numpy.core.multiarray.scalar": _inert,
            "numpy._core.multiarray.scalar": _inert,
            "numpy.core.multiarray._reconstruct": _stub_class(module, name),
            "numpy._core.multiarray._reconstruct": _stub_class(module, name),
            "numpy.dtype": _stub_class(module, name),
            "pathlib.PosixPath": _stub_class(module, name),
            "pathlib.WindowsPath": _stub_class(module, name),
            "pathlib.PurePosixPath": _stub_class(module, name),
        }
        if full in known:
            self.callable.append(known[full])
            return known[full]
        return _stub_class(module, name)

    def persistent_load(self, pid: Any) -> Tensor:
        """Reads a storage from the archive."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _Storage)):
            raise Refused("an unexpected kind of external data")
        _, storage_type, key, _, count = pid
        if not isinstance(key, str) or not key.isdigit() or not isinstance(count, int):
            raise Refused(f"a storage named {key!r}")
        if key not in self.storages:
            member = f"{self.prefix}data/{key}"
            if member not in self.archive.NameToInfo:
                raise Refused(f"the storage {key} is missing")
            size, expected = self.archive.getinfo(member).file_size, count * storage_type.dtype.itemsize
            if size != expected:
                raise Refused(f"the storage {key} has {size} bytes, expected {expected}")
            data = self.archive.read(member)
            self.storages[key] = torch.frombuffer(bytearray(data), dtype=storage_type.dtype) if data else torch.empty(0)
        return self.storages[key]

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        if not isinstance(storage, Tensor) or not all(
            isinstance(value, int) and value >= 0 for value in (offset, *size, *stride)
        ):
            raise Refused("a tensor of impossible layout")
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if math.prod(size) > storage.numel() or (math.prod(size) and last >= storage.numel()):
            raise Refused(f"a tensor of size {tuple(size)} reaches beyond its storage of {storage.numel()} values")
        self.bytes_left -= math.prod(size) * storage.element_size()
        if self.bytes_left < 0:
            raise Refused("its tensors are larger than the file")
        return storage.as_strided(size, stride, offset).clone()

    def load_reduce(self) -> None:
        """REDUCE: calls a function. Only those handed out as callable above."""
        args = self.stack.pop()
        function = self.stack[-1]
        if not any(function is allowed for allowed in self.callable):
            raise Refused(f"it calls {getattr(function, 'qualified_name', function)}, which is not needed for weights")
        self.stack[-1] = function(*args)

    def load_obj(self) -> None:
        """OBJ, INST and BYTEARRAY8, which torch never writes; the last one allocates whatever it is told to."""
        raise Refused("a pickle instruction that torch never writes")

    def load_build(self) -> None:
        """BUILD: gives an object its attributes. Stubs only keep them; an OrderedDict has none that matter."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.state = state
        elif not isinstance(target, OrderedDict):
            raise Refused(f"it sets attributes of a {type(target).__name__}")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.INST[0]] = load_obj
    dispatch[pickle.BYTEARRAY8[0]] = load_obj
