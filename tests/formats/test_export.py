import copy
import json
import re
import shutil

import onnx
import pytest
import torch

from tests.formats.conftest import NAMES, SIZE, tiny_model
from yolorep.cli import main
from yolorep.commands.export import run as export
from yolorep.errors import ExportError, UserError
from yolorep.formats import FORMATS, load_format
from yolorep.formats.base import Format
from yolorep.formats.metadata import Metadata
from yolorep.formats.pytorch import TorchBackend
from yolorep.formats.samples import sample_batches
from yolorep.formats.write import input_shapes, write_checked
from yolorep.inference.open import load_backend
from yolorep.nn.reparam import fuse
from yolorep.options import ExportOptions


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


class Tampering(Format):
    """A format whose file holds another number than the model."""

    def __init__(self, made, change):
        self.made, self.change = made, change
        self.suffix = made.suffix

    def write(self, network, path, **kwargs):
        network = copy.deepcopy(network)
        with torch.no_grad():
            self.change(network.detector.head)
        self.made.write(network, path, **kwargs)

    def open(self, path, *, device):
        return self.made.open(path, device=device)


def tamper_score(head):
    head.m[0].bias[4] += 0.02


def tamper_box(head):
    head.anchors[1, 0, 0] += 0.05


def tamper_nan(head):
    head.m[1].bias[5] = float("nan")


def write_tampered(target, made, change):
    fused, _ = fuse(tiny_model())
    metadata = Metadata.of(fused, image_size=(SIZE, SIZE), batch_size=1)
    batches = sample_batches([(1, SIZE, SIZE)])
    return write_checked(
        fused, target, made=Tampering(made, change), metadata=metadata, batches=batches, device=torch.device("cpu")
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("change", [tamper_score, tamper_box, tamper_nan])
def test_a_file_that_differs_is_not_kept(tmp_path, name, change):
    with pytest.raises(ExportError, match="not written: the file does not compute what the model computes") as raised:
        write_tampered(tmp_path / f"w.{name}", load_format(name), change)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_earlier_file_survives_a_failed_export(tmp_path):
    target = tmp_path / "w.torchscript"
    target.write_text("earlier")
    with pytest.raises(ExportError, match="w.torchscript: not written"):
        write_tampered(target, load_format("torchscript"), tamper_score)
    assert target.read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_option_of_a_format_not_asked_for_is_told(weights, tmp_path, capsys):
    shutil.copy(weights, tmp_path / "w.pt")
    export(ExportOptions(weights=str(tmp_path / "w.pt"), include=["torchscript"], imgsz=SIZE, opset=17))
    assert "--opset: without effect on torchscript" in capsys.readouterr().out


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
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    assert main(["export", "--weights", str(weights)]) == 2
    assert "needs onnxscript: pip install 'yolorep[export]'" in capsys.readouterr().err


def test_data_of_the_users_own_is_used_for_the_check(tmp_path):
    import cv2
    import numpy as np

    (tmp_path / "images").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.full((40, 80, 3), (10 * index, 0, 255), np.uint8))
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "d.yaml").write_text("path: .\nval: images\nnames: [a, b, c]\n")
    first, second = sample_batches([(2, 64, 64), (2, 32, 64)], data=str(tmp_path / "d.yaml"))
    assert first.shape == (2, 3, 64, 64)
    assert second.shape == (2, 3, 32, 64)
    assert first[1, :, 32, 32].tolist() == [255, 0, 10]  # RGB
    assert first[0, :, 0, 0].tolist() == [114] * 3
    assert torch.equal(second[1, :, 16, 32], first[0, :, 32, 32])  # the fourth image is the first again


def test_dynamic_files_are_checked_at_two_sizes_and_batches():
    assert input_shapes(640, stride=32, batch_size=1, dynamic=False) == [(1, 640, 640)]
    assert input_shapes(640, stride=32, batch_size=1, dynamic=True) == [(1, 640, 640), (2, 480, 640)]
    assert input_shapes(32, stride=32, batch_size=1, dynamic=True) == [(1, 32, 32), (2, 64, 32)]
