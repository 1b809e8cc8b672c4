"""The anchor-free head: shapes, widths, priors, branches, gradients, fusing, wrong arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.randomize import randomize_
from yolorep.errors import FuseError, UserError
from yolorep.losses.anchor_free import AnchorFreeLoss
from yolorep.models.detector import Detector, build_model
from yolorep.models.heads.anchor import Detect
from yolorep.models.heads.anchor_free import DetectFree
from yolorep.models.heads.raw import Raw
from yolorep.nn.mobileone import MobileOneConv
from yolorep.nn.reparam import count_parameters, fuse

BACKBONE = [
    [-1, 1, "Conv", [8, 3, 2]],
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [24, 3, 2], "P3"],
    [-1, 1, "MobileOne", [32, 2, 2], "P4"],
    [-1, 1, "Conv", [40, 3, 2], "P5"],
]


def rows(*args: object, levels: tuple[str, ...] = ("P3", "P4", "P5"), **changes: object) -> dict[str, Any]:
    """A model file with the head's arguments."""
    return {"nc": 3, "backbone": BACKBONE, "head": [[list(levels), 1, "DetectFree", ["nc", *args]]], **changes}


def model(*args: object, **changes: Any) -> Detector:
    torch.manual_seed(0)
    return build_model(rows(*args, **changes))


