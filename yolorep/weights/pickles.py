"""Reading what torch pickled without running it.

A pickle is a program; this reader runs only the part of it that describes tensors and plain values. A class that is
merely *instantiated* becomes an inert stub that holds the attributes the file gives it; a function that is *called*
must be on a short list, or the file is refused. Nothing costs more than the file's size and the limits below allow.
"""

from __future__ import annotations

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

from yolorep.errors import UserError, first_line
from yolorep.weights.archive import Archive, Refused, open_archive
from yolorep.weights.kinds import is_safetensors, kind_of_file

#: Instructions of a pickle; the largest YOLOv5 with averaged weights and optimizer has 300,000.
MAX_INSTRUCTIONS = 600_000
#: Different classes that a pickle names, and the length of a name.
MAX_CLASSES, MAX_NAME = 10_000, 200
#: Values of a plain structure, counted as often as they are reached, and how deep they lie.
MAX_VALUES, MAX_DEPTH = 1_000_000, 64
MAX_DIMENSIONS = 8
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
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
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


def read_foreign(path: Path) -> Any:
    """Reads any file of weights: its tensors and plain values, with inert stubs for all other objects.

    Raises:
        UserError: one line, if the file is no such file or wants to run something.
    """
    with reading(path, "checkpoint"):
        return read_content(path)


def read_content(path: Path) -> Any:
    """What a file of torch or safetensors describes, to be called within :func:`reading`."""
    if is_safetensors(path):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise Refused(f"a damaged safetensors file: {first_line(error)[:200]}") from error
    with open_archive(path) as archive:
        if not archive.legacy:
            return _Reader(archive).load()
        _machine, content, keys = (_Reader(archive).load() for _ in range(3))
        archive.fill(keys)
        return content


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turns what goes wrong while a file is read into a UserError that calls it a file of that kind, or what it is."""
    try:
        yield
    except (Refused, zipfile.BadZipFile, *DAMAGE, OSError) as error:
        if found := kind_of_file(path):
            raise UserError(f"{path}: expected a {kind}, found {found}") from error
        if isinstance(error, Refused):
            raise UserError(f"{path}: refused: {error}") from error
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        raise UserError(f"{path}: not a readable {kind}: it is damaged ({first_line(error)[:200]})") from error


def check_plain(value: Any, *, what: str) -> None:
    """Makes sure that nested lists and mappings, walked through again and again, cost little.

    Raises:
        Refused: if they are nested deeply or, as they may share parts, come to more than MAX_VALUES values.
    """
    left, waiting = MAX_VALUES, [iter((value,))]
    while waiting:
        item = next(waiting[-1], waiting)
        if item is waiting:
            waiting.pop()
            continue
        left -= 1
        if left < 0 or len(waiting) > MAX_DEPTH:
            raise Refused(f"{what} holds more than {MAX_VALUES:,} values, or {MAX_DEPTH} in each other")
        if isinstance(item, dict):
            waiting.append(iter(item.values()))
        elif isinstance(item, list | tuple):
            waiting.append(iter(item))


class Stub:
    """Stands for an object of any class: swallows what it is made with, keeps the attributes it is given."""

    qualified_name = ""
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Repeated(Stub):
    """Stands for a tensor that shows values again and again: YOLOv5's caches do, weights never."""

    qualified_name = "torch.Tensor"


