"""The anchor-free loss: by hand, against dense formulas, pinned numbers, and learning two pictures by heart."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolorep.errors import UserError
from yolorep.losses.anchor_free import AnchorFreeLoss, FreeRecipe, focal_distribution_loss
from yolorep.losses.tal import assign_aligned
from yolorep.models.detector import build_model
from yolorep.models.heads.raw import Raw
from yolorep.ops.boxes import ciou, cxcywh_to_xyxy
from yolorep.ops.decode import cell_centres, decode_distances
from yolorep.ops.nms import nms

ONES = FreeRecipe(free_box=1.0, free_cls=1.0, free_dfl=1.0)


def head(num_classes: int, reg_max: int, strides: tuple[int, ...] = (8, 16, 32)) -> SimpleNamespace:
    return SimpleNamespace(num_classes=num_classes, reg_max=reg_max, strides=strides)


def random_case(reg_max: int, *, seed: int = 0) -> tuple[SimpleNamespace, Raw, Tensor]:
    """Three images of 128 x 96 pixels; the second has no objects."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(12, 16), (6, 8), (3, 4)]
    levels = [torch.randn(3, 4 * reg_max + 2, *shape, generator=generator) for shape in shapes]
    n = 8
    targets = torch.cat(
        (
            2 * torch.randint(0, 2, (n, 1), generator=generator).float(),
            torch.randint(0, 2, (n, 1), generator=generator).float(),
            torch.rand(n, 2, generator=generator) * 0.8 + 0.1,
            torch.rand(n, 2, generator=generator) * 0.4 + 0.05,
        ),
        dim=1,
    )
    return head(2, reg_max), Raw(levels), targets


def test_a_single_cell_by_hand() -> None:
    """An image of 8 pixels, one cell, direct distances of half a stride: the box is the whole image."""
    half = math.log(math.exp(0.5) - 1)  # softplus of it is 0.5
    level = torch.tensor([half, half, half, half, 2.0]).view(1, 5, 1, 1)
    terms = AnchorFreeLoss(head(1, 1, (8,)), ONES)(Raw([level]), torch.tensor([[0, 0, 0.5, 0.5, 1.0, 0.5]]))
    iou, v = 0.5, 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    overlap = iou - v * v / (1 - iou + v)
    # One positive: its target is its overlap, and the sum of targets is below 1, which is the least to divide by.
    assert terms.parts["box"].item() == pytest.approx((1 - overlap) * overlap, rel=1e-4)
    assert terms.parts["l1"].item() == pytest.approx((0.25 + 0.25) / 4 * overlap, rel=1e-4)
    assert terms.parts["cls"].item() == pytest.approx(math.log(1 + math.exp(2)) - 2 * overlap, rel=1e-4)
    assert terms.total.item() == pytest.approx(sum(float(part) for part in terms.parts.values()), rel=1e-5)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(1.25, [0.75, 0.25]), (1.0, [1.0, 0.0]), (9.0, [0.01, 0.99]), (-1.0, None)],
)
def test_focal_distribution_by_hand(distance: float, expected: list[float] | None) -> None:
    logits = torch.tensor([0.1, 0.7, -0.3])
    minus_log = -logits.log_softmax(0)
    found = focal_distribution_loss(logits, torch.tensor(distance)).item()
    if expected is None:
        assert found == pytest.approx(minus_log[0].item())
    else:
        assert found == pytest.approx(expected[0] * minus_log[1].item() + expected[1] * minus_log[2].item(), rel=1e-4)


