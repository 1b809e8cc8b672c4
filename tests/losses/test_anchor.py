"""The anchor loss against a slow reference, its gains, and pinned numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.losses.test_assign import reference as reference_assignment
from yolorep.losses.anchor import AnchorLoss, AnchorLossGains, AnchorRecipe, level_balance
from yolorep.losses.terms import LossTerms

ANCHORS = torch.tensor([[[1.2, 1.6], [2.0, 3.7]], [[1.9, 3.8], [3.9, 2.8]], [[3.6, 2.8], [4.8, 6.1]]])


def make(num_classes: int, *, levels: int = 3, seed: int = 0) -> tuple[SimpleNamespace, SimpleNamespace, Tensor]:
    """A head, raw predictions and targets."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16, 12), (8, 6), (4, 3)][:levels]
    raw = SimpleNamespace(levels=[torch.randn(2, 2, h, w, 5 + num_classes, generator=generator) for h, w in shapes])
    n = 9
    targets = torch.cat(
        (
            torch.randint(0, 2, (n, 1), generator=generator).float(),
            torch.randint(0, num_classes, (n, 1), generator=generator).float(),
            torch.rand(n, 2, generator=generator),
            torch.rand(n, 2, generator=generator) * 0.5 + 0.05,
        ),
        1,
    )
    return SimpleNamespace(num_classes=num_classes, anchors=ANCHORS[:levels]), raw, targets


def bce(logit: float, wanted: float, weight: float = 1.0) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(weight * wanted * math.log(p) + (1 - wanted) * math.log(1 - p))


