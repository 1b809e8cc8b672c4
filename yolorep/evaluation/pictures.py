"""The pictures of an evaluation: precision and recall, confusions, predictions beside labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolorep.data.dataset import Dataset
from yolorep.detections import Detections
from yolorep.errors import UserError
from yolorep.evaluation.confusion import confusion_matrix
from yolorep.evaluation.evaluator import Evaluation
from yolorep.plots.curves import plot_confusion_matrix, plot_pr_curve
from yolorep.plots.grids import plot_predictions

#: Images shown beside their labels.
SHOWN = 8
#: Confidence of the boxes in the pictures.
CONFIDENCE = 0.25


def plot_evaluation(evaluation: Evaluation, dataset: Dataset, folder: Path) -> None:
    """Writes ``pr_curve.png``, ``confusion_matrix.png`` and ``predictions.jpg``.

    Images that can no longer be read are not shown.
    """
    annotations = dataset.annotations
    names = annotations.names
    truth = annotations.truth
    matrix = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    images: list[NDArray[np.uint8]] = []
    labels: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
    shown: list[Detections] = []
    for index, detections in enumerate(evaluation.detections):
        objects = slice(*np.searchsorted(truth.image, [index, index + 1]))
        solid = ~truth.crowd[objects]
        boxes = truth.xywh[objects][solid].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        class_ids = truth.class_id[objects][solid]
        matrix += confusion_matrix(detections, boxes, class_ids, num_classes=len(names), confidence=CONFIDENCE)
        if len(images) < SHOWN and len(boxes):
            try:
                images.append(dataset.load_image(index))
            except UserError:
                continue
            scale = dataset.image_size / annotations.sizes[index].max()
            found = detections[detections.confidence > CONFIDENCE]
            labels.append((boxes * np.float32(scale), class_ids))
            shown.append(type(found)(found.xyxy * np.float32(scale), found.confidence, found.class_id))
    plot_pr_curve(evaluation.coco.precision, names, folder / "pr_curve.png")
    plot_confusion_matrix(matrix, names, folder / "confusion_matrix.png")
    if images:
        plot_predictions(images, labels, shown, names, folder / "predictions.jpg")
