"""Foreign checkpoints: real ones are read exactly, crafted ones are refused and run nothing."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.test_parser import tiny
from tests.randomize import randomize_
from yolorep.errors import UserError
from yolorep.inference.open import load_model
from yolorep.models.detector import Detector, build_model
from yolorep.weights.load import load_checkpoint
from yolorep.weights.pickles import read_content, reading
from yolorep.weights.yolov5 import Yolov5Checkpoint, interpret, yolov5_names

HEADER = b"\x80\x02"


def read_yolov5(path: Path) -> Yolov5Checkpoint:
    with reading(path, "YOLOv5 checkpoint"):
        return interpret(read_content(path))


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def call(module: str, name: str, *args: bytes) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(args) + b"tR"


def archive(
    path: Path,
    data: bytes,
    *,
    prefix: str = "archive",
    members: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{prefix}/data.pkl", data)
        for name, content in (members or {}).items():
            file.writestr(name, content)
    return path


def tensor(size: str, stride: str, *, key: str = "0", count: int = 4) -> bytes:
    """A call of torch's tensor rebuild on storage ``key``; size and stride are pickled tuples."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + b"K" + bytes([count])
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQK\x00" + size.encode("latin1")
    return rebuild + stride.encode("latin1") + b"\x89}tR"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_checkpoint(path)
    message = str(raised.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


MARK = "touched"
STORAGE = {"archive/data/0": bytes(16)}
ATTACKS: dict[str, tuple[bytes, dict[str, bytes]]] = {
    "os.system": (HEADER + call("os", "system", text(f"touch {MARK}")) + b".", {}),
    "posix.system": (HEADER + call("posix", "system", text(f"touch {MARK}")) + b".", {}),
    "builtins.exec": (HEADER + call("builtins", "exec", text(f"open('{MARK}', 'w')")) + b".", {}),
    "builtins.eval in a dict": (
        HEADER + b"}" + text("model") + call("builtins", "eval", text(f"open('{MARK}', 'w')")) + b"s.",
        {},
    ),
    "getattr": (HEADER + call("builtins", "getattr", text("x"), text("upper")) + b".", {}),
    "nested": (HEADER + call("builtins", "print", call("os", "system", text(f"touch {MARK}"))) + b".", {}),
    "through an allowed call": (
        HEADER + call("collections", "OrderedDict", call("os", "system", text(f"touch {MARK}"))) + b".",
        {},
    ),
    "the result of a call called": (
        HEADER + call("collections", "OrderedDict") + b"(" + text("x") + b"tR" + b".",
        {},
    ),
    "codecs with another encoding": (HEADER + call("_codecs", "encode", text("x"), text("zip")) + b".", {}),
    "obsolete instruction": (HEADER + b"(" + b"ios\nsystem\n" + b".", {}),
    "oversized stride": (HEADER + tensor("K\x02K\x02\x86", "K\x64K\x01\x86") + b".", STORAGE),
    "huge tensor of one value": (HEADER + tensor("J\xff\xff\xff\x7fK\x02\x86", "K\x00K\x00\x86") + b".", STORAGE),
    "negative size": (HEADER + tensor("J\xff\xff\xff\xffK\x02\x86", "K\x01K\x01\x86") + b".", STORAGE),
    "storage outside": (HEADER + tensor("K\x02\x85", "K\x01\x85", key="../0") + b".", STORAGE),
    "storage missing": (HEADER + tensor("K\x02\x85", "K\x01\x85", key="7") + b".", STORAGE),
    "storage of another size": (HEADER + tensor("K\x02\x85", "K\x01\x85", count=9) + b".", STORAGE),
    "attributes of a function": (HEADER + b"c_codecs\nencode\n}" + text("x") + text("y") + b"sb.", {}),
    "member outside": (HEADER + b"}.", {"../evil": b""}),
    "absolute member": (HEADER + b"}.", {"/evil": b""}),
    "big endian": (HEADER + b"}.", {"archive/byteorder": b"big"}),
    "two pickles": (HEADER + b"}.", {"other/data.pkl": HEADER + b"}."}),
    "no model": (HEADER + b"}" + text("epoch") + b"K\x01s.", {}),
    "stops at once": (HEADER + b".", {}),
    "a wrong number": (HEADER + b"J\x01\x02.", {}),
    "a list as a key": (HEADER + b"}]K\x01s.", {}),
    "a number as an address": (HEADER + b"K\x01Q.", {}),
    "a gigantic array": (HEADER + b"\x96" + struct.pack("<Q", 20 << 30) + b".", {}),
    "tensors without end": (HEADER + b"(" + tensor("K\x04\x85", "K\x01\x85") * 60 + b"l.", STORAGE),
    "stops early": (HEADER + b"}" + text("model"), {}),
    "empty stack": (HEADER + b".", {}),
    "unknown instruction": (HEADER + b"\xff.", {}),
    "self-containing": (HEADER + b"]q\x00h\x00a.", {}),
}


@pytest.mark.parametrize(("data", "members"), ATTACKS.values(), ids=ATTACKS)
def test_crafted_files_are_refused(
    data: bytes, members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(archive(tmp_path / "evil.pt", data, members=members))
    assert sorted(os.listdir(tmp_path)) == ["evil.pt"]


def test_the_refused_call_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "evil.pt", HEADER + call("os", "system", text("true")) + b".")
    assert "refused: it calls os.system" in refused(path)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.pt", HEADER + b"}.", compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(path)


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {MARK}",)


