import json
import re
import shutil

import onnx
import pytest
import torch

from tests.export.conftest import NAMES, SIZE, tiny_model
from yolorep.cli import main
from yolorep.engine.build import load_backend
from yolorep.errors import ExportError, UserError
from yolorep.export import command
from yolorep.export.onnx import OnnxExporter
from yolorep.export.torchscript import TorchScriptExporter
from yolorep.nn.reparam import fuse
from yolorep.options import ExportOptions
from yolorep.runtime.pytorch import TorchBackend

FORMATS = ("onnx", "torchscript")


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 96, 48), (2, 3, SIZE, SIZE)], ids=str)
def test_a_dynamic_file_computes_what_the_training_form_computes_at_any_shape(exported, name, shape):
    backend = load_backend(exported[name, True])
    assert (backend.names, backend.stride, backend.image_size, backend.batch_size) == (NAMES, 16, None, None)
    images = random_images(*shape)
    ours, theirs = TorchBackend(tiny_model())(images), backend(images)
    assert ours.scores.max() > 0.4  # or the comparison would say little
    assert (ours.scores - theirs.scores).abs().max() < 1e-4
    assert (ours.boxes - theirs.boxes).abs().max() < 1e-2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_static_file_takes_any_number_of_images_of_its_size(exported, name, count):
    backend = load_backend(exported[name, False])
    assert (backend.names, backend.stride) == (NAMES, 16)
    assert (backend.image_size, backend.batch_size) == ((SIZE, SIZE), 2)
    images = random_images(count, 3, SIZE, SIZE)
    ours, theirs = TorchBackend(tiny_model())(images), backend(images)
    assert ours.boxes.shape == theirs.boxes.shape
    assert (ours.scores - theirs.scores).abs().max() < 1e-4
    assert (ours.boxes - theirs.boxes).abs().max() < 1e-2
    with pytest.raises(UserError, match="exported for 64x64"):
        backend(random_images(1, 3, SIZE, 2 * SIZE))


def test_the_onnx_file_says_what_it_is(exported):
    model = onnx.load(exported["onnx", True])
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props if entry.key != "yolorep"}
    assert metadata["names"] == list(NAMES)
    assert metadata["strides"] == [8, 16]
    assert metadata["dynamic"] is True
    assert metadata["preprocessing"]["colour"] == "RGB"
    assert metadata["fuse"]["params_fused"] < metadata["fuse"]["params"]
    assert metadata["fuse"]["kept"] == []
    assert [value.name for value in model.graph.input] == ["images"]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "16*height", "16*width"],
        "boxes": ["batch", "candidates", 4],
        "scores": ["batch", "candidates", 3],
    }
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_the_fused_form_is_written(exported):
    fused, _ = fuse(tiny_model())
    written = sum(1 for node in onnx.load(exported["onnx", False]).graph.node if node.op_type == "Conv")
    assert written == sum(isinstance(module, torch.nn.Conv2d) for module in fused.modules())


