"""From a head's raw maps to boxes and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
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
