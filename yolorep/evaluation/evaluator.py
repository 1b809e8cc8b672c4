"""Running a model over a data set and scoring it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolorep.console import progress
from yolorep.data.dataset import Dataset
from yolorep.data.loader import EvalBatch, eval_loader
from yolorep.defaults import CONFIDENCE, IOU, MAX_DETECTIONS
from yolorep.detections import Detections
from yolorep.evaluation.confusion import ConfidenceCurves, confidence_curves
from yolorep.evaluation.metrics import CocoMetric, CocoResult
from yolorep.formats.base import Backend
from yolorep.ops.nms import load_nms, nms
from yolorep.ops.prepare import undo_letterboxes


@dataclass(frozen=True, repr=False)
class Evaluation:
    """An evaluation's findings.

    Attributes:
        coco: pycocotools' numbers.
        detections: of each image of the data set, boxes in its own pixels.
        detected: the same with ``detect``'s defaults for confidence, NMS and number, each box for its best class. It is
            taken from all the network's candidates, not from what is left in ``detections``, so it is what ``detect``
            finds, but for the wider border that images are evaluated with. Empty if it was not asked for.
        results: ``detections`` in COCO's result form, with the data set's own ids.
        speed: milliseconds an image waiting for images (``preprocess``), in the network and its decoding
            (``inference``), and in ``nms``.
        confidence: below which no box was looked at.
        folder: where a command wrote its results; None if none did.
    """

    coco: CocoResult
    detections: list[Detections]
    detected: list[Detections]
    results: list[dict[str, Any]]
    speed: dict[str, float]
    confidence: float = 0.0
    folder: Path | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The twelve numbers by name: ``AP``, ``AP50``, …."""
        return self.coco.metrics

    @functools.cached_property
    def curves(self) -> ConfidenceCurves:
        """Precision, recall and F1 over confidence."""
        return confidence_curves(self.coco.pairings, lowest=self.confidence)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {self.metrics[name]:.3f}" for name in ("AP", "AP50", "AR100"))
        return f"Evaluation({len(self.detections)} images, {numbers})"


def evaluate(
    backend: Backend,
    dataset: Dataset,
    *,
    batch_size: int,
    confidence: float = 0.001,
    iou: float = 0.6,
    max_detections: int = 300,
    rect: bool = True,
    single_class: bool = False,
    workers: int = 0,
    pictures: bool = True,
    description: str = "val",
    observe: Callable[[EvalBatch], None] | None = None,
) -> Evaluation:
    """Evaluates with YOLOv5's settings: several classes a box, low confidence, NMS limited by count only.

    Every image has its own rectangular shape, whatever batch it is in, so the result does not depend on
    ``batch_size``.

    Args:
        backend: the model.
        dataset: what to evaluate on.
        batch_size: images a batch at most.
        confidence: boxes below it are not looked at.
        iou: NMS threshold, for a backend that needs NMS.
        max_detections: boxes kept an image.
        rect: rectangular shapes; otherwise squares.
        single_class: all of the model's classes are the data set's only one.
        workers: data loading processes.
        pictures: find what pictures show, ``detected``, too.
        description: for the progress display.
        observe: called with every batch after the backend has run it; its time is not counted.
    """
    if not backend.nms_free:
        load_nms()
    annotations = dataset.annotations
    metric = CocoMetric(annotations.ground_truth(), names=annotations.names, category_ids=annotations.category_ids)
    loader = eval_loader(
        dataset,
        batch_size=batch_size,
        stride=backend.stride,
        rect=rect,
        pad=backend.geometry.pad,
        workers=workers,
    )
    found = [Detections.empty()] * len(annotations)
    detected = list(found) if pictures else []
    seconds = {"preprocess": 0.0, "inference": 0.0, "nms": 0.0}
    mark = time.perf_counter()
    for batch in progress(loader, desc=description, unit="batch"):
        waited = time.perf_counter()
        decoded = backend(batch.images)
        inferred = time.perf_counter()
        if single_class:
            decoded = decoded._replace(scores=decoded.scores.amax(dim=2, keepdim=True))
        kept = nms(
            decoded,
            confidence=confidence,
            iou=None if backend.nms_free else iou,
            max_detections=max_detections,
            multi_label=True,
        )
        placed = undo_letterboxes(kept, batch.letterboxes, names=annotations.names)
        done = time.perf_counter()
        for index, detections in zip(batch.indices, placed, strict=True):
            found[index] = detections
        if pictures:
            shown = nms(
                decoded,
                confidence=CONFIDENCE,
                iou=None if backend.nms_free else IOU,
                max_detections=MAX_DETECTIONS,
            )
            placed = undo_letterboxes(shown, batch.letterboxes, names=annotations.names)
            for index, detections in zip(batch.indices, placed, strict=True):
                detected[index] = detections
        seconds["preprocess"] += waited - mark
        seconds["inference"] += inferred - waited
        seconds["nms"] += done - inferred
        if observe is not None:
            observe(batch)
        mark = time.perf_counter()
    for index, detections in enumerate(found):
        metric.update(annotations.image_id(index), detections)
    speed = {name: value * 1000 / max(len(annotations), 1) for name, value in seconds.items()}
    return Evaluation(metric.compute(), found, detected, metric.results, speed, confidence)
