"""Files of weights that are damaged, or made to take all memory or time: loaded as they were, or one line."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case, case
from tests.hostile.mutate import HOSTILE_VALUES, mutate_bytes, mutate_tree, rng
from tests.models.test_parser import tiny
from tests.randomize import randomize_
from tests.weights.test_yolov5 import HEADER, call, tensor, text
from yolorep.errors import UserError
from yolorep.models.detector import build_model
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint

MARK, DICT, LIST, PUT_0, GET_0 = b"(", b"}", b"]", b"q\0", b"h\0"
FOUR_VALUES = {"archive/data/0": bytes(16)}


def stub(module: str, name: str, attributes: bytes) -> bytes:
    """An object of a class that is not imported, with attributes."""
    return b"c" + f"{module}\n{name}\n".encode() + b")\x81" + attributes + b"b"


def mapping(**items: bytes) -> bytes:
    return DICT + b"".join(text(key) + value + b"s" for key, value in items.items())


def yolov5(modules: bytes, **state: bytes) -> bytes:
    """A YOLOv5 checkpoint whose model has these modules."""
    state = {"yaml": mapping(nc=b"K\x01"), "names": LIST + text("a") + b"a", **state}
    return HEADER + mapping(model=stub("models.yolo", "DetectionModel", mapping(_modules=modules, **state))) + b"."


def shared_children(levels: int) -> bytes:
    """Modules whose two children are one and the same: 2 to the ``levels`` of them, when counted as a tree."""
    module = stub("m", "M", DICT)
    for _ in range(levels):
        module = stub("m", "M", mapping(_modules=DICT + text("a") + module + PUT_0 + b"s" + text("b") + GET_0 + b"s"))
    return mapping(a=module)


def long_names(levels: int) -> bytes:
    """The same, in which every name has a megabyte."""
    module = stub("m", "M", DICT)
    for level in range(levels):
        name = text("x" * (1 << 20)) + b"q\1" if level == levels - 1 else b"h\1"  # the outermost comes first
        module = stub("m", "M", mapping(_modules=DICT + name + module + PUT_0 + b"s" + text("b") + GET_0 + b"s"))
    return mapping(a=module)


def shared_lists(levels: int) -> bytes:
    value = LIST
    for _ in range(levels):
        value = LIST + b"(" + value + PUT_0 + GET_0 + b"e"
    return value


def long_number(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw if len(raw) > 255 else b"\x8a" + bytes([len(raw)]) + raw


def colliding() -> bytes:
    """100,000 keys of one hash."""
    keys = (long_number(index * (2**61 - 1)) for index in range(1, 100_001))
    return HEADER + DICT + MARK + b"".join(key + b"N" for key in keys) + b"u."


def ours(**changes: bytes) -> bytes:
    content = {"format": text("yolorep-1"), "model_config": DICT, "names": LIST + text("a") + b"a", "bn": DICT}
    content |= {"state_dict": DICT, "ema": b"N", "fused": b"\x89", "training": DICT, "data": text("")}
    return HEADER + mapping(**{**content, **changes}) + b"."


MANY_CLASSES = b"".join(f"cm\nC{index}\n0".encode() for index in range(30_000))
#: Bytes of a pickle, all of which describe far more than they hold.
BOMBS: dict[str, Callable[[], bytes]] = {
    "16 MB of marks": lambda: HEADER + MARK * (16 << 20) + b".",
    "16 MB of lists": lambda: HEADER + LIST * (16 << 20) + b".",
    "16 MB of sets": lambda: HEADER + b"\x8f" * (16 << 20) + b".",
    "20 MB of memo": lambda: HEADER + b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(4 << 20)) + b".",
    "shared children": lambda: yolov5(shared_children(30)),
    "shared children, deep": lambda: yolov5(shared_children(3000)),
    "shared attributes": lambda: yolov5(
        DICT + MARK + text("0") + stub("m", "M", mapping(_buffers=_buffers(20_000)) + PUT_0)
        + b"".join(text(str(index)) + stub("m", "M", GET_0) for index in range(1, 9_000)) + b"u"
    ),
    "shared lists in a model file": lambda: yolov5(DICT, yaml=mapping(backbone=shared_lists(40))),
    "shared lists in a config": lambda: ours(model_config=mapping(backbone=shared_lists(40))),
    "shared lists as names": lambda: ours(names=shared_lists(40)),
    "lists in each other": lambda: ours(model_config=mapping(head=LIST * 100_000 + b"a" * 99_999)),
    "lists in each other, as a state": lambda: ours(training=mapping(optimizer=LIST * 50_000 + b"a" * 49_999)),
    "tuples as a key": lambda: HEADER + DICT + b")" + (PUT_0 + GET_0 + b"\x86") * 60 + b"Ns.",
    "colliding keys": colliding,
    "colliding memo": lambda: HEADER + b"N" + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(1, 100_001)) + b".",
    "a number of 3 million digits": lambda: ours(model_config=mapping(nc=long_number(1 << 10_000_000))),
    "a number of 300 digits": lambda: ours(model_config=mapping(nc=long_number(10**300))),
    "a number in decimals": lambda: HEADER + b"I" + b"9" * (1 << 20) + b"\n.",
    "30,000 classes": lambda: HEADER + MANY_CLASSES + b"N.",
    "a class name of 8 MB": lambda: HEADER + b"cm\n" + b"x" * (8 << 20) + b"\n(tR.",
    "200,000 class names": lambda: ours(names=LIST + MARK + text("a") * 200_000 + b"e"),
    "200,000 YOLOv5 names": lambda: yolov5(DICT, names=LIST + MARK + text("a") * 200_000 + b"e"),
    "sizes of text": lambda: HEADER + text("x" * (8 << 20)) + PUT_0
    + (b"0ctorch\nSize\n" + GET_0 + b"\x85R") * 500 + b".",
    "sizes of a list": lambda: HEADER + LIST + MARK + b"N" * 90_000 + b"e" + PUT_0
    + (b"0ctorch\nSize\n" + GET_0 + b"\x85R") * 9_000 + b".",
    "sets of a list": lambda: HEADER + LIST + MARK + b"K\1" * 90_000 + b"e" + PUT_0
    + (b"0c__builtin__\nset\n" + GET_0 + b"\x85R") * 9_000 + b".",
    "objects made with much": lambda: HEADER + MARK + b"N" * 90_000 + b"t" + PUT_0
    + (b"0cm\nM\n" + GET_0 + b"\x81") * 30_000 + b".",
    "a call with much": lambda: HEADER + MARK + b"N" * 90_000 + b"t" + PUT_0
    + (b"0ccollections\nOrderedDict\n" + GET_0 + b"R") * 30_000 + b".",
    "calls of many functions": lambda: HEADER + (b"ccollections\nOrderedDict\n)R0") * 200_000 + b"N.",
    "a set item of a tensor": lambda: HEADER + tensor("K\x04\x85", "K\x01\x85") + b"NNs.",
    "a surrogate as a class": lambda: ours(names=LIST + b"X\3\0\0\0\xed\xa0\x80a"),
    "a surrogate as a YOLOv5 class": lambda: yolov5(DICT, names=LIST + b"X\3\0\0\0\xed\xa0\x80a"),
    "an array of 20 GB": lambda: HEADER + b"\x96" + struct.pack("<Q", 20 << 30) + b".",
    "a text of 4 GB": lambda: HEADER + b"X\xff\xff\xff\xffabc.",
    "a frame of 20 GB": lambda: b"\x80\x04\x95" + struct.pack("<Q", 20 << 30) + b"N.",
    "a storage of 2^62 values": lambda: HEADER + _storage(long_number(2**62)) + b".",
    "a repeated tensor as weights": lambda: ours(
        state_dict=mapping(a=tensor("J\xff\xff\xff\x7fK\x7f\x86", "K\0K\0\x86"))
    ),
    "an offset of 2^62": lambda: ours(state_dict=mapping(a=_view(long_number(2**62), b"K\2\x85", b"K\1\x85"))),
    "a negative offset": lambda: ours(state_dict=mapping(a=_view(b"J\xff\xff\xff\xff", b"K\2\x85", b"K\1\x85"))),
    "a stride of 2^62": lambda: ours(state_dict=mapping(a=_view(b"K\0", b"K\2\x85", long_number(2**62) + b"\x85"))),
    "1000 dimensions": lambda: ours(state_dict=mapping(a=_view(b"K\0", *[MARK + b"K\1" * 1000 + b"t"] * 2))),
    "views of one storage": lambda: HEADER + LIST + MARK + tensor("K\x04\x85", "K\x01\x85") * 20_000 + b"e.",
    "modules with long names": lambda: yolov5(long_names(18)),
    "classes with long names": lambda: ours(names=LIST + text("x" * 10_000) + b"a"),
    "eps as text": lambda: yolov5(mapping(a=stub("torch.nn.modules.batchnorm", "BatchNorm2d", mapping(eps=text("x"))))),
    "a model in itself": lambda: HEADER + mapping(
        model=b"cmodels.yolo\nDetectionModel\n)\x81" + PUT_0 + mapping(_modules=mapping(a=GET_0)) + b"b"
    ) + b".",
}  # fmt: skip


def _buffers(count: int) -> bytes:
    return DICT + MARK + b"".join(text(str(index)) + b"N" for index in range(count)) + b"u"


def _storage(count: bytes) -> bytes:
    return MARK + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + count + b"tQ"


def _view(offset: bytes, size: bytes, stride: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + MARK + _storage(b"K\4") + offset + size + stride + b"\x89}tR"


def write_zip(path: Path, data: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in FOUR_VALUES.items():
            file.writestr(name, content)
    return path


def refuse(path: Path) -> None:
    load_checkpoint(path)
    raise AssertionError(f"{path} was loaded")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of ours."""
    path = tmp_path_factory.mktemp("good") / "best.pt"
    model = randomize_(build_model(tiny(), names=["cat", "dog"])).eval()
    save_checkpoint(path, model, ema=model, training={"progress": {"epochs_done": 1}})
    return path


