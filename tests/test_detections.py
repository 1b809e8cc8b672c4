"""Detections validate and index like an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from yolorep.detections import Detections


def three(**changes: Any) -> Detections:
    values = {
        "xyxy": np.array([[0, 0, 2, 3], [1, 1, 2, 2], [5, 5, 4, 4]], np.float32),
        "confidence": np.array([0.9, 0.5, 0.1], np.float32),
        "class_id": np.array([0, 1, 0]),
    }
    return Detections(**{**values, **changes})


@pytest.mark.parametrize(
    ("index", "classes"),
    [(0, [0]), (slice(1, None), [1, 0]), (np.array([True, False, True]), [0, 0]), ([2, 1], [0, 1])],
)
def test_indexing(index: Any, classes: list[int]) -> None:
    assert three(tracker_id=np.arange(3))[index].class_id.tolist() == classes


def test_iteration() -> None:
    assert [len(one) for one in three()] == [1, 1, 1]
    assert len(Detections.empty()) == 0


@pytest.mark.parametrize(
    "change",
    [{"xyxy": np.zeros((3, 5), np.float32)}, {"confidence": np.zeros(2, np.float32)}, {"tracker_id": np.zeros(1)}],
)
def test_shapes_must_agree(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected shape"):
        three(**change)
