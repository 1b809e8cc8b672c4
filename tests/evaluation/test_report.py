"""What an evaluation says, to people and in metrics.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from yolorep.detections import Detections
from yolorep.evaluation.evaluator import Evaluation
from yolorep.evaluation.metrics import CocoMetric
from yolorep.evaluation.report import metrics_dict, table


def evaluation(*confidences: float) -> Evaluation:
    """Of one object; the first detection is right, the others are wrong."""
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
        ],
    }
    boxes = np.array([[10, 10, 50, 50]] + [[60, 60, 90, 90]] * 9, np.float32)[: len(confidences)]
    found = Detections(boxes, np.array(confidences, np.float32), np.zeros(len(confidences), np.int64))
    metric = CocoMetric(truth, names=["cat"], category_ids=[1])
    metric.update(1, found)
    coco = metric.compute()
    return Evaluation(coco, [found], [found], metric.results, {"nms": 1.0})


@pytest.mark.parametrize(
    ("confidences", "line", "best", "f1"),
    [
        ((0.9, 0.5), "best confidence 0.7, with F1 1.000 at IoU 0.5", 0.7, 1.0),
        ((0.5, 0.9), "best confidence 0.25, with F1 0.667 at IoU 0.5", 0.25, 2 / 3),
        ((), None, None, 0.0),
    ],
)
def test_the_best_confidence_is_told(
    confidences: tuple[float, ...], line: str | None, best: float | None, f1: float
) -> None:
    result = evaluation(*confidences)
    assert [text for text in table(result, images=1).splitlines() if "confidence" in text] == ([line] if line else [])
    metrics = json.loads(json.dumps(metrics_dict(result)))
    assert metrics["best_confidence"] == best
    assert metrics["best_f1"] == pytest.approx(f1)