#: Those that take a while to be written, or to be refused.
LARGE = (
    *("16 MB of marks", "16 MB of lists", "16 MB of sets", "20 MB of memo", "calls of many functions"),
    *("shared lists in a model file", "shared lists as names", "200,000 class names", "views of one storage"),
    *("shared lists in a config", "shared attributes", "lists in each other", "lists in each other, as a state"),
    *("sizes of text", "sizes of a list", "sets of a list", "a class name of 8 MB", "modules with long names"),
    *("200,000 YOLOv5 names", "objects made with much", "a call with much", "30,000 classes", "a number in decimals"),
)


@pytest.mark.parametrize(
    "names", [sorted(BOMBS.keys() - set(LARGE)), pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_files_that_describe_much(hostile: Hostile, tmp_path: Path, names: Sequence[str]) -> None:
    def attack(index: int, name: str) -> Case:
        path = tmp_path / f"{index}.pt"
        return Case(name, lambda: refuse(path), before=lambda: write_zip(path, BOMBS[name]()))

    hostile([attack(index, name) for index, name in enumerate(names)])


def zip_of(members: Iterator[tuple[str, bytes]], path: Path, **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", **how) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


@pytest.mark.slow
def test_a_table_of_contents_that_takes_long(hostile: Hostile, tmp_path: Path) -> None:
    path = zip_of(((f"{index}", b"") for index in range(300_000)), tmp_path / "members.pt")
    hostile([case("300,000 members", refuse, path)])


def test_archives_that_describe_much(hostile: Hostile, tmp_path: Path) -> None:
    zeros = itertools.chain([("a/data.pkl", HEADER + b"}.")], ((f"a/data/{i}", bytes(1 << 20)) for i in range(8)))
    paths = {
        "deflated zeros": zip_of(zeros, tmp_path / "zeros.pt", compression=zipfile.ZIP_DEFLATED),
        "a deflated pickle": zip_of(
            iter([("a/data.pkl", HEADER + b"N" * (8 << 20))]), tmp_path / "pickle.pt", compression=zipfile.ZIP_DEFLATED
        ),
        "a name twice": tmp_path / "twice.pt",
        "two sizes": tmp_path / "sizes.pt",
    }
    with pytest.warns(UserWarning, match="Duplicate name"):
        zip_of(iter([("a/data.pkl", HEADER + b"}."), ("a/x", b""), ("a/x", b"y")]), paths["a name twice"])
    plain = bytearray(write_zip(tmp_path / "plain.pt", HEADER + b"}.").read_bytes())
    place = plain.rindex(b"PK\x01\x02")
    plain[place + 24 : place + 28] = struct.pack("<I", 1 << 30)
    paths["two sizes"].write_bytes(plain)
    hostile(case(name, refuse, path) for name, path in paths.items())


def load(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).build().state_dict()


def unchanged(path: Path, good: Path) -> None:
    """Loads a damaged file: every value is as it was, if it loads at all."""
    found, expected = load(path), load(good)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    one, two = load_checkpoint(path), load_checkpoint(good)
    assert (one.names, one.training, one.model_config) == (two.names, two.training, two.model_config)


def flipped(good: Path, folder: Path, places: Iterator[int]) -> Iterator[Case]:
    content = good.read_bytes()
    path = folder / "flipped.pt"

    def write(bit: int) -> None:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)

    for bit in places:
        yield Case(f"bit {bit}", lambda: unchanged(path, good), before=lambda bit=bit: write(bit))


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_flipped_bits(hostile: Hostile, good: Path, tmp_path: Path, count: int) -> None:
    bits, random = good.stat().st_size * 8, rng("bits", count)
    table = good.read_bytes().index(b"PK\x01\x02") * 8
    places = [random.randrange(bits) for _ in range(count // 2)]
    places += [random.randrange(table, bits) for _ in range(count // 2)]
    hostile(flipped(good, tmp_path, iter(places)))


def test_flipped_bits_of_values_are_all_refused(good: Path, tmp_path: Path) -> None:
    """Without checksums they would be other weights."""
    content = good.read_bytes()
    with zipfile.ZipFile(good) as archive:
        members = [info for info in archive.infolist() if "/data/" in info.filename]
    random = rng("values")
    for info in random.sample(members, 25):
        start = content.index(info.filename.encode()) + len(info.filename)
        start += struct.unpack_from("<H", content, info.header_offset + 28)[0]
        changed = bytearray(content)
        changed[start + random.randrange(info.file_size)] ^= 1 << random.randrange(8)
        (tmp_path / "w.pt").write_bytes(changed)
        with pytest.raises(UserError, match=r"w\.pt: .* damaged \(Bad CRC-32"):
            load_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("count", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_other_values(hostile: Hostile, good: Path, tmp_path: Path, count: int) -> None:
    content = torch.load(good, weights_only=True)
    values = (*HOSTILE_VALUES, torch.zeros(3), torch.tensor(float("nan")), torch.zeros(2, dtype=torch.complex64))
    path = tmp_path / "changed.pt"

    def spoil(seed: int) -> None:
        torch.save(mutate_tree(content, rng("values", seed), values), path)

    hostile(Case(f"values {seed}", lambda: load(path), before=lambda seed=seed: spoil(seed)) for seed in range(count))


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "YOLOv5"])
def test_other_instructions(hostile: Hostile, good: Path, tmp_path: Path, count: int, foreign: bool) -> None:
    """Bytes of the pickle changed, under checksums that fit."""
    path = tmp_path / "changed.pt"
    if foreign:
        modules = mapping(a=stub("torch.nn.modules.batchnorm", "BatchNorm2d", mapping(_buffers=DICT)))
        data, members = yolov5(mapping(model=stub("m", "M", mapping(_modules=modules)))), dict(FOUR_VALUES)
    else:
        with zipfile.ZipFile(good) as archive:
            data = archive.read("archive/data.pkl")
            members = {name: archive.read(name) for name in archive.namelist() if name != "archive/data.pkl"}

    def spoil(random: Random) -> None:
        zip_of(iter([("archive/data.pkl", mutate_bytes(data, random)), *members.items()]), path)

    hostile(
        Case(f"instructions {seed}", lambda: load(path), before=lambda seed=seed: spoil(rng("instructions", seed)))
        for seed in range(count)
    )


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_the_old_layout(hostile: Hostile, good: Path, tmp_path: Path, count: int) -> None:
    buffer = io.BytesIO()
    torch.save(torch.load(good, weights_only=True), buffer, _use_new_zipfile_serialization=False)
    data, path = buffer.getvalue(), tmp_path / "old.pt"
    hostile(
        Case(
            f"old layout {seed}",
            lambda: load(path),
            before=lambda seed=seed: path.write_bytes(mutate_bytes(data, rng("old", seed))),
        )
        for seed in range(count)
    )


def test_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    attribute = call("builtins", "getattr", stub("m", "M", DICT), text("system"))
    for data in (
        HEADER + b"(" + call("os", "system", text("touch mark")) + b"l.",
        HEADER + attribute + b"(" + text("touch mark") + b"tR.",
        yolov5(mapping(a=call("os", "system", text("touch mark")))),
    ):
        with pytest.raises(UserError):
            load_checkpoint(write_zip(tmp_path / "w.pt", data))
        assert not (tmp_path / "mark").exists()
