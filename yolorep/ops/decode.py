"""From a head's raw maps to boxes and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Decoded(NamedTuple):
    """Every candidate box of a batch.

    Attributes:
        boxes: (batch, candidates, 4) xyxy in pixels of the network input.
        scores: (batch, candidates, classes) in 0..1.
    """

    boxes: Tensor
    scores: Tensor


def decode_anchors(levels: Sequence[Tensor], anchors: Tensor, strides: Sequence[int]) -> Decoded:
    """Decodes YOLOv5's anchor-based maps.

    With ``s = sigmoid(t)`` a cell predicts ``xy = (2 s - 0.5 + cell) * stride`` and ``wh = (2 s)² * anchor``; a class
    scores ``sigmoid(objectness) * sigmoid(class)``.

    Args:
        levels: per level a (batch, anchors, height, width, 5 + classes) map of logits.
        anchors: (levels, anchors, 2) width and height in units of the level's stride.
        strides: pixels per cell of each level.

    Returns:
        Candidates of all levels, in the order of the maps' memory.
    """
    boxes, scores = [], []
    for level, anchor, stride in zip(levels, anchors, strides, strict=True):
        batch, count, height, width, outputs = level.shape
        prediction = level.sigmoid()
        y, x = torch.meshgrid(
            torch.arange(height, device=level.device, dtype=level.dtype),
            torch.arange(width, device=level.device, dtype=level.dtype),
            indexing="ij",
        )
        cell = torch.stack((x, y), dim=-1) - 0.5
        centre = (prediction[..., 0:2] * 2 + cell) * stride
        half = (prediction[..., 2:4] * 2).square() * (anchor.to(level.dtype) * (stride / 2)).view(count, 1, 1, 2)
        candidates = count * height * width
        boxes.append(torch.cat((centre - half, centre + half), dim=-1).reshape(batch, candidates, 4))
        score = prediction[..., 5:] * prediction[..., 4:5]
        scores.append(score.reshape(batch, candidates, outputs - 5))
    return Decoded(torch.cat(boxes, dim=1), torch.cat(scores, dim=1))


def decode_distances(
    levels: Sequence[Tensor], strides: Sequence[int], num_classes: int, reg_max: int, *, peaks: bool = False
) -> Decoded:
    """Decodes the maps of an anchor-free head.

    From its centre a cell predicts the distances to the box's four sides, in strides; a class scores
    ``sigmoid(class)``.

    Args:
        levels: per level a (batch, 4 * reg_max + classes, height, width) map: the sides left, top, right, bottom, then
            the classes.
        strides: pixels per cell of each level.
        num_classes: classes.
        reg_max: numbers a side; see :func:`side_distances`.
        peaks: a cell scores only where no neighbour has a higher score for the class, of the eight around it and of
            those at the same place in the other levels (Wang et al. 2021, "End-to-End Object Detection with Fully
            Convolutional Network", arXiv:2012.03544).

    Returns:
        Candidates of all levels: finest level first, row by row.
    """
    sides, classes = flatten_levels(levels, (4 * reg_max, num_classes))
    if peaks:
        (classes,) = flatten_levels(_peaks([level[:, 4 * reg_max :] for level in levels], strides), (num_classes,))
    centres, pixels = cell_centres(levels, strides)
    return Decoded(boxes_around(centres, side_distances(sides, reg_max) * pixels), classes.sigmoid())


def _peaks(levels: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Logits (b, classes, h, w), those below one beside them, in their level or another, at minus infinity."""
    kept = []
    for logits, stride in zip(levels, strides, strict=True):
        highest = logits
        for other, step in zip(levels, strides, strict=True):
            if step < stride:
                highest = highest.maximum(F.max_pool2d(other, stride // step))
            elif step > stride:
                highest = highest.maximum(F.interpolate(other, scale_factor=step // stride))
        kept.append(logits.masked_fill(logits < F.max_pool2d(highest, 3, stride=1, padding=1), -torch.inf))
    return kept


def flatten_levels(levels: Sequence[Tensor], channels: Sequence[int]) -> list[Tensor]:
    """(batch, sum of channels, height, width) maps to a (batch, cells, channels) tensor for each number of channels.

    The cells of all levels follow each other: finest level first, row by row.
    """
    parts = zip(*(level.split(list(channels), dim=1) for level in levels), strict=True)
    return [torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in part], dim=1) for part in parts]


def cell_centres(levels: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where the cells of :func:`flatten_levels` are.

    Returns:
        Centres (cells, 2) x, y in pixels of the network input, and the pixels per cell (cells, 1).
    """
    centres, pixels = [], []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=level.device, dtype=level.dtype),
            torch.arange(width, device=level.device, dtype=level.dtype),
            indexing="ij",
        )
        centres.append((torch.stack((x, y), dim=-1) + 0.5).flatten(0, 1) * stride)
        pixels.append(torch.full_like(centres[-1][:, :1], stride))
    return torch.cat(centres), torch.cat(pixels)


def side_distances(sides: Tensor, reg_max: int) -> Tensor:
    """Distances of the box's sides in strides, never negative.

    Args:
        sides: (…, 4 * reg_max) logits. With ``reg_max`` above 1 a side has a logit for each distance 0, 1, …,
            reg_max - 1, and the distance is the expectation (Li et al. 2020, "Generalized Focal Loss",
            arXiv:2006.04388). With 1 the distance itself is predicted, through a softplus: unlike a clamp it has a
            gradient everywhere, so that no side gets stuck at 0; unlike an exponential it cannot explode.
        reg_max: numbers a side.

    Returns:
        (…, 4) left, top, right, bottom.
    """
    if reg_max == 1:
        return F.softplus(sides)
    bins = torch.arange(reg_max, device=sides.device, dtype=sides.dtype)
    # One matrix product for all sides: onnxruntime takes 20 times as long for a batch of products with a vector.
    share = sides.unflatten(-1, (4, reg_max)).softmax(dim=-1)
    return torch.matmul(share.flatten(0, -2), bins[:, None]).reshape(*sides.shape[:-1], 4)


def boxes_around(centres: Tensor, distances: Tensor) -> Tensor:
    """Points (…, 2) and the distances (…, 4) of left, top, right, bottom side to boxes (…, 4) xyxy."""
    return torch.cat((centres - distances[..., :2], centres + distances[..., 2:]), dim=-1)
