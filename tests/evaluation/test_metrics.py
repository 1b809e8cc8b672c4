"""CocoMetric is pycocotools, with its conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from yolorep.detections import Detections
from yolorep.evaluation.metrics import METRICS, CocoMetric

NAMES, CATEGORIES = ("cat", "dog"), (7, 3)


def truth() -> dict[str, Any]:
    boxes = [(1, 7, [10, 10, 40, 40], 0), (1, 3, [100, 100, 50, 60], 0), (2, 3, [0, 0, 50, 50], 1)]
    return {
        "images": [{"id": 1, "height": 300, "width": 300}, {"id": 2, "height": 300, "width": 300}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
            for n, (i, c, b, crowd) in enumerate(boxes, start=1)
        ],
    }


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([r[1] for r in rows], np.float32), np.array([r[2] for r in rows], np.int64))


def metric() -> CocoMetric:
    return CocoMetric(truth(), names=NAMES, category_ids=CATEGORIES)


def test_perfect_detections() -> None:
    coco = metric()
    coco.update(1, found(([10, 10, 50, 50], 0.9, 0), ([100, 100, 150, 160], 0.8, 1)))
    result = coco.compute()
    assert result.metrics["AP"] == pytest.approx(1.0) and tuple(result.metrics) == METRICS
    assert result.metrics["APl"] == -1.0  # there are no large objects
    assert [(entry.name, entry.objects, entry.AP) for entry in result.per_class] == [
        ("cat", 1, pytest.approx(1.0)),
        ("dog", 1, pytest.approx(1.0)),
    ]


def test_category_order_is_the_names_order() -> None:
    coco = metric()
    coco.update(1, found(([10, 10, 50, 50], 0.9, 0)))
    cat, dog = coco.compute().per_class
    assert pytest.approx(1.0) == cat.AP and dog.AP == 0.0


def test_no_detections_are_an_ap_of_zero() -> None:
    assert metric().compute().metrics["AP"] == 0.0


def test_detections_in_a_crowd_do_not_count() -> None:
    coco = metric()
    coco.update(1, found(([10, 10, 50, 50], 0.9, 0), ([100, 100, 150, 160], 0.8, 1)))
    coco.update(2, found(([5, 5, 20, 20], 0.99, 1), ([200, 200, 250, 250], 0.1, 1)))
    assert coco.compute().metrics["AP"] == pytest.approx(1.0)


def test_reset() -> None:
    coco = metric()
    coco.update(1, found(([10, 10, 50, 50], 0.9, 0)))
    coco.reset()
    assert coco.compute().metrics["AP"] == 0.0
