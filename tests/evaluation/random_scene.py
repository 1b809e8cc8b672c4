"""Random objects and detections of them, for evaluations whose numbers nobody knows beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from yolorep.detections import Detections
from yolorep.evaluation.metrics import CocoMetric, CocoResult

CLASSES = 4  # the last one has no objects
SIDE = 400


def scene(seed: int, *, images: int, skill: float = 0.7) -> list[tuple[list[dict[str, Any]], Detections]]:
    """Per image its annotations, crowds among them, and what was found: most objects, and some that are not there.

    Args:
        seed: of the objects; detections differ with ``skill`` as well.
        images: how many.
        skill: share of the objects that are found.
    """
    rng = np.random.default_rng(seed)
    chance = np.random.default_rng([seed, round(1000 * skill)])
    made = []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        boxes = np.concatenate([rng.uniform(0, 250, (count, 2)), rng.uniform(10, 150, (count, 2))], axis=1)
        classes, crowds = rng.integers(0, CLASSES - 1, count), rng.random(count) < 0.15
        annotations = [
            {"bbox": box, "area": box[2] * box[3], "category": int(kind), "iscrowd": int(crowd)}
            for box, kind, crowd in zip(boxes.tolist(), classes, crowds, strict=True)
        ]
        kept = chance.random(count) < skill
        extra = int(chance.integers(0, 4))
        moved = boxes[kept] + chance.normal(0, 6, (int(kept.sum()), 4))
        noise = np.concatenate([chance.uniform(0, 250, (extra, 2)), chance.uniform(10, 150, (extra, 2))], axis=1)
        xyxy = np.concatenate([moved, noise])
        xyxy[:, 2:] = xyxy[:, :2] + np.maximum(xyxy[:, 2:], 2)
        labels = np.concatenate([classes[kept], chance.integers(0, CLASSES, extra)])
        confidence = np.concatenate([chance.uniform(0.2, 1, len(moved)), chance.uniform(0, 0.7, extra)])
        found = Detections(xyxy.astype(np.float32), confidence.astype(np.float32), labels.astype(np.int64))
        made.append((annotations, found))
    return made


def score(images: Sequence[tuple[list[dict[str, Any]], Detections]], copies: Sequence[int] | None = None) -> CocoResult:
    """pycocotools' verdict when every image is there as often as ``copies`` says."""
    times = [1] * len(images) if copies is None else list(copies)
    rows = list(enumerate(np.repeat(np.arange(len(images)), times).tolist()))
    categories = [30, 10, 20, 40]  # not ascending: pycocotools sorts them
    annotations = [
        {
            **{k: v for k, v in entry.items() if k != "category"},
            "image_id": number,
            "category_id": categories[entry["category"]],
        }
        for number, index in rows
        for entry in images[index][0]
    ]
    truth = {
        "images": [{"id": number, "height": SIDE, "width": SIDE} for number, _ in rows],
        "categories": [{"id": category, "name": f"class{category}"} for category in categories],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)],
    }
    metric = CocoMetric(truth, names=[f"class{category}" for category in categories], category_ids=categories)
    for number, index in rows:
        metric.update(number, images[index][1])
    return metric.compute()