@pytest.mark.parametrize("reg_max", [1, 8])
@pytest.mark.parametrize("seed", range(2))
def test_against_dense_formulas(reg_max: int, seed: int) -> None:
    """The classes' cross-entropy over dense targets, and box terms from the decoded boxes."""
    detect, raw, targets = random_case(reg_max, seed=seed)
    gains = FreeRecipe(free_box=2.0, free_cls=3.0, free_dfl=5.0)
    terms = AnchorFreeLoss(detect, gains)(raw, targets)

    boxes, _ = decode_distances(raw.levels, detect.strides, 2, reg_max)
    logits = torch.cat([level[:, 4 * reg_max :].flatten(2) for level in raw.levels], dim=2).mT
    sides = torch.cat([level[:, : 4 * reg_max].flatten(2) for level in raw.levels], dim=2).mT
    centres, pixels = cell_centres(raw.levels, detect.strides)
    truth = cxcywh_to_xyxy(targets[:, 2:] * torch.tensor([128.0, 96.0, 128.0, 96.0]))
    cls, p = [], None
    for sharpness in (2.0, 1.0):
        p = assign_aligned(
            logits,
            boxes,
            centres,
            image=targets[:, 0].long(),
            class_id=targets[:, 1].long(),
            truth=truth,
            smallest=16.0,
            sharpness=sharpness,
        )
        assert len(p) > 10
        wanted = torch.zeros_like(logits)
        wanted[p.image, p.cell, targets[p.truth, 1].long()] = p.score
        share = max(wanted.sum().item(), 1)
        cls.append(F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum").item() / share)
    cls_one, cls = cls
    box = (p.score * (1 - ciou(boxes[p.image, p.cell], truth[p.truth]))).sum().item() / share
    true = torch.cat((centres[p.cell] - truth[p.truth, :2], truth[p.truth, 2:] - centres[p.cell]), dim=1)
    if reg_max == 1:
        found = F.softplus(sides[p.image, p.cell]) * pixels[p.cell]
        each = ((found - true) / torch.tensor([128.0, 96.0, 128.0, 96.0])).abs()
    else:
        distances = true / pixels[p.cell]
        soft = (1 - (distances.clamp(0, reg_max - 1.01)[..., None] - torch.arange(reg_max)).abs()).clamp(min=0)
        each = -(soft * sides[p.image, p.cell].unflatten(1, (4, reg_max)).log_softmax(-1)).sum(-1)
    dfl = (p.score * each.mean(1)).sum().item() / share
    assert [float(part) for part in terms.parts.values()] == pytest.approx([2 * box, 3 * cls, 5 * dfl], rel=1e-4)
    assert terms.total.item() == pytest.approx(3 * (2 * box + 3 * cls + 5 * dfl), rel=1e-4)
    both = AnchorFreeLoss(detect, gains)(Raw(raw.levels, raw.levels), targets)
    assert [float(part) for part in both.parts.values()] == pytest.approx(
        [2 * box, 3 * (cls + cls_one), 5 * dfl], rel=1e-4
    )


def test_pinned() -> None:
    for reg_max, expected in PINNED.items():
        detect, raw, targets = random_case(reg_max)
        terms = AnchorFreeLoss(detect)(raw, targets)
        assert {name: float(part) for name, part in terms.parts.items()} == pytest.approx(expected, rel=1e-4)


PINNED = {
    16: {"box": 6.88512, "cls": 431.7417, "dfl": 4.47714},
    1: {"box": 4.33545, "cls": 147.01367, "l1": 0.06875},
}


@pytest.mark.parametrize("reg_max", [1, 16])
def test_no_objects_leave_the_classes_only(reg_max: int) -> None:
    detect, raw, _ = random_case(reg_max)
    levels = [level.requires_grad_() for level in raw.levels]
    terms = AnchorFreeLoss(detect, ONES)(Raw(levels), torch.zeros(0, 6))
    box, cls, distance = terms.parts.values()
    assert (float(box), float(distance)) == (0, 0)
    logits = torch.cat([level[:, 4 * reg_max :].flatten() for level in levels])
    assert float(cls) == pytest.approx(F.softplus(logits).sum().item(), rel=1e-5)
    terms.total.backward()
    for level in levels:
        assert level.grad[:, : 4 * reg_max].abs().max() == 0
        assert level.grad[:, 4 * reg_max :].abs().min() > 0


def test_the_one_to_one_branch_learns_classes_only() -> None:
    detect, raw, targets = random_case(16)
    other = [level.clone().requires_grad_() for level in raw.levels]
    AnchorFreeLoss(detect)(Raw(raw.levels, other), targets).total.backward()
    for level in other:
        assert level.grad[:, :64].abs().max() == 0
        assert level.grad[:, 64:].abs().min() > 0


def test_reduced_precision_is_computed_in_float32() -> None:
    detect, raw, targets = random_case(16)
    plain = AnchorFreeLoss(detect)(raw, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = AnchorFreeLoss(detect)(Raw([level.bfloat16() for level in raw.levels]), targets)
    assert terms.total.dtype == torch.float32
    assert terms.total.item() == pytest.approx(plain.total.item(), rel=0.05)


def test_gains_come_from_the_hyperparameters() -> None:
    recipe = FreeRecipe(free_box=1.5, free_cls=2.5, free_dfl=3.5)
    assert AnchorFreeLoss.from_hyp(head(2, 16), recipe, image_size=320).gains == recipe
    assert AnchorFreeLoss(head(2, 16)).gains == FreeRecipe()


def test_label_smoothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"--label-smoothing 0\.1: .* leave it out"):
        AnchorFreeLoss.from_hyp(head(2, 16), FreeRecipe(), image_size=320, label_smoothing=0.1)


@pytest.mark.parametrize("reg_max", [1, 16])
def test_two_pictures_are_learned_by_heart(reg_max: int) -> None:
    """In a few steps the best boxes are right, with NMS and, from the one-to-one branch, without."""
    torch.manual_seed(0)
    rows = {
        "nc": 2,
        "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [32, 3, 2], "P3"]],
        "head": [[-1, 1, "Conv", [32, 3, 2], "P4"], [["P3", "P4"], 1, "DetectFree", ["nc", reg_max, True]]],
    }
    model = build_model(rows).train()
    images = torch.full((2, 3, 64, 64), 0.2)
    boxes = {0: [(0, [8, 12, 28, 30]), (1, [36, 30, 60, 58])], 1: [(1, [20, 4, 52, 24])]}
    targets = []
    for image, entries in boxes.items():
        for class_id, (x1, y1, x2, y2) in entries:
            images[image, class_id, y1:y2, x1:x2] = 1.0
            targets.append([image, class_id, (x1 + x2) / 128, (y1 + y2) / 128, (x2 - x1) / 64, (y2 - y1) / 64])
    loss = AnchorFreeLoss(model.head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        terms = loss(model(images), torch.tensor(targets))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    assert terms.parts["box"] < 1.5 and terms.parts["cls"] < 1  # of both branches: CIoU above 0.9, classes certain
    for module in model.modules():  # what BatchNorm remembers lags behind: let it catch up
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(10):
            model(images)
    model.eval()
    for nms_free in (False, True):
        deployed = model.for_inference(nms_free=nms_free)
        with torch.no_grad():
            decoded = deployed.decode(deployed(images))
        found = nms(decoded, confidence=0.4, iou=None if nms_free else 0.6, max_detections=10)
        for image, entries in boxes.items():
            detections = found[image]
            assert sorted(detections.class_id.tolist()) == sorted(class_id for class_id, _ in entries), nms_free
            for class_id, box in entries:
                (index,) = (detections.class_id == class_id).nonzero()[0]
                assert detections.xyxy[index].tolist() == pytest.approx(box, abs=3)