def test_says_how_far_the_file_is_from_the_model(weights, tmp_path, capsys):
    shutil.copy(weights, tmp_path / "w.pt")
    assert main(["export", "--weights", str(tmp_path / "w.pt"), "--include", "torchscript", "--imgsz", "60"]) == 0
    out = capsys.readouterr().out
    assert "--imgsz 60: rounded up to 64" in out
    assert re.search(
        r"w\.torchscript: .* MB, input 1x3x64x64; max difference to PyTorch \S+ in scores, \S+ px in boxes", out
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt", "w.torchscript"]


class Tampering:
    """An exporter whose file holds another number than the model."""

    def __init__(self, exporter, change):
        self.exporter, self.change = exporter, change
        self.suffix, self.requires, self.open = exporter.suffix, (), exporter.open

    def write(self, network, path, **kwargs):
        with torch.no_grad():
            self.change(network.detector.head)
        self.exporter.write(network, path, **kwargs)


def tamper_score(head):
    head.m[0].bias[4] += 0.02


def tamper_box(head):
    head.anchors[1, 0, 0] += 0.05


def tamper_nan(head):
    head.m[1].bias[5] = float("nan")


@pytest.mark.parametrize("exporter", [OnnxExporter(opset=18), TorchScriptExporter()], ids=FORMATS)
@pytest.mark.parametrize("change", [tamper_score, tamper_box, tamper_nan])
def test_a_file_that_differs_is_not_kept(weights, tmp_path, monkeypatch, capsys, exporter, change):
    monkeypatch.setattr(
        command, "TorchBackend", lambda fused, device: TorchBackend(reference, device=device)
    )  # the file's copy alone is changed
    reference, _ = fuse(tiny_model())
    monkeypatch.setitem(command.EXPORTERS, "torchscript", lambda options: Tampering(exporter, change))
    shutil.copy(weights, tmp_path / "w.pt")
    code = main(["export", "--weights", str(tmp_path / "w.pt"), "--include", "torchscript", "--imgsz", str(SIZE)])
    assert code == 1
    error = capsys.readouterr().err
    assert "not written: the file does not compute what the model computes" in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_an_earlier_file_survives_a_failed_export(weights, tmp_path, monkeypatch):
    shutil.copy(weights, tmp_path / "w.pt")
    (tmp_path / "w.torchscript").write_text("earlier")
    options = ExportOptions(weights=str(tmp_path / "w.pt"), include=["torchscript"], imgsz=SIZE)

    def fail(*args, **kwargs):
        raise ExportError("made to fail")

    monkeypatch.setattr(command, "compare", fail)
    with pytest.raises(ExportError, match="w.torchscript: not written: made to fail"):
        command.export(options)
    assert (tmp_path / "w.torchscript").read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--include", "onx"], r"--include onx: .*did you mean 'onnx'.*expected onnx or torchscript"),
        (["--include", "onnx", "engine"], r"--include engine: this format is not offered here; expected onnx or torch"),
        (["--batch-size", "0"], "--batch-size: expected a number of at least 1, found 0"),
        (["--half"], "--half"),
        (["--weights", ""], "--weights: missing"),
        (["--weights", "nowhere.pt"], "nowhere.pt"),
        (["--data", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_exit_2(weights, capsys, flags, message):
    assert main(["export", "--weights", str(weights), *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.splitlines()) == 1


def test_missing_packages_are_named_with_the_extra(weights, monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert main(["export", "--weights", str(weights)]) == 2
    assert "needs onnxscript: pip install 'yolorep[export]'" in capsys.readouterr().err


def test_data_of_the_users_own_is_used_for_the_check(weights, tmp_path, monkeypatch):
    import cv2
    import numpy as np

    (tmp_path / "images").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.full((40, 80, 3), (10 * index, 0, 255), np.uint8))
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "d.yaml").write_text("path: .\nval: images\nnames: [a, b, c]\n")
    from yolorep.export.samples import sample_batches

    first, second = sample_batches([(2, 64, 64), (2, 32, 64)], data=str(tmp_path / "d.yaml"))
    assert first.shape == (2, 3, 64, 64)
    assert second.shape == (2, 3, 32, 64)
    assert first[1, :, 32, 32].tolist() == [255, 0, 10]  # RGB
    assert first[0, :, 0, 0].tolist() == [114] * 3
    assert torch.equal(second[1, :, 16, 32], first[0, :, 32, 32])  # the fourth image is the first again


def test_dynamic_files_are_checked_at_two_sizes_and_batches():
    assert command.input_shapes(640, stride=32, batch_size=1, dynamic=False) == [(1, 640, 640)]
    assert command.input_shapes(640, stride=32, batch_size=1, dynamic=True) == [(1, 640, 640), (2, 480, 640)]
    assert command.input_shapes(32, stride=32, batch_size=1, dynamic=True) == [(1, 32, 32), (2, 64, 32)]
