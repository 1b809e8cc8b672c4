"""The pictures of an evaluation: curves, confusions, detections beside labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolorep.console import say
from yolorep.data.annotations import Annotations
from yolorep.data.dataset import Dataset
from yolorep.detections import Detections
from yolorep.errors import UserError
from yolorep.evaluation.confusion import confusion_matrix
from yolorep.evaluation.evaluator import Evaluation
from yolorep.plots.curves import plot_confidence_curves, plot_confusion_matrix, plot_pr_curve
from yolorep.plots.grids import certain, plot_predictions

#: Pictures of images with their labels and what was detected, and the images in each.
BATCHES, BATCH = 3, 8


def plot_evaluation(evaluation: Evaluation, dataset: Dataset, folder: Path) -> None:
    """Writes the pictures of an evaluation.

    ``pr_curve.png`` and ``confidence_curves.png`` show the detections that are scored; ``confusion_matrix.png``
    (counts), ``confusion_matrix_normalized.png`` (shares) and ``val_batch0.jpg`` to ``val_batch2.jpg`` (the first
    images that have objects) what ``detect`` finds. An image that can no longer be loaded is left out, and said.
    """
    annotations, curves = dataset.annotations, evaluation.curves
    names = annotations.names
    matrix = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    labelled = []
    for index, detections in enumerate(evaluation.detected):
        labels = _labels(annotations, index)
        matrix += confusion_matrix(detections, labels.xyxy, labels.class_id, num_classes=len(names))
        if len(labels):
            labelled.append(index)
    plot_pr_curve(evaluation.coco.precision, names, folder / "pr_curve.png")
    plot_confidence_curves(
        curves.thresholds,
        {"Precision": curves.precision, "Recall": curves.recall, "F1": curves.f1},
        names,
        folder / "confidence_curves.png",
        best=curves.best_confidence,
    )
    plot_confusion_matrix(matrix, names, folder / "confusion_matrix.png")
    plot_confusion_matrix(matrix, names, folder / "confusion_matrix_normalized.png", normalized=True)
    for number in range(BATCHES):
        shown = labelled[number * BATCH : (number + 1) * BATCH]
        plot_predictions(_images(evaluation, dataset, shown), names, folder / f"val_batch{number}.jpg")


def _labels(annotations: Annotations, index: int) -> Detections:
    """The objects of an image, without crowds."""
    truth = annotations.truth
    objects = slice(*np.searchsorted(truth.image, [index, index + 1]))
    solid = ~truth.crowd[objects]
    boxes = truth.xywh[objects][solid].astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return certain(boxes, truth.class_id[objects][solid])


def _images(
    evaluation: Evaluation, dataset: Dataset, indices: Sequence[int]
) -> Iterator[tuple[NDArray[np.uint8], Detections, Detections]]:
    """Images with their labels and what was detected, scaled to the size they are loaded in."""
    annotations = dataset.annotations
    for index in indices:
        try:
            image = dataset.load_image(index)
        except UserError as error:
            say(f"not drawn: {error}")
            continue
        scale = np.tile(np.divide(image.shape[1::-1], annotations.sizes[index, ::-1]), 2).astype(np.float32)
        yield image, _scaled(_labels(annotations, index), scale), _scaled(evaluation.detected[index], scale)


def _scaled(detections: Detections, scale: NDArray[np.float32]) -> Detections:
    return Detections(detections.xyxy * scale, detections.confidence, detections.class_id)