class _Storage:
    """A storage type named by the pickle."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _inert(*_args: Any) -> None:
    """The value of a call whose result nothing here needs."""


def _method(target: Any, name: Any) -> None:
    """A method of an object, as a fused YOLOv5 model has one for its forward; nothing here calls it."""
    if not isinstance(target, Stub):
        raise Refused(f"it takes the attribute {_shown(name)} of a {type(target).__name__}, which weights do not need")


def _size(sides: Any = ()) -> tuple[Any, ...]:
    if not isinstance(sides, list | tuple) or len(sides) > MAX_DIMENSIONS:
        raise Refused("a size of a tensor that is none")
    return tuple(sides)


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    """An OrderedDict; Python 2 hands its items over at once."""
    if not isinstance(pairs, list | tuple):
        raise Refused("an OrderedDict of something else than pairs")
    for key, _ in pairs:
        _check_key(key)
    return OrderedDict(pairs)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("_codecs.encode with unexpected arguments")
    return b""  # bytes of numpy arrays, which nothing here needs


def _check_key(key: Any) -> None:
    """Keys are words and small numbers: others can be made to collide, or take for ever to hash."""
    if not (key is None or isinstance(key, str | bytes) or (isinstance(key, int) and abs(key) < 1 << 32)):
        raise Refused(f"a key that is a {type(key).__name__}, or a very large number")


def _shown(value: Any) -> str:
    return repr(value)[:80] if isinstance(value, str | int) else type(value).__name__


#: What may be called beside the rebuilding of tensors.
_CALLABLE: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered,
    "__builtin__.set": _inert,
    "builtins.set": _inert,
    "__builtin__.getattr": _method,
    "builtins.getattr": _method,
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _inert,
    "numpy._core.multiarray.scalar": _inert,
}
#: What may be called and gives a stub: values without use here, and tensors of kinds that no model here has.
_STUBS = frozenset(
    (
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePosixPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "torch.device",
        "torch.serialization._get_layout",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_qtensor",
    )
)
#: The instructions that torch and YOLOv5 write, of pickle's protocols 2 to 5. The others are text forms, calls in
#: disguise, numbers of any length, and an array of any size.
_INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "BINPERSID"),
    *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"),
)


class _Metered(dict[int, Any]):
    """Handlers by instruction; looking up more than MAX_INSTRUCTIONS is refused, and one that is not there."""

    left = MAX_INSTRUCTIONS

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Refused(f"more than {MAX_INSTRUCTIONS:,} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        raise Refused("a pickle instruction that torch never writes")


class _Reader(pickle._Unpickler):  # the Python implementation: what its instructions do can be overridden
    """Unpickles into tensors, plain values and stubs."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        # Every value of a checkpoint is stored once: tensors that add up to more are a bomb.
        self.bytes_left = 2 * archive.size
        self.callable: dict[str, Callable[..., Any]] = {
            **_CALLABLE,
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
        }
        self.stubs: dict[str, type[Stub]] = {}
        self.meter = self.dispatch = _Metered(self.handlers)  # type: ignore[misc]
        super().__init__(archive.pickles, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Maps a global to something harmless."""
        full = f"{module}.{name}"
        if len(full) > MAX_NAME or len(self.stubs) > MAX_CLASSES:
            raise Refused(f"it names more than {MAX_CLASSES:,} classes, or one in more than {MAX_NAME} letters")
        if module in ("torch", "torch.storage") and name in STORAGE_TYPES:
            return _Storage(STORAGE_TYPES[name])
        if full in self.callable:
            return self.callable[full]
        if full not in self.stubs:
            self.stubs[full] = type("Stub", (Stub,), {"qualified_name": full})
        return self.stubs[full]

    def persistent_load(self, pid: Any) -> Any:
        """A storage of the archive, or in the old layout a class with its source code."""
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and self.archive.legacy:
            return pid[1]
        if isinstance(pid, tuple) and len(pid) > 1 and isinstance(pid[1], type) and issubclass(pid[1], Stub):
            raise Refused(f"its tensors are in {pid[1].qualified_name}, a kind that no model here has")
        length = 6 if self.archive.legacy else 5
        if not (isinstance(pid, tuple) and len(pid) == length and pid[0] == "storage" and isinstance(pid[1], _Storage)):
            raise Refused("an unexpected kind of external data")
        _, storage_type, key, _, count, *view = pid
        if view not in ([], [None]):
            raise Refused("a storage that is part of another")
        if not isinstance(key, str) or not re.fullmatch(r"[0-9]{1,20}", key) or type(count) is not int or count < 0:
            raise Refused(f"a storage named {_shown(key)}")
        return self.archive.storage(key, storage_type.dtype, count)

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor | Stub:
        if (
            not isinstance(storage, Tensor)
            or not all(isinstance(sides, tuple) and len(sides) <= MAX_DIMENSIONS for sides in (size, stride))
            or len(size) != len(stride)
            or not all(type(value) is int and value >= 0 for value in (offset, *size, *stride))
        ):
            raise Refused("a tensor of impossible layout")
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.numel():
            raise Refused(f"a tensor of size {tuple(size)} reaches beyond its storage of {storage.numel()} values")
        if math.prod(size) > storage.numel():
            return _Repeated()
        self.bytes_left -= math.prod(size) * storage.element_size()
        if self.bytes_left < 0:
            raise Refused("its tensors are larger than the file")
        return storage.as_strided(size, stride, offset)

    def load_reduce(self) -> None:
        """REDUCE: calls a function, only one of those handed out as callable above."""
        args = self.stack.pop()
        function = self.stack[-1]
        if isinstance(function, type) and issubclass(function, Stub) and function.qualified_name in _STUBS:
            self.stack[-1] = function()
            return
        if not any(function is allowed for allowed in self.callable.values()):
            raise Refused(
                f"it calls {getattr(function, 'qualified_name', _shown(function))}, which is not needed for weights"
            )
        if not isinstance(args, tuple) or len(args) > MAX_DIMENSIONS:
            raise Refused("a call with arguments that make no sense")
        if args and isinstance(args[0], list | tuple):
            self.meter.left -= len(args[0])  # what a call goes through
        self.stack[-1] = function(*args)

    def load_newobj(self) -> None:
        """NEWOBJ: makes an object, whatever it is made with."""
        self.stack.pop()
        self._make()

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX: the same, with two kinds of arguments."""
        del self.stack[-2:]
        self._make()

    def _make(self) -> None:
        kind = self.stack.pop()
        if not (isinstance(kind, type) and issubclass(kind, Stub)) and kind is not _ordered:
            raise Refused(f"it makes an object of {_shown(kind)}")
        self.stack.append(kind())

    def load_build(self) -> None:
        """BUILD: gives an object its attributes. Stubs only keep them; an OrderedDict has none that matter."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.state = state
        elif not isinstance(target, OrderedDict):
            raise Refused(f"it sets attributes of a {type(target).__name__}")

    def load_setitem(self) -> None:
        """SETITEM: of mappings only."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_setitems(self) -> None:
        """SETITEMS: the same for several."""
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Refused(f"it sets an item of a {type(self.stack[-1]).__name__}")
        _check_key(key)
        self.stack[-1][key] = value

    def load_additems(self) -> None:
        """ADDITEMS: of sets, which nothing here needs; they stay empty."""
        self.pop_mark()

    def load_long1(self) -> None:
        """LONG1: whole numbers, of up to 64 bits and a sign."""
        count = self.read(1)[0]
        if count > 9:
            raise Refused("a number of more than 64 bits")
        self.append(pickle.decode_long(self.read(count)))

    def load_binunicode(self) -> None:
        """BINUNICODE: text, which lone surrogates are not."""
        self.append(self.read(struct.unpack("<I", self.read(4))[0]).decode())

    def load_short_binunicode(self) -> None:
        """SHORT_BINUNICODE: the same, up to 255 bytes."""
        self.append(self.read(self.read(1)[0]).decode())

    handlers: ClassVar[dict[int, Any]] = {
        **{getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _INSTRUCTIONS},
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.LONG1[0]: load_long1,
        pickle.BINUNICODE[0]: load_binunicode,
        pickle.SHORT_BINUNICODE[0]: load_short_binunicode,
    }
