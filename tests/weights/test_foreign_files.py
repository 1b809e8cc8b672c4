"""Other people's files: those that can be used are, the others are named with what to do."""

from __future__ import annotations

import pickle
import struct
import sys
import tarfile
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from tests.models.test_parser import tiny
from tests.randomize import randomize_
from yolorep.cli import main
from yolorep.errors import UserError
from yolorep.inference.open import load_backend, load_model
from yolorep.models.detector import Detector, build_model
from yolorep.nn.reparam import fuse
from yolorep.training.start import starting_model
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint
from yolorep.weights.yolov5 import yolov5_names


@pytest.fixture
def source() -> Detector:
    model = randomize_(build_model(tiny(), names=["cat", "dog"])).eval()
    assert isinstance(model, Detector)
    return model


@pytest.fixture
def object_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes objects of classes that exist nowhere, which pickle writes by their names."""

    def make(full: str, **state: Any) -> Any:
        module, _, name = full.rpartition(".")
        parts = module.split(".")
        for index in range(len(parts)):
            parent = ".".join(parts[: index + 1])
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        if not hasattr(sys.modules[module], name):
            monkeypatch.setattr(sys.modules[module], name, type(name, (), {"__module__": module}), raising=False)
        made = getattr(sys.modules[module], name).__new__(getattr(sys.modules[module], name))
        made.__dict__.update(_parameters={}, _buffers={}, _modules={}, **state)
        return made

    return make


def forward_fuse() -> None:
    """What a fused Conv calls; pickle writes it as getattr(the Conv, its name)."""


def write_yolov5(path: Path, model: Detector, object_of: Callable[..., Any], **how: Any) -> Path:
    """A model as YOLOv5 saves it, fused or not: objects of its classes, whose forward is a method of their own."""
    root = object_of("models.yolo.DetectionModel", yaml=model.config.to_dict(), names=list(model.names))
    theirs, objects = yolov5_names(model), {"": root}
    for ours, value in model.state_dict().items():
        *folders, leaf = theirs[ours].split(".")
        for depth, folder in enumerate(folders):
            name, parent = ".".join(folders[: depth + 1]), objects[".".join(folders[:depth])]
            if name not in objects:
                kind = "torch.nn.modules.batchnorm.BatchNorm2d" if folder == "bn" else "models.common.Conv"
                state = {"eps": 1e-3, "momentum": 0.03} if folder == "bn" else {}
                objects[name] = parent.__dict__["_modules"][folder] = object_of(kind, **state)
        group = "_parameters" if leaf in ("weight", "bias") else "_buffers"
        objects[".".join(folders)].__dict__[group][leaf] = nn.Parameter(value) if leaf == "weight" else value
    head = objects[f"model.{len(model.model) - 1}"]
    head.__dict__["grid"] = [torch.zeros(1, 1, 1, 1, 2).expand(1, 3, 20, 20, 2)]
    conv = type(objects["model.0"])
    conv.forward_fuse = types.FunctionType(forward_fuse.__code__, {}, "forward_fuse")
    objects["model.0"].__dict__["forward"] = types.MethodType(conv.forward_fuse, objects["model.0"])
    torch.save({"epoch": -1, "model": root, "ema": None, "optimizer": None}, path, **how)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch 1.5"])
def test_a_fused_yolov5_runs(
    source: Detector, object_of: Callable[..., Any], tmp_path: Path, zipped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fused, _ = fuse(source)
    path = write_yolov5(tmp_path / "f.pt", fused, object_of, _use_new_zipfile_serialization=zipped)
    assert load_checkpoint(path).fused and load_checkpoint(path).of_yolov5
    images = torch.randint(0, 255, (1, 3, 32, 64), dtype=torch.uint8)
    expected = load_backend(write_yolov5(tmp_path / "w.pt", source, object_of))(images)
    found = load_backend(path)(images)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert main(["info", "--weights", str(path)]) == 0
    assert main(["train", "--weights", str(path), "--data", "shapes.yaml"]) == 2
    assert "expected a trainable model, found a fused one" in capsys.readouterr().err


def test_the_layout_of_torch_1_5(source: Detector, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new.pt", source, ema=source, training={"a": 1})
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old, new = (load_checkpoint(tmp_path / name) for name in ("old.pt", "new.pt"))
    assert old.training == new.training and old.state_dict.keys() == new.state_dict.keys()
    assert all(torch.equal(old.state_dict[name], value) for name, value in new.state_dict.items())
    for cut in (1, 9, 5000):
        (tmp_path / "cut.pt").write_bytes((tmp_path / "old.pt").read_bytes()[:-cut])
        with pytest.raises(UserError, match=r"cut\.pt: refused: (the file is cut off|the storage)"):
            load_checkpoint(tmp_path / "cut.pt")


@pytest.mark.parametrize("ours", [True, False], ids=["our names", "YOLOv5's names"])
@pytest.mark.parametrize(("wrapper", "prefix"), [(None, ""), ("model", ""), (None, "module."), ("ema", "net.model.")])
def test_a_state_dict_trains_with_its_cfg(
    source: Detector, tmp_path: Path, ours: bool, wrapper: str | None, prefix: str
) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(tiny()))
    names = yolov5_names(source)
    state = {prefix + (name if ours else names[name]): value for name, value in source.state_dict().items()}
    path = tmp_path / "s.pt"
    torch.save(state if wrapper is None else {"epoch": 1, wrapper: state}, path)
    with pytest.raises(UserError, match=r"s\.pt: expected a checkpoint, found .* state_dict.* train .* with --cfg"):
        load_model(path)
    model = starting_model(str(tmp_path / "m.yaml"), str(path), names=["cat", "dog"])
    mine, theirs = model.state_dict(), source.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if not name.startswith("model.4."))
    fused = fuse(source)[0].state_dict()
    save_file(fused, path)
    with pytest.raises(UserError, match="found fused ones, whose BatchNorms are gone"):
        starting_model(str(tmp_path / "m.yaml"), str(path), names=["cat", "dog"])


def test_a_safetensors_file_trains_with_its_cfg(source: Detector, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(tiny()))
    path = tmp_path / "s.safetensors"
    save_file(source.state_dict(), path)
    assert "a safetensors file: the plain state_dict of a model of yolorep; train" in said(path)
    mine = starting_model(str(tmp_path / "m.yaml"), str(path), names=["cat", "dog"]).state_dict()
    assert torch.equal(mine["model.0.conv.conv.weight"], source.state_dict()["model.0.conv.conv.weight"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="refused: a damaged safetensors file: "):
        load_checkpoint(path)


def test_which_yolov5_a_state_dict_is_of(tmp_path: Path) -> None:
    state = {"model.0.conv.weight": torch.zeros(48, 3, 6, 6), "model.0.bn.weight": torch.zeros(48)}
    state |= {"model.33.anchors": torch.zeros(4, 3, 2), "model.33.m.0.weight": torch.zeros(3 * 12, 8, 1, 1)}
    torch.save(state, tmp_path / "s.pt")
    assert "plain state_dict of a fused YOLOv5 model, which cannot be trained; get" in said(tmp_path / "s.pt")
    torch.save(state | {"model.0.bn.running_mean": torch.zeros(48)}, tmp_path / "s.pt")
    with pytest.raises(UserError, match=r"of yolov5m6 \(7 classes\), .* --cfg cfg/yolov5/m6\.yaml --weights .*s\.pt"):
        load_checkpoint(tmp_path / "s.pt")


WHOLE = {
    "YOLOv8 detection": ("ultralytics.nn.tasks.DetectionModel", {"yaml": {"yaml_file": "yolov8x.yaml"}}),
    "YOLO11 detection": ("ultralytics.nn.tasks.DetectionModel", {"yaml": {"yaml_file": "yolo11n.yaml"}}),
    "YOLO26 pose": ("ultralytics.nn.tasks.PoseModel", {"yaml": {"yaml_file": "yolo26n-pose.yaml"}}),
    "YOLOv5u detection": ("ultralytics.nn.tasks.DetectionModel", {"yaml": {"yaml_file": "yolov5nu.yaml"}}),
    "RT-DETR detection": ("ultralytics.nn.tasks.RTDETRDetectionModel", {"yaml": {"yaml_file": "rtdetr-l.yaml"}}),
    "without -seg": ("models.yolo.SegmentationModel", {}),
    "without -cls": ("models.yolo.ClassificationModel", {}),
    "YOLOv7": ("models.yolo.Model", {"head": "models.yolo.IDetect"}),
    "YOLOv9": ("models.yolo.DetectionModel", {"head": "models.yolo.DualDDetect"}),
    "YOLOv6": ("yolov6.models.yolo.Model", {}),
    "SuperGradients": ("super_gradients.training.models.YoloNAS", {}),
    "class somebody.elses.Model": ("somebody.elses.Model", {}),
}


@pytest.mark.parametrize(("expected", "whole"), WHOLE.items(), ids=WHOLE)
def test_whole_models_are_named(
    expected: str, whole: tuple[str, dict[str, Any]], object_of: Callable[..., Any], tmp_path: Path
) -> None:
    kind, state = whole
    if "head" in state:
        rows = {"nc": 1, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[-1, 1, state["head"][12:], ["nc"]]]}
        state = {"yaml": rows, "names": ["a"], "layer": object_of(state["head"])}
    torch.save({"model": object_of(kind, **state), "ema": None}, tmp_path / "w.pt")
    message = said(tmp_path / "w.pt")
    assert (expected in message and ";" in message) or "not known here" in message


def said(path: Path) -> str:
    """The one line by which a file is refused, wherever it is given."""
    with pytest.raises(UserError) as raised:
        load_checkpoint(path)
    with pytest.raises(UserError):
        load_backend(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: expected ") and "\n" not in message and "found" in message
    return message


def zip_with(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, arcname="weights.pt")


def write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), str(path))


HEADER = b'{"a.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
FILES: dict[str, bytes | Callable[[Path], None]] = {
    "a web page, so the download failed": b"\n<!DOCTYPE html><html>quota exceeded</html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n",
    "an ONNX model; rename it": b"\x08\x08\x12\x07pytorch\x1a\x051.0.0" + bytes(50),
    "a safetensors file: 1 tensors without": struct.pack("<Q", len(HEADER)) + HEADER + bytes(4),
    "a TorchScript model; rename it": write_torchscript,
    "a program of torch.export; use": zip_with("m/archive_format", "m/models/model.json"),
    "an archive of numpy arrays": lambda path: np.savez(path.open("wb"), a=np.zeros(2)),
    "a zip archive of something else (a/readme": zip_with("a/readme", "b"),
    "a tar archive; unpack it": write_tar,
    "a compressed archive; unpack it": b"\x1f\x8b\x08" + bytes(40),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3" + bytes(40),
    "an OpenVINO model": b'<?xml version="1.0"?>\n<net name="m"/>',
    "weights of Darknet": struct.pack("<iiii", 0, 2, 5, 0) + b"\x01" * 40,
    "an image or a video": b"\xff\xd8\xff\xe0" + bytes(40),
    "nothing but zeros": bytes(4000),
    "an empty file": b"",
    "a JSON text": b'{"error": "not found"}',
    "a text file": b"hello",
    "a plain pickle": pickle.dumps({"a": 1}),
    "a zip file that is cut off": b"PK\x03\x04" + bytes(60),
    "something else": bytes(range(255, 0, -1)),
}


@pytest.mark.parametrize(("expected", "content"), FILES.items(), ids=FILES)
@pytest.mark.parametrize("name", ["w.pt", "w.bin"])
def test_files_of_other_kinds_are_named(
    expected: str, content: bytes | Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    assert f"found {expected}" in said(path)


TENSORS = {
    "a PyTorch Lightning checkpoint": {"pytorch-lightning_version": "2", "state_dict": {"a": torch.zeros(1)}},
    "a YOLOX model": {"model": {"backbone.backbone.dark2.0.conv.weight": torch.zeros(1)}},
    "a classifier of YOLO": {"model.9.conv.conv.weight": torch.zeros(1), "model.9.linear.weight": torch.zeros(1)},
    "a YOLO model of masks, poses": {
        "model.24.anchors": torch.zeros(3, 3, 2),
        "model.24.m.0.weight": torch.zeros(21, 8, 1, 1),
        "model.24.proto.cv1.conv.weight": torch.zeros(1),
    },
    "a ResNet": {"layer1.0.conv1.weight": torch.zeros(1)},
    "a DETR": {"ema": {"module": {"decoder.dec_bbox_head.0.weight": torch.zeros(1)}}},
    "1 tensors without the layers": {"a": torch.zeros(1)},
    "a list without any tensors": [1],
    "--backbone-weights": {"stage0.rbr_conv.0.conv.weight": torch.zeros(1), "stage1.x": torch.zeros(1)},
}


@pytest.mark.parametrize(("expected", "content"), TENSORS.items(), ids=TENSORS)
def test_tensors_of_others_are_named(expected: str, content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert expected in said(tmp_path / "w.pt")


@pytest.mark.slow
def test_fused_files_have_the_ap_of_the_unfused(
    shared: Path, object_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    unfused = shared / "weights" / "yolov5n.pt"
    fused = write_yolov5(tmp_path / "fused.pt", fuse(load_model(unfused))[0], object_of)
    for name, path, flags in (("fused", fused, []), ("plain", unfused, ["--no-fuse"])):
        flags += ["--data", str(shared / "data/tiny_coco/tiny_coco.yaml"), "--imgsz", "320", "--name", name]
        assert main(["val", "--weights", str(path), "--device", "cpu", "--workers", "0", *flags]) == 0
    one, two = (json.loads((tmp_path / f"runs/val/{name}/metrics.json").read_text()) for name in ("fused", "plain"))
    assert one["AP"] == pytest.approx(two["AP"], abs=1e-4) and one["AP"] > 0.1


def test_a_run_of_yolov5_is_not_resumed(
    source: Detector, object_of: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_yolov5(tmp_path / "last.pt", source, object_of)
    assert main(["train", "--resume", str(path)]) == 2
    assert "a run of YOLOv5 cannot go on here; start a new one with --weights" in capsys.readouterr().err
