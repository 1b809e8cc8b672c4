"""What objects were taken for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from yolorep.detections import Detections
from yolorep.ops.boxes import box_iou


def confusion_matrix(
    detections: Detections,
    boxes: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    *,
    num_classes: int,
    confidence: float = 0.25,
    iou: float = 0.45,
) -> NDArray[np.int64]:
    """Counts what the objects of one image were taken for; sum over images for a data set.

    Objects and detections are paired one to one whatever their classes, the pair of highest IoU first.

    Args:
        detections: what was found.
        boxes: (n, 4) xyxy of the objects, in the same pixels.
        class_ids: (n,) their classes.
        num_classes: classes of the data set.
        confidence: detections must score above this.
        iou: pairs must overlap more than this.

    Returns:
        (num_classes + 1, num_classes + 1) counts, rows the true class, columns the detected one. The last column
        counts missed objects, the last row detections of nothing.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    found = detections[detections.confidence > confidence]
    overlap = box_iou(torch.from_numpy(boxes).float(), torch.from_numpy(found.xyxy)).numpy()
    true = np.full(len(found), num_classes)  # class of the object each detection is paired with
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
    np.add.at(matrix, (true, found.class_id), 1)
    np.add.at(matrix, (class_ids[missed], np.full(int(missed.sum()), num_classes)), 1)
    return matrix
