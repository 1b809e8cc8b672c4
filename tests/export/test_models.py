"""Every shipped model can be exported, and real weights keep their detections."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from yolorep.config import resources_dir
from yolorep.engine.build import load_backend, load_model
from yolorep.export.base import Deployed
from yolorep.export.command import export
from yolorep.export.onnx import OnnxExporter
from yolorep.export.samples import sample_batches
from yolorep.export.torchscript import TorchScriptExporter
from yolorep.export.verify import compare
from yolorep.models.detector import build_model
from yolorep.models.parser import load_config
from yolorep.nn.reparam import fuse
from yolorep.options import ExportOptions
from yolorep.runtime.metadata import Metadata
from yolorep.runtime.pytorch import TorchBackend

CFG = resources_dir() / "cfg"
MODELS = sorted(
    path.relative_to(CFG).as_posix() for path in CFG.rglob("*.yaml") if path.parent.name not in ("hyp", "parts")
)
SHARED = os.environ.get("YOLOREP_SHARED")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_exports(name, tmp_path):
    torch.manual_seed(0)
    # The same rows, narrower: what can fail in an export is an operation, not its width.
    config = load_config(CFG / name)
    model = build_model(
        replace(config, width_multiple=min(config.width_multiple, 0.25), depth_multiple=0.33), num_classes=2
    )
    size = 2 * model.max_stride
    with torch.no_grad():
        for _ in range(3):  # BatchNorm statistics that fit
            model(torch.rand(2, 3, size, size))
    fused, _ = fuse(model.eval())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    metadata = Metadata(
        names=model.names,
        stride=model.max_stride,
        strides=model.strides,
        image_size=(size, size),
        batch_size=1,
        version="test",
    )
    batches = sample_batches([(1, size, size)])
    for exporter in (OnnxExporter(opset=18), TorchScriptExporter()):
        path = tmp_path / f"model{exporter.suffix}"
        exporter.write(Deployed(fused).eval(), path, example=batches[0].float() / 255, metadata=metadata)
        comparison = compare(exporter.open(path, device=torch.device("cpu")), TorchBackend(fused), batches)
        comparison.require_equal()


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