def scalar_ciou(a: list[float], b: list[float]) -> float:
    """CIoU of two ``cx, cy, w, h`` boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    left, right = max(ax - aw / 2, bx - bw / 2), min(ax + aw / 2, bx + bw / 2)
    top, bottom = max(ay - ah / 2, by - bh / 2), min(ay + ah / 2, by + bh / 2)
    inter = max(right - left, 0) * max(bottom - top, 0)
    iou = inter / (aw * ah + bw * bh - inter)
    hull_w = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    hull_h = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    return iou - ((ax - bx) ** 2 + (ay - by) ** 2) / (hull_w**2 + hull_h**2) - v * v / (1 - iou + v)


def reference(
    head: SimpleNamespace, raw: SimpleNamespace, targets: Tensor, gains: AnchorLossGains
) -> tuple[float, float, float]:
    """Box, obj and cls terms, cell by cell."""

    def sig(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    box = obj = cls = 0.0
    for level, anchors, balance in zip(raw.levels, head.anchors, level_balance(len(raw.levels)), strict=True):
        values = level.double().tolist()
        positives = reference_assignment(targets, anchors, tuple(level.shape[2:4]))
        wanted: dict[tuple[int, ...], float] = {}
        ious, class_losses = [], []
        for image, anchor, row, column, x, y, w, h, class_id in positives:
            prediction = values[image][anchor][row][column]
            aw, ah = anchors[anchor].tolist()
            size = [(2 * sig(prediction[2])) ** 2 * aw, (2 * sig(prediction[3])) ** 2 * ah]
            iou = scalar_ciou([2 * sig(prediction[0]) - 0.5, 2 * sig(prediction[1]) - 0.5, *size], [x, y, w, h])
            ious.append(1 - iou)
            wanted.setdefault((image, anchor, row, column), max(iou, 0))
            for index, logit in enumerate(prediction[5:]):
                smooth = gains.label_smoothing / 2
                true = 1 - smooth if index == class_id else smooth
                class_losses.append(bce(logit, true, gains.cls_positive_weight))
        assert len(wanted) == len(positives), "the test data must have no cell twice: the last write wins there"
        b, a, rows, columns = level.shape[:4]
        cells = [
            bce(values[i][j][k][m][4], wanted.get((i, j, k, m), 0.0), gains.obj_positive_weight)
            for i in range(b)
            for j in range(a)
            for k in range(rows)
            for m in range(columns)
        ]
        obj += balance * sum(cells) / len(cells)
        if positives:
            box += sum(ious) / len(ious)
            if head.num_classes > 1:
                cls += sum(class_losses) / len(class_losses)
    return box * gains.box, obj * gains.obj, cls * gains.cls


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize(
    "gains",
    [
        AnchorLossGains(),
        AnchorLossGains(
            box=0.1, obj=0.3, cls=0.7, label_smoothing=0.1, obj_positive_weight=1.5, cls_positive_weight=0.6
        ),
    ],
    ids=["plain", "weighted"],
)
def test_equals_reference(num_classes: int, levels: int, gains: AnchorLossGains) -> None:
    head, raw, targets = make(num_classes, levels=levels, seed=5)
    targets = targets[:2]
    targets[:, 0] = torch.arange(2)  # an object an image, so that no cell is taken twice
    terms = AnchorLoss(head, gains)(raw, targets)
    box, obj, cls = reference(head, raw, targets, gains)
    assert terms.parts["box"].item() == pytest.approx(box, rel=1e-4)
    assert terms.parts["obj"].item() == pytest.approx(obj, rel=1e-4)
    assert terms.parts["cls"].item() == pytest.approx(cls, rel=1e-4)
    assert terms.total.item() == pytest.approx(2 * (box + obj + cls), rel=1e-4)


def test_of_two_objects_in_a_cell_the_last_one_gives_the_overlap() -> None:
    head, raw, _ = make(3)
    # The same centre and nearly the same size: the same anchors and cells are responsible for both.
    first, second = torch.tensor([[0.0, 1, 0.41, 0.52, 0.20, 0.25]]), torch.tensor([[0.0, 2, 0.41, 0.52, 0.25, 0.20]])
    loss = AnchorLoss(head, AnchorLossGains())
    alone = {name: loss(raw, box).parts["obj"].item() for name, box in (("first", first), ("second", second))}
    assert alone["first"] != pytest.approx(alone["second"], rel=1e-4)
    assert loss(raw, torch.cat((first, second))).parts["obj"].item() == pytest.approx(alone["second"], rel=1e-6)
    assert loss(raw, torch.cat((second, first))).parts["obj"].item() == pytest.approx(alone["first"], rel=1e-6)


def test_no_targets_leaves_objectness_only() -> None:
    head, raw, _ = make(3)
    for level in raw.levels:
        level.requires_grad_()
    terms = AnchorLoss(head, AnchorLossGains())(raw, torch.zeros(0, 6))
    terms.total.backward()
    assert (terms.parts["box"].item(), terms.parts["cls"].item()) == (0, 0)
    assert terms.parts["obj"].item() > 0
    assert all(level.grad[..., 4].abs().sum() > 0 and level.grad[..., :4].abs().sum() == 0 for level in raw.levels)


def test_objectness_target_carries_no_gradient() -> None:
    """Boxes are moved by the CIoU term alone: their gradient is proportional to its gain."""
    gradients = []
    for gain in (0.05, 0.1):
        head, raw, targets = make(3)
        raw.levels[0].requires_grad_()
        AnchorLoss(head, AnchorLossGains(box=gain))(raw, targets).total.backward()
        gradients.append(raw.levels[0].grad[..., :4])
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(gradients[0] * 2, gradients[1], rtol=1e-4, atol=1e-8)


def test_float32_under_autocast_and_half_inputs() -> None:
    head, raw, targets = make(3)
    plain = AnchorLoss(head, AnchorLossGains())(raw, targets)
    half = SimpleNamespace(levels=[level.bfloat16() for level in raw.levels])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = AnchorLoss(head, AnchorLossGains())(half, targets)
    assert terms.total.dtype == torch.float32
    assert terms.total.item() == pytest.approx(plain.total.item(), rel=0.02)


@pytest.mark.parametrize(
    ("levels", "num_classes", "image_size", "scale", "expected"),
    [
        (3, 80, 640, True, (0.05, 1.0, 0.5)),
        (3, 3, 320, True, (0.05, 0.25, 0.5 * 3 / 80)),
        (4, 80, 1280, True, (0.05 * 0.75, 4.0 * 0.75, 0.5 * 0.75)),
        (2, 1, 640, True, (0.075, 1.5, 0.5 / 80 * 1.5)),
        (3, 3, 320, False, (0.05, 1.0, 0.5)),
        (4, 1, 1280, False, (0.05 * 0.75, 0.75, 0.5 * 0.75)),
    ],
)
def test_gains(
    levels: int, num_classes: int, image_size: int, scale: bool, expected: tuple[float, float, float]
) -> None:
    hyp = AnchorRecipe(scale_gains=scale)
    gains = AnchorLossGains.from_hyp(hyp, num_levels=levels, num_classes=num_classes, image_size=image_size)
    assert (gains.box, gains.obj, gains.cls) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [(2, (4, 1)), (3, (4, 1, 0.4)), (4, (4, 1, 0.25, 0.06)), (5, (4, 1, 0.25, 0.06, 0.02))],
)
def test_balance(levels: int, expected: tuple[float, ...]) -> None:
    assert level_balance(levels) == expected


def test_pinned() -> None:
    """Numbers of this implementation, to notice an unintended change."""
    head, raw, targets = make(3)
    terms: LossTerms = AnchorLoss(head, AnchorLossGains(label_smoothing=0.1))(raw, targets)
    found = [terms.total.item(), terms.parts["box"].item(), terms.parts["obj"].item(), terms.parts["cls"].item()]
    assert found == pytest.approx(
        [11.568092346191406, 0.12801556289196014, 4.4193220138549805, 1.236708641052246], rel=1e-5
    )