JUNK = {
    "plain pickle": pickle.dumps({"model": _Evil()}),
    "junk": bytes(range(256)) * 8,
    "empty": b"",
    "text": b"just some text",
    "truncated zip": b"PK\x03\x04" + bytes(50),
}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_what_is_no_checkpoint(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pt").write_bytes(content)
    refused(tmp_path / "file.pt")
    assert not (tmp_path / MARK).exists()


def test_a_payload_inside_torch_save_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Evil()}, tmp_path / "evil.pt")
    assert "refused: it calls posix.system" in refused(tmp_path / "evil.pt")
    assert not (tmp_path / MARK).exists()


class _Foreign:
    """Writes a model as YOLOv5 would: whole pickled objects of classes that exist nowhere here."""

    def __init__(self, model: Detector, *, names: Any, prefix: str, half: bool, anchor_grid: bool) -> None:
        self.model, self.names, self.prefix = model, names, prefix
        self.half, self.anchor_grid = half, anchor_grid

    def write(self, path: Path) -> Path:
        theirs = yolov5_names(self.model)
        tensors = {theirs[name]: value for name, value in self.model.state_dict().items()}
        root = self._object("models.yolo", "DetectionModel")
        for name, value in tensors.items():
            self._insert(root, name.split("."), value)
        head = root.__dict__["_modules"]["model"].__dict__["_modules"][str(len(self.model.model) - 1)]
        if self.anchor_grid:
            head.__dict__["_buffers"]["anchor_grid"] = torch.zeros(2, 1, 3, 1, 1, 2)
        head.__dict__["grid"] = [torch.zeros(1)]
        root.__dict__["yaml"] = self.model.config.to_dict() | {"nc": 80}
        root.__dict__["names"] = self.names
        buffer = io.BytesIO()
        torch.save({"epoch": -1, "model": root, "ema": None, "optimizer": None}, buffer)
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                name = info.filename.split("/", 1)[1]
                target.writestr(f"{self.prefix}/{name}", source.read(info))
        return path

    def _object(self, module: str, name: str) -> Any:
        cls = type(name, (), {"__module__": module})
        made = cls()
        made.__dict__.update(_parameters={}, _buffers={}, _modules={})
        return made

    def _insert(self, parent: Any, path: list[str], value: torch.Tensor) -> None:
        *folders, leaf = path
        for folder in folders:
            modules = parent.__dict__["_modules"]
            if folder not in modules:
                bn = folder == "bn"
                modules[folder] = self._object(*(("torch.nn.modules.batchnorm", "BatchNorm2d") if bn else ("m", "X")))
                if bn:
                    modules[folder].__dict__.update(eps=1e-4, momentum=0.05)
            parent = modules[folder]
        value = value.half() if self.half and value.is_floating_point() else value
        is_parameter = leaf in ("weight", "bias")
        parent.__dict__["_parameters" if is_parameter else "_buffers"][leaf] = (
            nn.Parameter(value) if is_parameter else value
        )


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pickle write classes that cannot be imported."""
    import sys
    import types

    for module, name in (
        ("models", ""),
        ("models.yolo", "DetectionModel"),
        ("m", "X"),
    ):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        if name:
            setattr(sys.modules[module], name, type(name, (), {"__module__": module}))
    monkeypatch.setattr(
        _Foreign,
        "_object",
        lambda self, module, name: _bare(
            getattr(sys.modules[module], name) if module != "torch.nn.modules.batchnorm" else nn.BatchNorm2d
        ),
    )


def _bare(cls: type) -> Any:
    made = cls.__new__(cls)
    made.__dict__.update(_parameters={}, _buffers={}, _modules={}, training=False)
    return made


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize("prefix", ["archive", "best"])
@pytest.mark.parametrize("names", [["cat", "dog"], {0: "cat", 1: "dog"}], ids=["list", "dict"])
@pytest.mark.parametrize("half", [True, False], ids=["fp16", "fp32"])
@pytest.mark.parametrize("anchor_grid", [True, False], ids=["anchor_grid", "plain"])
def test_every_layout_loads(prefix: str, names: Any, half: bool, anchor_grid: bool, tmp_path: Path) -> None:
    source = randomize_(build_model(tiny(), names=["cat", "dog"])).eval()
    path = _Foreign(source, names=names, prefix=prefix, half=half, anchor_grid=anchor_grid).write(tmp_path / "w.pt")
    model = load_model(path)
    assert model.names == ("cat", "dog") and not model.training
    expected = source.half().float() if half else source
    mine = model.state_dict()
    for name, value in expected.state_dict().items():
        assert torch.equal(mine[name], value), name
    norms = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {(1e-4, 0.05)}  # the file's own, not our defaults


def test_the_official_file(shared: Path) -> None:
    foreign = read_yolov5(shared / "weights" / "yolov5n.pt")
    assert len(foreign.names) == 80 and foreign.config["nc"] == 80
    model = load_model(shared / "weights" / "yolov5n.pt")
    assert sum(p.numel() for p in model.parameters()) == 1_872_157


def test_both_safe_routes_agree(shared: Path) -> None:
    """Against torch's own restricted unpickler, given stubs for the classes."""
    path = shared / "weights" / "yolov5n.pt"
    stubs: list[tuple[Any, str]] = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(str(path)):
        stub = type(
            "Stub",
            (),
            {
                "__new__": lambda cls, *a, **k: object.__new__(cls),
                "__init__": lambda *a, **k: None,
                "__setstate__": lambda self, state: self.__dict__.update(state) if isinstance(state, dict) else None,
            },
        )
        stubs.append((stub, name))
    with torch.serialization.safe_globals(stubs):
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    found: dict[str, torch.Tensor] = {}

    def walk(module: Any, prefix: str) -> None:
        state = module.__dict__
        for group in ("_parameters", "_buffers"):
            for name, value in state[group].items():
                if value is not None and name != "anchor_grid":
                    found[prefix + name] = value
        for name, child in state["_modules"].items():
            walk(child, f"{prefix}{name}.")

    walk(checkpoint["model"], "")
    mine = read_yolov5(path).state_dict
    assert mine.keys() == found.keys()
    assert all(torch.equal(mine[name], value) for name, value in found.items())
