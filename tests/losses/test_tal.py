"""The task-aligned assigner, by hand and against a slow reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from yolorep.losses.tal import assign_aligned
from yolorep.ops.boxes import ciou
from yolorep.ops.decode import cell_centres

#: Name of a positive: (image, cell, object).
Key = tuple[int, int, int]


def run(
    logits: Tensor, boxes: Tensor, centres: Tensor, objects: list[tuple[int, int, list[float]]], **settings: Any
) -> dict[Key, float]:
    """(image, cell, object) -> target score; ``objects`` are (image, class, box)."""
    positives = assign_aligned(
        logits,
        boxes,
        centres,
        image=torch.tensor([entry[0] for entry in objects], dtype=torch.int64),
        class_id=torch.tensor([entry[1] for entry in objects], dtype=torch.int64),
        truth=torch.tensor([entry[2] for entry in objects], dtype=torch.float32).view(-1, 4),
        **{"smallest": 16.0, **settings},
    )
    keys = zip(positives.image.tolist(), positives.cell.tolist(), positives.truth.tolist(), strict=True)
    found = dict(zip(keys, positives.score.tolist(), strict=True))
    assert len(found) == len(positives)
    return found


def reference(
    logits: Tensor,
    boxes: Tensor,
    centres: Tensor,
    objects: list[tuple[int, int, list[float]]],
    *,
    smallest: float,
    top_k: int,
    sharpness: float,
) -> dict[Key, float]:
    """Object by object, cell by cell."""
    claims: dict[tuple[int, int], list[tuple[float, int, float]]] = {}  # cell -> (overlap, object, alignment)
    for index, (image, class_id, (x1, y1, x2, y2)) in enumerate(objects):
        dx, dy = max((smallest - (x2 - x1)) / 2, 0), max((smallest - (y2 - y1)) / 2, 0)
        ranked = []
        for cell, (x, y) in enumerate(centres.tolist()):
            if not (x1 - dx < x < x2 + dx and y1 - dy < y < y2 + dy):
                continue
            overlap = max(float(ciou(boxes[image, cell], torch.tensor([x1, y1, x2, y2]))), 0.0)
            alignment = float(logits[image, cell, class_id].sigmoid()) ** 0.5 * overlap**6
            if alignment > 0:
                ranked.append((alignment, cell, overlap))
        for alignment, cell, overlap in sorted(ranked, reverse=True)[:top_k]:
            claims.setdefault((image, cell), []).append((overlap, index, alignment))
    won: dict[int, list[tuple[float, int, int, float]]] = {}
    for (image, cell), entries in claims.items():
        overlap, index, alignment = max(entries, key=lambda entry: (entry[0], -entry[1]))
        won.setdefault(index, []).append((alignment, image, cell, overlap))
    result = {}
    for index, entries in won.items():
        best, largest = max(entry[0] for entry in entries), max(entry[3] for entry in entries)
        for alignment, image, cell, _ in entries:
            result[image, cell, index] = (alignment / best) ** sharpness * largest
    return result


@pytest.mark.parametrize(("top_k", "sharpness"), [(10, 1.0), (1, 1.0), (7, 2.0), (3, 0.5)])
@pytest.mark.parametrize("seed", range(3))
def test_against_a_slow_reference(seed: int, top_k: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.zeros(3, 1, 96 // stride, 128 // stride) for stride in (8, 16, 32)]
    centres, pixels = cell_centres(levels, (8, 16, 32))
    distances = torch.rand(3, len(centres), 4, generator=generator) * 2 * pixels
    boxes = torch.cat((centres - distances[..., :2], centres + distances[..., 2:]), dim=-1)
    logits = torch.randn(3, len(centres), 2, generator=generator)
    objects = []
    for image in (0, 0, 2, 0, 2, 2, 0):  # none in image 1
        x, y, w, h = (torch.rand(4, generator=generator) * torch.tensor([90, 60, 50, 50])).tolist()
        objects.append((image, int(torch.randint(0, 2, (), generator=generator)), [x, y, x + w + 2, y + h + 2]))
    settings: dict[str, Any] = {"smallest": 16.0, "top_k": top_k, "sharpness": sharpness}
    found, expected = (f(logits, boxes, centres, objects, **settings) for f in (run, reference))
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(expected) >= 5


def grid(*boxes: list[float], scores: list[float] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """A row of cells of 8 pixels, each with a predicted box and a score of the only class."""
    centres = torch.tensor([[8 * i + 4.0, 4.0] for i in range(len(boxes))])
    values = torch.tensor(scores or [0.5] * len(boxes))
    return values.logit()[None, :, None], torch.tensor(boxes)[None], centres


def test_targets_by_hand() -> None:
    """Boxes half as wide, of the same shape and centre as the object, have CIoU 1/4; a perfect one has 1."""
    truth = [0.0, 0.0, 32.0, 8.0]
    logits, boxes, centres = grid(
        truth, [8.0, 2.0, 24.0, 6.0], [50.0, 50.0, 60.0, 60.0], truth, scores=[0.04, 0.5, 0.9, 0.16]
    )
    found = run(logits, boxes, centres, [(0, 0, truth)], smallest=8.0)
    # Alignments: 0.2, sqrt(0.5) / 4^6, none (no overlap), 0.4. The best is 0.4 and overlaps with 1.
    assert found == pytest.approx({(0, 0, 0): 0.5, (0, 1, 0): 0.5**0.5 / 4**6 / 0.4, (0, 3, 0): 1.0}, rel=1e-4)
    assert run(logits, boxes, centres, [(0, 0, truth)], smallest=8.0, top_k=1) == pytest.approx({(0, 3, 0): 1.0})
    sharp = run(logits, boxes, centres, [(0, 0, truth)], smallest=8.0, sharpness=2.0)
    assert sharp == pytest.approx({key: target**2 for key, target in found.items()}, rel=1e-4)


def test_a_cell_of_two_objects_goes_to_the_one_it_overlaps_more() -> None:
    wide, narrow = [0.0, 0.0, 32.0, 8.0], [0.0, 0.0, 24.0, 8.0]
    logits, boxes, centres = grid(wide, narrow, wide)
    found = run(logits, boxes, centres, [(0, 0, wide), (0, 0, narrow)], smallest=8.0)
    # Cells 0 and 2 predict the wide object, cell 1 the narrow one; all lie in both.
    assert set(found) == {(0, 0, 0), (0, 2, 0), (0, 1, 1)}
    assert list(found.values()) == pytest.approx([1.0] * 3)


def test_of_equal_objects_the_first_gets_the_cells() -> None:
    """The same box labelled twice."""
    truth = [0.0, 0.0, 16.0, 8.0]
    logits, boxes, centres = grid(truth, truth)
    found = run(logits, boxes, centres, [(0, 0, truth), (0, 0, truth)], smallest=8.0)
    assert set(found) == {(0, 0, 0), (0, 1, 0)}


def test_small_objects_have_candidates() -> None:
    """An object of 4 pixels between the centres of cells: taken for 16 pixels, it reaches those around it."""
    truth = [14.0, 2.0, 18.0, 6.0]
    logits, boxes, centres = grid(*[truth] * 4)  # centres at 4, 12, 20, 28
    assert not run(logits, boxes, centres, [(0, 0, truth)], smallest=0.0)
    found = run(logits, boxes, centres, [(0, 0, truth)], smallest=16.0)
    assert found == pytest.approx({(0, 1, 0): 1.0, (0, 2, 0): 1.0})


def test_only_the_small_side_is_enlarged() -> None:
    """A flat object of 24 x 2 pixels, off the row of centres by 5 pixels."""
    truth = [0.0, 8.0, 24.0, 10.0]
    logits, boxes, centres = grid(*[truth] * 4)
    assert set(run(logits, boxes, centres, [(0, 0, truth)], smallest=16.0)) == {(0, i, 0) for i in range(3)}


@pytest.mark.parametrize("objects", [[], [(1, 0, [1000.0, 1000.0, 1100.0, 1100.0])]], ids=["none", "outside"])
def test_nothing_to_assign(objects: list[tuple[int, int, list[float]]]) -> None:
    logits, boxes, centres = (tensor.expand(2, -1, -1) if tensor.ndim == 3 else tensor for tensor in grid([0.0] * 4))
    assert run(logits, boxes, centres, objects) == {}


def test_an_object_that_nothing_overlaps_gets_nothing() -> None:
    truth = [0.0, 0.0, 16.0, 8.0]
    logits, boxes, centres = grid([100.0, 0.0, 110.0, 9.0], [100.0, 0.0, 110.0, 9.0])
    assert run(logits, boxes, centres, [(0, 0, truth)]) == {}


def test_targets_carry_no_gradient() -> None:
    truth = [0.0, 0.0, 16.0, 8.0]
    logits, boxes, centres = grid(truth, truth)
    positives = assign_aligned(
        logits.requires_grad_(),
        boxes.requires_grad_(),
        centres,
        image=torch.tensor([0]),
        class_id=torch.tensor([0]),
        truth=torch.tensor([truth]),
        smallest=16.0,
    )
    assert not positives.score.requires_grad
