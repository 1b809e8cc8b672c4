"""Which anchor of which cell is responsible for which object: YOLOv5's shape-matching rule, for all boxes at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A centre lies in one cell; the cells beside it are reached by moving half a cell towards them and truncating.
_HALF_STEPS = ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5))  # (x, y): own, left, up, right, down


@dataclass(frozen=True)
class Positives:
    """The ``p`` positives of one level. An object appears once for each (anchor, cell) responsible for it.

    Attributes:
        image: Index of the image in the batch, (p,) int64.
        anchor: Index of the anchor in the level, (p,) int64.
        cell_y: Row of the cell, (p,) int64.
        cell_x: Column of the cell, (p,) int64.
        box: Centre relative to the cell's corner (each in [-0.5, 1.5]) and size, (p, 4) ``x, y, w, h`` in grid units.
        class_id: (p,) int64.
    """

    image: Tensor
    anchor: Tensor
    cell_y: Tensor
    cell_x: Tensor
    box: Tensor
    class_id: Tensor

    def __len__(self) -> int:
        return self.image.shape[0]


def assign_anchors(targets: Tensor, anchors: Tensor, *, grid: tuple[int, int], threshold: float = 4.0) -> Positives:
    """Match objects to the anchors and cells of one level.

    An anchor takes an object when neither side differs by a factor of ``threshold`` or more. The object's own cell is
    used, and of its neighbours the nearer one in x and the nearer one in y, unless the object lies in the outermost
    cell of that side.

    Args:
        targets: Objects of a batch, (n, 6) ``image, class, cx, cy, w, h``; the box normalized to the network input.
        anchors: Anchor sizes of the level, (na, 2) ``w, h`` in grid units.
        grid: Height and width of the level's feature map, in cells.
        threshold: Largest ratio of sides (exclusive).

    Returns:
        The positives; empty when nothing matches.
    """
    height, width = grid
    size = targets.new_tensor((width, height))
    ratio = targets[:, 4:6] * size / anchors[:, None]  # (na, n, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < threshold
    anchor, row = fits.nonzero(as_tuple=True)

    center = targets[row, 2:4] * size
    from_end = size - center
    toward_start = (center % 1 < 0.5) & (center > 1)  # left, up
    toward_end = (from_end % 1 < 0.5) & (from_end > 1)  # right, down
    own = torch.ones_like(toward_start[:, :1])
    step, match = torch.cat((own, toward_start, toward_end), 1).T.nonzero(as_tuple=True)

    center, row = center[match], row[match]
    cell = (center + center.new_tensor(_HALF_STEPS)[step]).long()
    cell_x, cell_y = cell[:, 0].clamp(0, width - 1), cell[:, 1].clamp(0, height - 1)
    offset = center - torch.stack((cell_x, cell_y), 1)
    return Positives(
        image=targets[row, 0].long(),
        anchor=anchor[match],
        cell_y=cell_y,
        cell_x=cell_x,
        box=torch.cat((offset, targets[row, 4:6] * size), 1),
        class_id=targets[row, 1].long(),
    )
