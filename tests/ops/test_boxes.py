"""Box conversions and overlaps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou as reference_iou

from yolorep.ops.boxes import box_iou, ciou, cxcywh_to_xyxy, xyxy_to_cxcywh

sides = st.floats(0.5, 500)
boxes = st.tuples(st.floats(-100, 1000), st.floats(-100, 1000), sides, sides)


@given(boxes)
def test_conversions_undo_each_other(box: tuple[float, float, float, float]) -> None:
    tensor = torch.tensor(box, dtype=torch.float64)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(tensor)), tensor)


@given(st.lists(boxes, max_size=4), st.lists(boxes, max_size=4))
def test_iou_is_torchvisions(a: list[tuple[float, ...]], b: list[tuple[float, ...]]) -> None:
    first, second = (cxcywh_to_xyxy(torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)) for rows in (a, b))
    torch.testing.assert_close(box_iou(first, second), reference_iou(first, second))


def test_iou_without_an_area() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert box_iou(point, torch.tensor([[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 9.0, 9.0]])).tolist() == [[0, 0]]


@given(boxes, boxes)
def test_ciou_is_at_most_iou(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = (cxcywh_to_xyxy(torch.tensor([box], dtype=torch.float64)) for box in (a, b))
    value = ciou(first, second)
    assert -2 < value.item() <= box_iou(first, second).item() + 1e-6


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3 - 25 / 325),  # same shape: only the distance counts
        ([0, 0, 10, 10], [20, 0, 30, 10], -400 / 1000),
        # 1:2 against 2:1, same centre: IoU 1/3, v = (4/π²)(atan 2 - atan 1/2)², α = v / (2/3 + v)
        ([0, 5, 20, 15], [5, 0, 15, 20], 1 / 3 - 0.0337517),
    ],
)
def test_known_values(a: list[float], b: list[float], expected: float) -> None:
    value = ciou(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    assert value.item() == pytest.approx(expected, abs=1e-5)


def test_no_gradient_flows_through_alpha() -> None:
    box = torch.tensor([[0.0, 0, 20, 10]], dtype=torch.float64, requires_grad=True)
    ciou(box, torch.tensor([[5.0, 0, 15, 20]], dtype=torch.float64)).sum().backward()
    assert torch.isfinite(box.grad).all()


def test_degenerate_boxes_stay_finite() -> None:
    box = torch.zeros(1, 4, requires_grad=True)
    value = ciou(box, torch.tensor([[0.0, 0, 4, 4]]))
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(box.grad).all()
