"""What objects were taken for, and how much is found and how much of it is right over the confidence asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from yolorep.detections import Detections
from yolorep.evaluation.bootstrap import Pairing
from yolorep.ops.boxes import box_iou

#: Thresholds looked at are multiples of 1 / STEPS.
STEPS = 1000


@dataclass(frozen=True)
class ConfidenceCurves:
    """Precision, recall and F1 at IoU 0.5 of the detections that score above a threshold.

    Attributes:
        thresholds: (t,) confidences, ascending.
        precision: (classes, t) share of the detections that are right, 1 where there are none; like the next two NaN
            for a class without objects.
        recall: (classes, t) share of the objects that are found.
        f1: (classes, t) harmonic mean of the two.
        best_confidence: the threshold of the highest F1, averaged over the classes that have objects; the middle one of
            several. None if nothing is right at any.
        best_f1: that F1.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    best_confidence: float | None
    best_f1: float


def confidence_curves(pairings: Sequence[Pairing], *, lowest: float = 0.0) -> ConfidenceCurves:
    """Counts what is left of an evaluation's detections above each threshold.

    Args:
        pairings: of each class, what pycocotools paired its detections with.
        lowest: confidence above which the evaluation looked: what lies below cannot be told.
    """
    first = min(math.ceil(round(lowest * STEPS, 6)), STEPS)
    thresholds = np.arange(first, STEPS + 1) / STEPS
    found, right = np.zeros((2, len(pairings), len(thresholds)))
    for class_id, pairing in enumerate(pairings):
        found[class_id] = _count_above(pairing.confidence[~pairing.ignored[0]], thresholds)
        right[class_id] = _count_above(pairing.confidence[pairing.correct[0]], thresholds)
    objects = np.array([pairing.objects.sum() for pairing in pairings], np.float64)[:, None]
    present = objects[:, 0] > 0
    objects[~present] = np.nan
    f1 = 2 * right / (found + objects)
    mean = f1[present].mean(axis=0) if present.any() else np.zeros(len(thresholds))
    best = np.flatnonzero(mean == mean.max())
    return ConfidenceCurves(
        thresholds=thresholds,
        precision=np.where(present[:, None], np.where(found > 0, right / np.maximum(found, 1), 1.0), np.nan),
        recall=right / objects,
        f1=f1,
        best_confidence=float(thresholds[best[len(best) // 2]]) if mean.any() else None,
        best_f1=float(mean.max()),
    )


def _count_above(confidence: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many values are above each threshold, in the precision of scores, as NMS compares them."""
    ascending = np.sort(confidence.astype(np.float32))
    return len(ascending) - np.searchsorted(ascending, thresholds.astype(np.float32), side="right")


def confusion_matrix(
    detections: Detections,
    boxes: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    *,
    num_classes: int,
    iou: float = 0.45,
) -> NDArray[np.int64]:
    """Counts what the objects of one image were taken for; sum over images for a data set.

    Objects and detections are paired one to one whatever their classes, the pair of highest IoU first.

    Args:
        detections: what was found.
        boxes: (n, 4) xyxy of the objects, in the same pixels.
        class_ids: (n,) their classes.
        num_classes: classes of the data set.
        iou: pairs must overlap more than this.

    Returns:
        (num_classes + 1, num_classes + 1) counts, rows the true class, columns the detected one. The last column
        counts missed objects, the last row detections of nothing.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    overlap = box_iou(torch.from_numpy(boxes).float(), torch.from_numpy(detections.xyxy)).numpy()
    true = np.full(len(detections), num_classes)  # class of the object each detection is paired with
    missed = np.ones(len(boxes), bool)
    # Pairs that are each other's best are those a greedy walk down the IoUs takes; without them the next ones are.
    while overlap.size:
        best_found = overlap.argmax(axis=1)
        rows = np.flatnonzero(overlap.argmax(axis=0)[best_found] == np.arange(len(boxes)))
        rows = rows[overlap[rows, best_found[rows]] > iou]
        if not len(rows):
            break
        columns = best_found[rows]
        true[columns] = class_ids[rows]
        missed[rows] = False
        overlap[rows, :] = -1
        overlap[:, columns] = -1
    np.add.at(matrix, (true, detections.class_id), 1)
    np.add.at(matrix, (class_ids[missed], np.full(int(missed.sum()), num_classes)), 1)
    return matrix
