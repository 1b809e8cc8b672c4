"""A tiny trained-looking detector, and its files in every form, written once."""

import pytest
import torch

from yolorep.commands.export import run as export
from yolorep.models.detector import Detector, build_model
from yolorep.options import ExportOptions
from yolorep.weights.checkpoint import save_checkpoint

TINY = {
    "nc": 3,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [33, 61, 62, 45]],
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "MobileOne", [16, 2, 2]],
        [-1, 1, "C3", [16]],
        [-1, 1, "MobileOne", [24, 2, 2]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, "BottleneckCSP", [16, False]],
        [[-1, 4], 1, "Detect", ["nc", "anchors"]],
    ],
}
NAMES = ("cat", "größe", "no 3")
SIZE = 64


def tiny_model() -> Detector:
    """With statistics as after training, and scores over the whole range."""
    torch.manual_seed(0)
    model = build_model(TINY, names=NAMES)
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(4, 3, SIZE, SIZE))
        for conv in model.head.m:
            conv.weight.normal_(0, 0.5)
            conv.bias.zero_()
    return model.eval()


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(path, tiny_model())
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(format, dynamic) -> the file of ``tiny_model``. Static files take batches of 2."""
    files = {}
    for dynamic in (False, True):
        path = tmp_path_factory.mktemp("dynamic" if dynamic else "static") / "tiny.pt"
        save_checkpoint(path, tiny_model())
        options = ExportOptions(
            weights=str(path), include=["onnx", "torchscript"], imgsz=SIZE, batch_size=2, dynamic=dynamic
        )
        for file in export(options):
            files[file.suffix[1:], dynamic] = file
    return files