@pytest.mark.parametrize("levels", [("P3",), ("P4", "P5"), ("P3", "P4", "P5")], ids=len)
@pytest.mark.parametrize(("args", "reg_max", "one2one"), [((), 16, False), ((1,), 1, False), ((4, True), 4, True)])
def test_one_row_makes_a_detector(
    args: tuple[object, ...], reg_max: int, one2one: bool, levels: tuple[str, ...]
) -> None:
    detector = model(*args, levels=levels)
    strides = tuple({"P3": 8, "P4": 16, "P5": 32}[level] for level in levels)
    assert detector.strides == detector.head.strides == strides
    assert not detector.nms_free and not detector.head.needs_fitting
    images = torch.rand(2, 3, 64, 96)
    for mode in (True, False):
        raw = detector.train(mode)(images)
        assert isinstance(raw, Raw) and (raw.one2one is not None) == one2one
        for maps in (raw.levels, raw.one2one or raw.levels):
            shapes = [(2, 4 * reg_max + 3, 64 // stride, 96 // stride) for stride in strides]
            assert [tuple(level.shape) for level in maps] == shapes
    boxes, scores = detector.decode(raw)
    cells = sum(64 * 96 // stride**2 for stride in strides)
    assert boxes.shape == (2, cells, 4) and scores.shape == (2, cells, 3)
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


@pytest.mark.parametrize(
    ("finest", "num_classes", "reg_max", "box", "cls"),
    [(64, 80, 16, 64, 80), (64, 3, 16, 64, 64), (320, 3, 16, 80, 320), (64, 1000, 1, 16, 100), (128, 3, 1, 32, 128)],
)
def test_widths(finest: int, num_classes: int, reg_max: int, box: int, cls: int) -> None:
    with torch.device("meta"):
        head = DetectFree(num_classes, reg_max, in_channels=[finest, 2 * finest])
    for level in (0, 1):
        box_out, cls_out = head.box[level][-1], head.cls[level][-1]
        assert (box_out.in_channels, box_out.out_channels) == (box, 4 * reg_max)
        assert (cls_out.in_channels, cls_out.out_channels) == (cls, num_classes)


def test_everything_but_the_predictors_is_reparameterizable() -> None:
    head = DetectFree(3, 16, True, in_channels=[16, 32])
    units = [module for module in head.modules() if isinstance(module, MobileOneConv)]
    assert len(units) == 2 * (2 + 4 + 4)  # of two levels: box, classes, classes one-to-one
    assert sum(unit.groups > 1 for unit in units) == 2 * (2 + 2)  # depth-wise
    inside = {id(part) for unit in units for part in unit.modules()}
    plain = [module for module in head.modules() if isinstance(module, nn.Conv2d) and id(module) not in inside]
    assert len(plain) == 2 * 3


@pytest.mark.parametrize("reg_max", [1, 16])
def test_bias_priors(reg_max: int) -> None:
    head = DetectFree(3, reg_max, True, in_channels=[8, 8])
    head.bind([8, 32])
    for level, stride in enumerate((8, 32)):
        assert set(head.box[level][-1].bias.tolist()) == {2.0 if reg_max == 1 else 1.0}
        for branches in (head.cls, head.one2one):
            prior = math.log(5 / 3 / (640 / stride) ** 2)
            assert branches[level][-1].bias.tolist() == pytest.approx([prior] * 3)


def test_the_one_to_one_branch_starts_with_weights_of_its_own() -> None:
    head = DetectFree(3, 4, True, in_channels=[8])
    assert not torch.equal(head.cls[0][-1].weight, head.one2one[0][-1].weight)


def test_inputs_are_left_as_they_are() -> None:
    head = DetectFree(3, 4, True, in_channels=[8])
    features = [torch.rand(1, 8, 3, 5)]
    kept, copy = list(features), features[0].clone()
    head(features)
    assert features[0] is kept[0] and torch.equal(features[0], copy)


def test_the_activation_of_the_file_reaches_the_head() -> None:
    head = model(16, True, activation="nn.ReLU").head
    kinds = {type(module) for module in head.modules() if isinstance(module, nn.ReLU | nn.SiLU)}
    assert kinds == {nn.ReLU}


@pytest.mark.parametrize("args", [(16,), (16, True), (1, True)], ids=str)
def test_every_parameter_learns(args: tuple[object, ...]) -> None:
    detector = model(*args).train()
    targets = torch.tensor([[0, 0, 0.3, 0.3, 0.2, 0.2], [1, 1, 0.6, 0.5, 0.5, 0.6], [1, 2, 0.5, 0.5, 0.9, 0.9]])
    raw = detector(torch.rand(2, 3, 64, 64))
    AnchorFreeLoss(detector.head)(raw, targets).total.backward()
    for name, parameter in detector.named_parameters():
        if not name.startswith("model.5.box."):  # a level's boxes learn from objects of its size only
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert any(level[-1].weight.grad.abs().max() > 0 for level in detector.head.box)


def test_every_parameter_is_connected() -> None:
    detector = model(16, True).train()
    raw = detector(torch.rand(2, 3, 64, 64))
    sum(level.square().mean() for level in (*raw.levels, *raw.one2one)).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_the_one_to_one_branch_shapes_neither_features_nor_boxes() -> None:
    detector = model(16, True).train()
    raw = detector(torch.rand(2, 3, 64, 64))
    sum(level.square().mean() for level in raw.one2one).backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == name.startswith("model.5.one2one."), name


@pytest.mark.parametrize("args", [(16,), (1, True)], ids=str)
def test_fuses_completely(args: tuple[object, ...]) -> None:
    detector = randomize_(model(*args)).double().eval()
    fused, report = fuse(detector, strict=True)
    assert not report.kept
    raw, mine = (network(detector.example_input()) for network in (detector, fused))
    for one, other in zip((*raw.levels, *(raw.one2one or [])), (*mine.levels, *(mine.one2one or [])), strict=True):
        assert (one - other).abs().max() < 1e-9 * (1 + one.abs().max())


def test_fuses_at_the_size_of_a_nano_model() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = DetectFree(80, 16, True, in_channels=[64, 128, 256])

        def example_input(self, image_size: int | None = None) -> torch.Tensor:
            return torch.rand(1, 1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

        def forward(self, x: torch.Tensor) -> Raw:
            return self.head([x.expand(-1, channels, -1, -1) * 2 - 1 for channels in (64, 128, 256)])

    network = randomize_(Features()).double().eval()
    fused, report = fuse(network, strict=True)
    assert not report.kept and report.max_error <= 1e-9
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_a_wrong_fold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MobileOneConv.kernel
    monkeypatch.setattr(MobileOneConv, "kernel", lambda self: original(self).scaled(original(self).bias * 0 + 1.01))
    with pytest.raises(FuseError, match="fused wrongly"):
        fuse(randomize_(model()).eval())


@pytest.mark.parametrize("when", ["before", "after"])
@torch.no_grad()
def test_inference_keeps_the_branch_it_uses(when: str) -> None:
    """Dropped before or after fusing, the other branch is gone, and the rest computes what it did."""
    detector = randomize_(model(16, True)).eval()
    image = detector.example_input()
    raw = detector(image)
    assert raw.one2one is not None
    plain = count_parameters(fuse(model(16).eval())[0])
    for nms_free, expected in ((False, raw.levels), (True, raw.one2one)):
        if when == "before":
            deployed, report = fuse(detector.for_inference(nms_free=nms_free), strict=True)
            assert report.params_fused == plain
        else:
            deployed = fuse(detector)[0].for_inference(nms_free=nms_free)
        found = deployed(image)
        assert found.one2one is None and deployed.nms_free == nms_free
        assert count_parameters(deployed) == plain
        for mine, theirs in zip(found.levels, expected, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert isinstance(detector.head, DetectFree) and detector.head.one2one is not None  # left as it is


def test_branches_that_are_not_there() -> None:
    with pytest.raises(UserError, match=r"--nms-free: expected a head with a one-to-one branch, \[nc, 16, True\]"):
        model(16).for_inference(nms_free=True)
    head = {"head": [[["P3"], 1, "Detect", ["nc", "anchors"]]], "anchors": [[10, 20]]}
    detector = model(**head)
    assert isinstance(detector.for_inference().head, Detect)
    with pytest.raises(UserError, match="--nms-free: expected a head with a one-to-one branch.*found Detect$"):
        detector.for_inference(nms_free=True)
    deployed = model(16, True).for_inference(nms_free=True)
    assert deployed.for_inference(nms_free=True).nms_free
    with pytest.raises(UserError, match="one-to-many branch of this head is gone"):
        deployed.for_inference()


FAULTS: dict[str, tuple[list[object], str]] = {
    "no classes": ([0], "expected at least 1 class, found 0"),
    "other classes": ([80], "the DetectFree row says 80 classes, but there are 3"),
    "no distances": (["nc", 0], "expected reg_max of at least 1.* found 0"),
    "a word": (["nc", "many"], "reg_max: expected a whole number, found 'many'"),
    "half a distance": (["nc", 1.5], "reg_max: expected a whole number, found 1.5"),
    "a number for a flag": (["nc", 16, 1], "one2one: expected True or False, found 1"),
    "too many": (["nc", 16, True, 4], "wrong arguments for DetectFree"),
    "none": ([], "wrong arguments for DetectFree: missing a required argument: 'num_classes'"),
}


@pytest.mark.parametrize(("args", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named(args: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build_model({"nc": 3, "backbone": BACKBONE, "head": [[["P3", "P4"], 1, "DetectFree", args]]})
    assert "\n" not in str(raised.value)
