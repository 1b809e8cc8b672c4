"""Every model file that ships: counts, strides, a forward pass, training, fusing."""

from __future__ import annotations

import pytest
import torch

from tests.randomize import randomize_
from tests.timm_files import marks
from yolorep.models.detector import Detector, build_model
from yolorep.models.heads.anchor import Detect
from yolorep.models.heads.raw import Raw
from yolorep.nn.reparam import count_parameters, fuse

#: Parameters with 80 classes. YOLOv5's are those of its own program.
COUNTS = {
    "yolov5/n": 1_872_157,
    "yolov5/s": 7_235_389,
    "yolov5/m": 21_190_557,
    "yolov5/l": 46_563_709,
    "yolov5/x": 86_749_405,
    "yolov5/n6": 3_246_940,
    "yolov5/s6": 12_626_620,
    "yolov5/m6": 35_731_932,
    "yolov5/l6": 76_770_172,
    "yolov5/x6": 140_794_780,
    "yolov5/v3": 61_949_149,
    "yolov5/v3-spp": 62_998_749,
    "yolov5/v3-tiny": 8_852_366,
    "yolov5/l-p2": 47_493_372,
    "yolov5/l-p6": 76_770_172,
    "yolov5/l-p7": 144_281_723,
    "yolov5/l-fpn": 41_117_565,
    "yolov5/l-bifpn": 46_825_853,
    "yolov5/l-panet": 46_563_709,
    "yolov5/s-p34": 5_331_518,
    "yolov5/s-ghost": 3_897_605,
    "yolov5/s-transformer": 7_235_645,
    "yolov5/s-leakyrelu": 7_235_389,
    "yolov5s_mobileone": 7_546_493,
    "yolov5n_mobileone": 1_973_949,
    "yolov5/n-free": 2_265_840,
    "yolorep/n": 2_415_056,
    "yolorep/s": 8_526_128,
    "yolorep/m": 24_205_776,
    "yolorep/n-one2one": 2_500_128,
    "timm/resnet18": 14_935_792,
}
STRIDES = {
    "yolov5/v3-tiny": (16, 32),
    "yolov5/s-p34": (8, 16),
    "yolov5/l-p2": (4, 8, 16, 32),
    "yolov5/l-p6": (8, 16, 32, 64),
    "yolov5/l-p7": (8, 16, 32, 64, 128),
} | {f"yolov5/{size}6": (8, 16, 32, 64) for size in "nsmlx"}

#: At most so many parameters are built, run and fused in the fast tests; the rest is marked slow.
FAST = 4_000_000
MODELS = [
    pytest.param(name, marks=[*marks(name), *([pytest.mark.slow] if count > FAST else [])])
    for name, count in COUNTS.items()
]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in COUNTS])
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = build_model(f"cfg/{name}.yaml")
    assert count_parameters(model) == COUNTS[name]
    assert model.strides == STRIDES.get(name, (8, 16, 32))


def test_mobileone_counts_with_three_classes_and_fused() -> None:
    model = build_model("cfg/yolov5s_mobileone.yaml", num_classes=3).eval()
    assert count_parameters(model) == 7_338_824
    assert count_parameters(fuse(model)[0]) == 5_713_320
    fused, report = fuse(build_model("cfg/yolov5s_mobileone.yaml").eval(), strict=True)
    assert count_parameters(fused) == report.params_fused == 5_920_989


@pytest.mark.parametrize("name", MODELS)
def test_runs_at_sizes_that_are_not_square(name: str) -> None:
    model = build_model(f"cfg/{name}.yaml", num_classes=3).eval()
    stride = model.max_stride
    with torch.inference_mode():
        raw = model(torch.rand(2, 3, stride, 3 * stride))
        decoded = model.decode(raw)
    assert isinstance(raw, Raw)
    boxes = 3 if isinstance(model.head, Detect) else 1  # a cell
    for level, own in zip(raw.levels, model.strides, strict=True):
        height, width = stride // own, 3 * stride // own
        assert level.shape == ((2, 3, height, width, 8) if boxes == 3 else (2, 4 * 16 + 3, height, width))
    cells = sum(boxes * 3 * (stride // own) ** 2 for own in model.strides)
    assert decoded.boxes.shape == (2, cells, 4) and decoded.scores.shape == (2, cells, 3)


@pytest.mark.parametrize("name", MODELS)
def test_fuses_completely(name: str) -> None:
    model = randomize_(build_model(f"cfg/{name}.yaml", num_classes=3)).eval()
    fused, report = fuse(model, strict=True)
    assert isinstance(fused, Detector) and fused.names == model.names
    assert not report.kept and report.max_error <= 1e-9
    assert report.gflops_fused <= report.gflops
    double, fused_double = model.double(), fused.double()
    image = model.example_input()
    for mine, theirs in zip(fused_double(image).levels, double(image).levels, strict=True):
        scale = 1 + theirs.abs().max()
        assert (mine - theirs).abs().max() < 1e-5 * scale  # fused weights were stored as float32


@pytest.mark.parametrize("name", [name for name in COUNTS if COUNTS[name] <= FAST])
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"cfg/{name}.yaml", num_classes=3).train()
    raw = model(torch.rand(2, 3, 2 * model.max_stride, 2 * model.max_stride))
    sum(level.square().mean() for level in (*raw.levels, *(raw.one2one or ()))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key
