"""The loss of the anchor-free head: classes everywhere, boxes where the task-aligned assigner says so."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from yolorep.config import NotNegative, Recipe
from yolorep.errors import UserError
from yolorep.losses.tal import Positives, assign_aligned
from yolorep.losses.terms import LossTerms
from yolorep.ops.boxes import ciou, cxcywh_to_xyxy
from yolorep.ops.decode import boxes_around, cell_centres, flatten_levels, side_distances

if TYPE_CHECKING:
    from yolorep.models.heads.raw import Raw

#: How far the one-to-one branch's targets fall off around an object's best cell. One positive an object, as in YOLOv10,
#: is too little to learn from in a short run, and which one it is changes with every step; squared, the targets still
#: have one clear peak, and the cells around it learn as well.
SHARPNESS_ONE = 2.0


class DistanceHead(Protocol):
    """What the loss needs to know of a head."""

    num_classes: int
    reg_max: int
    strides: tuple[int, ...]


class FreeRecipe(Recipe):
    """Recipe keys of anchor-free heads: gains of the loss's terms, which hold for any image size and class count."""

    free_box: NotNegative = 7.5
    free_cls: NotNegative = 0.5
    free_dfl: NotNegative = 1.5


class AnchorFreeLoss:
    """Loss of raw predictions against targets.

    Every term is a sum over the batch divided by the sum of the class scores wanted (at least 1):

    - ``cls``: binary cross-entropy of all cells and classes, with the assigner's soft targets;
    - ``box``: 1 - CIoU of the positives, weighted by their targets;
    - ``dfl``: cross-entropy of the two distances beside the true one (distribution focal loss, Li et al. 2020,
      arXiv:2006.04388), weighted likewise; for a head that predicts distances themselves it is ``l1`` instead, the
      difference as a share of the image.

    A one-to-one branch scores the same boxes: its ``cls`` is added, with sharper targets.

    Args:
        head: The head whose predictions are judged.
        gains: Weights of the terms.
    """

    def __init__(self, head: DistanceHead, gains: FreeRecipe | None = None) -> None:
        self.head = head
        self.gains = gains or FreeRecipe()

    @classmethod
    def from_hyp(
        cls, head: DistanceHead, hyp: FreeRecipe, *, image_size: int, label_smoothing: float = 0.0
    ) -> AnchorFreeLoss:
        """The loss of a head with the gains of ``hyp``, which hold for any image size and number of classes.

        Raises:
            UserError: for label smoothing.
        """
        if label_smoothing:
            raise UserError(
                f"--label-smoothing {label_smoothing:g}: the targets of an anchor-free head are soft already; "
                "leave it out"
            )
        return cls(head, hyp)

    def __call__(self, raw: Raw, targets: Tensor) -> LossTerms:
        """Compute the loss, in float32 whatever the predictions' dtype.

        Args:
            raw: Per level (b, 4 * reg_max + nc, h, w), and the same of the one-to-one branch where there is one.
            targets: Objects, (n, 6) ``image, class, cx, cy, w, h`` normalized to the network input, on the same device.

        Returns:
            The terms; ``total`` is the only one that carries gradients.
        """
        head, gains = self.head, self.gains
        channels = (4 * head.reg_max, head.num_classes)
        with torch.autocast(raw.levels[0].device.type, enabled=False):
            sides, logits = flatten_levels([level.float() for level in raw.levels], channels)
            centres, pixels = (tensor.float() for tensor in cell_centres(raw.levels, head.strides))
            height, width = (side * head.strides[0] for side in raw.levels[0].shape[2:])
            size = pixels.new_tensor((width, height, width, height))
            image, class_id = targets[:, 0].long(), targets[:, 1].long()
            truth = cxcywh_to_xyxy(targets[:, 2:6].float() * size)
            with torch.no_grad():
                boxes = boxes_around(centres, side_distances(sides, head.reg_max) * pixels)
            match = partial(
                assign_aligned,
                boxes=boxes,
                centres=centres,
                image=image,
                class_id=class_id,
                truth=truth,
                smallest=head.strides[min(1, len(head.strides) - 1)],
            )
            positives = match(logits.detach())
            cls = _class_loss(logits, positives, class_id)
            box = distance = cls.new_zeros(())
            if len(positives):
                weight = positives.score / _share(positives)
                each_box, each_distance = self._box_terms(sides, centres, pixels, truth, positives, size)
                box, distance = (each_box * weight).sum(), (each_distance * weight).sum()
            if raw.one2one is not None:
                _, logits = flatten_levels([level.float() for level in raw.one2one], channels)
                cls = cls + _class_loss(logits, match(logits.detach(), sharpness=SHARPNESS_ONE), class_id)
            parts = torch.stack((box * gains.free_box, cls * gains.free_cls, distance * gains.free_dfl))
            total = parts.sum() * raw.levels[0].shape[0]
        names = ("box", "cls", "l1" if head.reg_max == 1 else "dfl")
        return LossTerms(total, dict(zip(names, parts.detach(), strict=True)))

    def _box_terms(
        self, sides: Tensor, centres: Tensor, pixels: Tensor, truth: Tensor, positives: Positives, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Box and distance term of each positive: (p,), (p,)."""
        reg_max = self.head.reg_max
        predicted = sides[positives.image, positives.cell]  # (p, 4 * reg_max)
        centre, stride, wanted = centres[positives.cell], pixels[positives.cell], truth[positives.truth]
        distances = side_distances(predicted, reg_max) * stride
        box = 1 - ciou(boxes_around(centre, distances), wanted)
        true = torch.cat((centre - wanted[:, :2], wanted[:, 2:] - centre), dim=1)
        if reg_max == 1:
            return box, ((distances - true) / size).abs().mean(dim=1)
        return box, focal_distribution_loss(predicted.unflatten(1, (4, reg_max)), true / stride).mean(dim=1)


def _share(positives: Positives) -> Tensor:
    """What every term is divided by."""
    return positives.score.sum().clamp(min=1)


def _class_loss(logits: Tensor, positives: Positives, class_id: Tensor) -> Tensor:
    """Binary cross-entropy of all cells (b, cells, classes): of logit x and target t it is softplus(x) - x t."""
    wanted = logits[positives.image, positives.cell, class_id[positives.truth]]  # few targets are not 0
    return (F.softplus(logits).sum() - (wanted * positives.score).sum()) / _share(positives)


def focal_distribution_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy of a distribution whose mass should lie on the two whole numbers beside a distance.

    Args:
        logits: (…, m) of the distances 0, 1, …, m - 1.
        distance: (…), brought into their range.

    Returns:
        (…).
    """
    distance = distance.clamp(0, logits.shape[-1] - 1.01)
    lower = distance.long()
    share = distance - lower  # of the number above
    log_probability = logits.log_softmax(dim=-1)
    below, above = (log_probability.gather(-1, index[..., None]).squeeze(-1) for index in (lower, lower + 1))
    return -(1 - share) * below - share * above
