"""COCO average precision, computed by pycocotools and nothing else."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolorep.detections import Detections
from yolorep.evaluation.bootstrap import Pairing, pairings

#: pycocotools' twelve numbers, in its order. AP where a size has no objects is -1.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class ClassResult:
    """One class: how many images and objects it has, its AP, AP50 and AR100."""

    name: str
    images: int
    objects: int
    AP: float
    AP50: float
    AR100: float


@dataclass(frozen=True)
class CocoResult:
    """What an evaluation found.

    Attributes:
        metrics: the twelve numbers by name.
        per_class: one entry a class, in the order of the names.
        precision: pycocotools' (IoU thresholds, recall points, classes, sizes, limits); -1 where undefined.
        pairings: what the detections of each class were paired with.
    """

    metrics: dict[str, float]
    per_class: tuple[ClassResult, ...]
    precision: NDArray[np.float64]
    pairings: tuple[Pairing, ...]


class CocoMetric:
    """Collects detections image by image and scores them with pycocotools.

    Args:
        ground_truth: a COCO data set (images, annotations, categories).
        names: class names.
        category_ids: category id of each class.
    """

    def __init__(self, ground_truth: Mapping[str, Any], *, names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.ground_truth = ground_truth
        self.names = tuple(names)
        self.category_ids = tuple(category_ids)
        self.results: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forgets the detections."""
        self.results = []

    def update(self, image_id: int | str, detections: Detections) -> None:
        """Adds the detections of one image, boxes in its own pixels."""
        xywh = detections.xyxy.astype(np.float64)
        xywh[:, 2:] -= xywh[:, :2]
        for box, score, label in zip(
            xywh.tolist(), detections.confidence.tolist(), detections.class_id.tolist(), strict=True
        ):
            self.results.append(
                {"image_id": image_id, "category_id": self.category_ids[label], "bbox": box, "score": score}
            )

    def compute(self) -> CocoResult:
        """Scores what was collected. No detections give an AP of 0."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools narrates
            truth, found = COCO(), COCO()
            truth.dataset = dict(self.ground_truth)
            truth.createIndex()
            found.dataset = {
                "images": self.ground_truth["images"],
                "categories": self.ground_truth["categories"],
                "annotations": [
                    {**result, "id": number, "iscrowd": 0, "area": result["bbox"][2] * result["bbox"][3]}
                    for number, result in enumerate(self.results, start=1)
                ],
            }
            found.createIndex()
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.params.catIds = list(self.category_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        metrics = dict(zip(METRICS, map(float, evaluation.stats), strict=True))
        # pycocotools sorts the categories; this is the order of the names.
        order = np.argsort(np.argsort(self.category_ids))
        every_precision = np.asarray(evaluation.eval["precision"])[:, :, order]
        precision = every_precision[..., 0, 2]  # all sizes, 100 detections
        recall = np.asarray(evaluation.eval["recall"])[:, order, 0, 2]
        per_class = tuple(
            ClassResult(
                name=name,
                images=len({a["image_id"] for a in truth.loadAnns(truth.getAnnIds(catIds=[category]))}),
                objects=len(truth.getAnnIds(catIds=[category], iscrowd=False)),
                AP=_mean(precision[:, :, index]),
                AP50=_mean(precision[0, :, index]),
                AR100=_mean(recall[:, index]),
            )
            for index, (name, category) in enumerate(zip(self.names, self.category_ids, strict=True))
        )
        return CocoResult(metrics, per_class, every_precision, pairings(evaluation, order))


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of what is defined; -1 if nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
