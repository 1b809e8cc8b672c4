"""Box conversions and overlaps. Boxes are ``(…, 4)`` tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners ``x1, y1, x2, y2`` to centre and size, shape (…, 4) kept."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners ``x1, y1, x2, y2``, shape (…, 4) kept."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of every pair: (n, 4) and (m, 4) xyxy to (n, m); boxes without an area overlap nothing."""
    low = torch.maximum(first[:, None, :2], second[:, :2])
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    area, other = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=-1) for boxes in (first, second))
    return overlap / (area[:, None] + other - overlap).clamp(min=torch.finfo(overlap.dtype).tiny)


def ciou(boxes: Tensor, targets: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Complete IoU of matching pairs (Zheng et al. 2020, "Distance-IoU Loss", arXiv:1911.08287).

    ``CIoU = IoU - d²/c² - αv`` with ``v = 4/π² (Δ atan w/h)²`` and ``α = v / (1 - IoU + v)``, through which no
    gradient flows.

    Args:
        boxes: (…, 4) xyxy.
        targets: (…, 4) xyxy, any common unit.
        eps: keeps divisions finite.

    Returns:
        (…) values in (-2, 1].
    """
    low = torch.maximum(boxes[..., :2], targets[..., :2])
    high = torch.minimum(boxes[..., 2:], targets[..., 2:])
    overlap = (high - low).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    size, target_size = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    union = size[..., 0] * size[..., 1] + target_size[..., 0] * target_size[..., 1] - intersection + eps
    iou = intersection / union

    hull = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(boxes[..., :2], targets[..., :2])
    diagonal = hull.square().sum(dim=-1) + eps
    offset = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    distance = offset.square().sum(dim=-1)

    angle = torch.atan(size[..., 0] / (size[..., 1] + eps))
    target_angle = torch.atan(target_size[..., 0] / (target_size[..., 1] + eps))
    aspect = (4 / math.pi**2) * (angle - target_angle).square()
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect + eps)
    return iou - distance / diagonal - alpha * aspect
