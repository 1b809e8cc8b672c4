"""Every shipped model can be exported, and real weights keep their detections."""

import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.timm_files import marks
from yolorep.commands.export import run as export
from yolorep.config import resources_dir
from yolorep.formats import FORMATS, load_format
from yolorep.formats.base import Deployed
from yolorep.formats.metadata import Metadata
from yolorep.formats.onnx import import_onnxruntime
from yolorep.formats.pytorch import TorchBackend
from yolorep.formats.samples import sample_batches
from yolorep.formats.verify import compare
from yolorep.inference.open import load_backend, load_model
from yolorep.models.detector import build_model, build_network
from yolorep.models.model_file import load_config
from yolorep.nn.reparam import fuse
from yolorep.options import ExportOptions

CFG = resources_dir() / "cfg"
FILES = sorted(
    path.relative_to(CFG).as_posix() for path in CFG.rglob("*.yaml") if path.parent.name not in ("hyp", "parts")
)
FAST = ("mobileone/s0",)


def shipped(*, classifiers: bool) -> list[object]:
    """The shipped detectors or classifiers, one of every kind fast, the rest slow."""
    slow = {name for name in FILES if name.removesuffix(".yaml").removesuffix("-cls") not in FAST}
    return [
        pytest.param(name, marks=[*marks(name), *([pytest.mark.slow] if name in slow else [])])
        for name in FILES
        if name.endswith("-cls.yaml") == classifiers
    ]


def narrow(name: str):
    """The same rows, narrower: what can fail in an export is an operation, not its width."""
    config = load_config(CFG / name)
    return replace(config, width_multiple=min(config.width_multiple, 0.25), depth_multiple=0.33)


@torch.no_grad()
def settle(network: nn.Module, size: int) -> None:
    """BatchNorm statistics that fit."""
    for _ in range(3):
        network(torch.rand(2, 3, size, size))
    network.eval()


SHARED = os.environ.get("YOLOREP_SHARED")


@pytest.mark.parametrize("name", shipped(classifiers=False))
def test_every_shipped_detector_exports(name, tmp_path):
    torch.manual_seed(0)
    model = build_model(narrow(name), num_classes=2)
    size = 2 * model.max_stride
    settle(model, size)
    fused, _ = fuse(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    metadata = Metadata.of(model, image_size=(size, size), batch_size=1)
    batches = sample_batches([(1, size, size)])
    for made in map(load_format, FORMATS):
        path = tmp_path / f"model{made.suffix}"
        made.write(Deployed(fused).eval(), path, example=batches[0].float() / 255, metadata=metadata)
        comparison = compare(made.open(path, device=torch.device("cpu")), TorchBackend(fused), batches)
        comparison.require_equal()


@pytest.mark.parametrize("name", shipped(classifiers=True))
def test_every_shipped_classifier_exports(name, tmp_path):
    torch.manual_seed(0)
    network = build_network(narrow(name), num_classes=7)
    settle(network, 64)
    fused, _ = fuse(network, strict=True)
    small, large = torch.rand(2, 3, 64, 96), torch.rand(1, 3, 100, 164)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated in torch itself
        traced = torch.jit.trace(fused, (small,), check_trace=False)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(fused, (small,), dynamo=True, dynamic_shapes=(free,), verbose=False)
    program.save(tmp_path / "classifier.onnx")
    session = import_onnxruntime().InferenceSession(tmp_path / "classifier.onnx", providers=["CPUExecutionProvider"])
    for images in (small, large):
        with torch.inference_mode():
            expected = network(images)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(traced(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(SHARED is None, reason="YOLOREP_SHARED does not name the folder with real weights and images")
def test_official_weights_give_the_same_candidates_in_every_form(tmp_path):
    shared = Path(str(SHARED))
    weights = tmp_path / "yolov5n.pt"
    shutil.copyfile(shared / "weights" / "yolov5n.pt", weights)
    data = str(shared / "data" / "coco128" / "coco128.yaml")
    files = export(ExportOptions(weights=str(weights), include=["onnx", "torchscript"], dynamic=True, data=data))
    images = sample_batches([(2, 512, 640), (1, 672, 672)], data=data)
    unfused = TorchBackend(load_model(weights))
    for file in files:
        comparison = compare(load_backend(file), unfused, images)
        assert comparison.score < 1e-4
        assert comparison.box < 0.05
