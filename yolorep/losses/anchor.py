"""The loss of the anchor-based head (YOLOv5): CIoU on positives, objectness everywhere, classes on positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from yolorep.config import NotNegative, Off, Positive, Recipe, Share
from yolorep.losses.assign import assign_anchors
from yolorep.losses.terms import LossTerms
from yolorep.ops.boxes import ciou, cxcywh_to_xyxy

if TYPE_CHECKING:
    from yolorep.models.heads.raw import Raw


class AnchorHead(Protocol):
    """What the loss needs to know of a head."""

    num_classes: int
    anchors: Tensor  # (nl, na, 2) in stride units


class AnchorRecipe(Recipe):
    """Recipe keys of anchor heads, YOLOv5's."""

    ignored: ClassVar = {"anchors": "the model file says how many a level has"}

    box: NotNegative = 0.05
    cls: NotNegative = 0.5
    cls_pw: Positive = 1.0
    obj: NotNegative = 1.0
    obj_pw: Positive = 1.0
    scale_gains: bool = True  # YOLOv5: cls in proportion to the number of classes, obj to the square of the image size
    anchor_t: Annotated[float, Field(gt=1)] = 4.0
    iou_t: Share = 0.2  # read by no YOLOv5 loss either; kept because its files have it
    anchors: NotNegative = 0.0
    fl_gamma: Off = 0.0


@dataclass(frozen=True)
class AnchorLossGains:
    """The weights inside the loss.

    Attributes:
        box: Weight of the localization term.
        obj: Weight of the objectness term.
        cls: Weight of the classification term.
        anchor_threshold: Largest ratio of object and anchor sides, exclusive.
        obj_positive_weight: Weight of positive cells in the objectness term.
        cls_positive_weight: Weight of the true class in the classification term.
        label_smoothing: Share of the classification target that is spread; 0 is none.
    """

    box: float = 0.05
    obj: float = 1.0
    cls: float = 0.5
    anchor_threshold: float = 4.0
    obj_positive_weight: float = 1.0
    cls_positive_weight: float = 1.0
    label_smoothing: float = 0.0

    @classmethod
    def from_hyp(
        cls, hyp: AnchorRecipe, *, num_levels: int, num_classes: int, image_size: int, label_smoothing: float = 0.0
    ) -> AnchorLossGains:
        """The gains of the recipe, which are meant for 3 levels.

        With ``hyp.scale_gains`` they are also meant for 80 classes and 640 px, and scaled as YOLOv5 does: fewer classes
        get a lower ``cls``, smaller images a lower ``obj``.
        """
        levels = 3 / num_levels
        area, classes = ((image_size / 640) ** 2, num_classes / 80) if hyp.scale_gains else (1.0, 1.0)
        return cls(
            box=hyp.box * levels,
            obj=hyp.obj * area * levels,
            cls=hyp.cls * classes * levels,
            anchor_threshold=hyp.anchor_t,
            obj_positive_weight=hyp.obj_pw,
            cls_positive_weight=hyp.cls_pw,
            label_smoothing=label_smoothing,
        )


def level_balance(num_levels: int) -> tuple[float, ...]:
    """Weights of the levels' objectness, finest first: a fine level has more cells, so its positives count for less."""
    if num_levels == 3:
        return (4.0, 1.0, 0.4)
    return (4.0, 1.0, 0.25, 0.06, 0.02)[:num_levels]


class AnchorLoss:
    """Loss of raw predictions against targets.

    Args:
        head: The head whose predictions are judged; its anchors are read at each call, so they may still change.
        gains: Weights of the terms.
    """

    def __init__(self, head: AnchorHead, gains: AnchorLossGains) -> None:
        self.head = head
        self.gains = gains
        self.balance = level_balance(head.anchors.shape[0])

    @classmethod
    def from_hyp(
        cls, head: AnchorHead, hyp: AnchorRecipe, *, image_size: int, label_smoothing: float = 0.0
    ) -> AnchorLoss:
        """The loss of a head with the gains of :meth:`AnchorLossGains.from_hyp`."""
        gains = AnchorLossGains.from_hyp(
            hyp,
            num_levels=head.anchors.shape[0],
            num_classes=head.num_classes,
            image_size=image_size,
            label_smoothing=label_smoothing,
        )
        return cls(head, gains)

    def __call__(self, raw: Raw, targets: Tensor) -> LossTerms:
        """Compute the loss, in float32 whatever the predictions' dtype.

        Args:
            raw: Per level (b, na, ny, nx, 5 + nc) ``x, y, w, h, objectness, classes``, before the sigmoid.
            targets: Objects, (n, 6) ``image, class, cx, cy, w, h`` normalized to the network input, on the same device.

        Returns:
            The terms; ``total`` is the only one that carries gradients.
        """
        with torch.autocast(raw.levels[0].device.type, enabled=False):
            terms = [self._level(level.float(), i, targets) for i, level in enumerate(raw.levels)]
            box, obj, cls = (torch.stack(term).sum() for term in zip(*terms, strict=True))
            box, obj, cls = box * self.gains.box, obj * self.gains.obj, cls * self.gains.cls
        total = (box + obj + cls) * raw.levels[0].shape[0]
        return LossTerms(total, {"box": box.detach(), "obj": obj.detach(), "cls": cls.detach()})

    def _level(self, level: Tensor, index: int, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box, objectness and class terms of one level, before the gains."""
        anchors = self.head.anchors[index].to(level)
        grid = (level.shape[2], level.shape[3])
        positives = assign_anchors(targets, anchors, grid=grid, threshold=self.gains.anchor_threshold)
        objectness = torch.zeros(level.shape[:-1], dtype=level.dtype, device=level.device)
        box = cls = level.new_zeros(())
        if len(positives):
            where = (positives.image, positives.anchor, positives.cell_y, positives.cell_x)
            predicted = level[where]  # (p, 5 + nc)
            xywh = predicted[:, :4].sigmoid()
            wh = (xywh[:, 2:] * 2) ** 2 * anchors[positives.anchor]
            decoded = torch.cat((xywh[:, :2] * 2 - 0.5, wh), 1)
            iou = ciou(cxcywh_to_xyxy(decoded), cxcywh_to_xyxy(positives.box))
            box = (1 - iou).mean()
            objectness[where] = iou.detach().clamp(min=0)
            if self.head.num_classes > 1:  # with one class, objectness already says everything
                smoothing = self.gains.label_smoothing
                wanted = torch.full_like(predicted[:, 5:], 0.5 * smoothing)
                wanted.scatter_(1, positives.class_id[:, None], 1 - 0.5 * smoothing)
                cls = _bce(predicted[:, 5:], wanted, self.gains.cls_positive_weight)
        obj = _bce(level[..., 4], objectness, self.gains.obj_positive_weight) * self.balance[index]
        return box, obj, cls


def _bce(logits: Tensor, wanted: Tensor, positive_weight: float) -> Tensor:
    """Mean binary cross-entropy."""
    weight = None if positive_weight == 1 else logits.new_tensor(positive_weight)
    return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
