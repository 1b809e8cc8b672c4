"""Which cells are responsible for which object of an anchor-free head: task-aligned learning, for all boxes at once.

Feng et al. 2021, "TOOD: Task-aligned One-stage Object Detection" (arXiv:2108.07755).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolorep.ops.boxes import ciou

#: Exponents of score and overlap in the alignment of a cell and an object.
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0


@dataclass(frozen=True)
class Positives:
    """The ``p`` cells that are responsible for an object. A cell appears once, an object any number of times.

    Attributes:
        image: Index of the image in the batch, (p,) int64.
        cell: Index of the cell in the image, (p,) int64.
        truth: Index of the object, (p,) int64.
        score: The class score the cell should have, (p,) in 0..1: how well it does compared to the object's best cell,
            to the power of the sharpness, times how well that one overlaps.
    """

    image: Tensor
    cell: Tensor
    truth: Tensor
    score: Tensor

    def __len__(self) -> int:
        return self.image.shape[0]


@torch.no_grad()
def assign_aligned(
    logits: Tensor,
    boxes: Tensor,
    centres: Tensor,
    *,
    image: Tensor,
    class_id: Tensor,
    truth: Tensor,
    smallest: float,
    top_k: int = 10,
    sharpness: float = 1.0,
) -> Positives:
    """Match objects to the cells that predict them best.

    A cell whose centre lies in an object is a candidate; its alignment is ``score^0.5 * CIoU^6`` of what it predicts
    now. The ``top_k`` best ones of an object are taken, and one that several objects take goes to the one it overlaps
    most (of equal ones, the first).

    Objects of all images are in one list. That needs no padding, and overlaps are computed for candidates only, which
    are few: memory is a byte for each object and cell, and some ten numbers for each candidate.

    Args:
        logits: (b, cells, classes), before the sigmoid.
        boxes: Predicted boxes, (b, cells, 4) xyxy in pixels.
        centres: (cells, 2) x, y in pixels.
        image: Image of each object, (n,) int64.
        class_id: (n,) int64.
        truth: (n, 4) xyxy in pixels.
        smallest: Objects with a side below this many pixels have candidates as if it were as long, about the same
            centre, so that cells coarser than an object may still be responsible for it.
        top_k: Cells an object takes at most.
        sharpness: Exponent of how well a cell does compared to the object's best one: how far the targets around that
            one fall off.

    Returns:
        The positives; none where nothing overlaps.
    """
    cells = centres.shape[0]
    low, high = truth[:, :2], truth[:, 2:]
    margin = ((smallest - (high - low)) / 2).clamp(min=0)
    gt, cell = _inside(centres, low - margin, high + margin).nonzero(as_tuple=True)  # objects in order
    place = image[gt] * cells + cell
    overlap = ciou(boxes.flatten(0, 1)[place], truth[gt]).clamp(min=0)
    score = logits.flatten(0, 1)[place, class_id[gt]].sigmoid()
    alignment = score**SCORE_POWER * overlap**OVERLAP_POWER

    kept = _best_of_each(alignment, gt, count=len(truth), top_k=top_k)
    gt, place, overlap, alignment = gt[kept], place[kept], overlap[kept], alignment[kept]
    kept = _winners(overlap, place, gt, count=boxes.shape[0] * cells)
    gt, place, overlap, alignment = gt[kept], place[kept], overlap[kept], alignment[kept]

    best_alignment, best_overlap = (
        torch.zeros_like(truth[:, 0]).scatter_reduce_(0, gt, values, "amax") for values in (alignment, overlap)
    )
    target = (alignment / best_alignment[gt]) ** sharpness * best_overlap[gt]
    return Positives(image=place // cells, cell=place % cells, truth=gt, score=target)


def _inside(points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether points (c, 2) lie strictly between corners (n, 2): (n, c) bool."""
    x, y = points.unbind(1)
    left, top, right, bottom = (side[:, None] for side in (*low.unbind(1), *high.unbind(1)))
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _best_of_each(values: Tensor, group: Tensor, *, count: int, top_k: int) -> Tensor:
    """Indices of each group's ``top_k`` largest values above 0; equal groups are neighbours."""
    sizes = torch.bincount(group, minlength=count)
    if not len(values):
        return group
    start = sizes.cumsum(0) - sizes
    table = values.new_zeros(count, int(sizes.max()))
    table[group, torch.arange(len(group), device=group.device) - start[group]] = values
    best, position = table.topk(min(top_k, table.shape[1]), dim=1)
    return (start[:, None] + position)[best > 0]


def _winners(values: Tensor, group: Tensor, order: Tensor, *, count: int) -> Tensor:
    """Indices of each group's largest value; of equal ones that of the lowest ``order``."""
    largest = values.new_zeros(count).scatter_reduce_(0, group, values, "amax")
    (kept,) = (values == largest[group]).nonzero(as_tuple=True)
    limit = torch.iinfo(order.dtype).max
    first = order.new_full((count,), limit).scatter_reduce_(0, group[kept], order[kept], "amin")
    return kept[order[kept] == first[group[kept]]]
