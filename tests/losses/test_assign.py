"""Assignment: golden cells, edges, and a slow re-statement of the rule in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yolorep.losses.assign import assign_anchors

GRID = 8


def target(x: float, y: float, w: float = 2.0, h: float = 2.0, *, image: int = 0, class_id: int = 0) -> list[float]:
    """A row of targets from grid units."""
    return [image, class_id, x / GRID, y / GRID, w / GRID, h / GRID]


def cells(rows: list[list[float]], anchors: Tensor | None = None, **options: float) -> set[tuple[int, int]]:
    anchors = torch.tensor([[2.0, 2.0]]) if anchors is None else anchors
    found = assign_anchors(torch.tensor(rows), anchors, grid=(GRID, GRID), **options)
    return set(zip(found.cell_x.tolist(), found.cell_y.tolist(), strict=True))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (3.3, 5.7, {(3, 5), (2, 5), (3, 6)}),
        (3.7, 5.3, {(3, 5), (4, 5), (3, 4)}),
        (0.4, 4.5, {(0, 4)}),  # nothing left of the first column; y is exactly between the neighbours
        (1.0, 4.5, {(1, 4)}),  # x > 1, not >=: no left neighbour (and the right one is cell 1 itself)
        (7.6, 4.5, {(7, 4)}),  # nothing right of the last column
        (6.8, 4.5, {(6, 4), (7, 4)}),
        (4.5, 4.5, {(4, 4)}),
        (0.0, 0.0, {(0, 0)}),
        (8.0, 8.0, {(7, 7)}),  # an object on the far edge belongs to the last cell
    ],
)
def test_cells(x: float, y: float, expected: set[tuple[int, int]]) -> None:
    assert cells([target(x, y)]) == expected


@pytest.mark.parametrize(
    ("w", "h", "matched"),
    [(7.9, 2, True), (8.0, 2, False), (0.51, 2, True), (0.5, 2, False), (2, 8, False), (0, 2, False), (2, 0, False)],
)
def test_ratio_is_strictly_below_four(w: float, h: float, matched: bool) -> None:
    assert bool(cells([target(4.5, 4.5, w, h)])) is matched


def test_threshold() -> None:
    assert cells([target(4.5, 4.5, 5, 2)], threshold=2.6)
    assert not cells([target(4.5, 4.5, 5, 2)], threshold=2.5)


def test_grid_is_height_width() -> None:
    found = assign_anchors(torch.tensor([[1.0, 2, 0.9, 0.9, 0.1, 0.1]]), torch.ones(1, 2), grid=(4, 20), threshold=4)
    assert (found.image.tolist()[0], found.class_id.tolist()[0]) == (1, 2)
    assert (found.cell_x.tolist()[0], found.cell_y.tolist()[0]) == (18, 3)
    assert found.box[0].tolist() == pytest.approx([0.0, 0.6, 2.0, 0.4])


def test_no_targets() -> None:
    found = assign_anchors(torch.zeros(0, 6), torch.ones(3, 2), grid=(4, 4))
    assert len(found) == 0
    assert found.box.shape == (0, 4)


def reference(targets: Tensor, anchors: Tensor, grid: tuple[int, int]) -> list[tuple[float, ...]]:
    """The rule box by box, as its description reads."""
    height, width = grid
    found = []
    for image, class_id, cx, cy, w, h in targets.double().tolist():
        x, y, w, h = cx * width, cy * height, w * width, h * height
        for index, (aw, ah) in enumerate(anchors.double().tolist()):
            if max(w / aw, aw / w, h / ah, ah / h) >= 4:
                continue
            taken = [(math.floor(x), math.floor(y))]
            if x % 1 < 0.5 and x > 1:
                taken.append((math.floor(x) - 1, math.floor(y)))
            if y % 1 < 0.5 and y > 1:
                taken.append((math.floor(x), math.floor(y) - 1))
            if (width - x) % 1 < 0.5 and width - x > 1:
                taken.append((math.floor(x) + 1, math.floor(y)))
            if (height - y) % 1 < 0.5 and height - y > 1:
                taken.append((math.floor(x), math.floor(y) + 1))
            for column, row in taken:
                column, row = min(max(column, 0), width - 1), min(max(row, 0), height - 1)
                found.append((int(image), index, row, column, x - column, y - row, w, h, int(class_id)))
    return found


@pytest.mark.parametrize("grid", [(8, 8), (5, 13), (1, 1), (20, 7)])
def test_equals_reference(grid: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    targets = torch.cat(
        (
            torch.randint(0, 4, (200, 2), generator=generator).float(),
            torch.rand(200, 2, generator=generator),
            torch.rand(200, 2, generator=generator) ** 2 + 1e-3,
        ),
        1,
    )
    anchors = torch.tensor([[0.7, 1.1], [2.0, 1.5], [5.0, 6.0]])
    found = assign_anchors(targets, anchors, grid=grid)
    columns = (found.image, found.anchor, found.cell_y, found.cell_x, *found.box.T, found.class_id)
    ours = sorted(zip(*(column.double().tolist() for column in columns), strict=True))
    theirs = sorted(reference(targets, anchors, grid))
    assert len(ours) == len(theirs) > 0
    assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), atol=1e-4)
    assert found.box[:, :2].min() >= -0.5
    assert found.box[:, :2].max() <= 1.5
