"""Weights to be evaluated and the images to do it on, checked to fit together: what ``val`` and ``compare`` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolorep.config import find_config
from yolorep.console import say
from yolorep.data.annotations import Annotations
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.device import select_device
from yolorep.errors import UserError
from yolorep.evaluation.evaluator import Evaluation, evaluate
from yolorep.formats.base import Backend
from yolorep.formats.tta import TTA
from yolorep.inference.open import load_backend
from yolorep.models.image_size import fit_image_size, remembered_size
from yolorep.options import EvaluationOptions, ValOptions
from yolorep.weights.load import load_checkpoint


@dataclass(frozen=True)
class Candidate:
    """Weights to be evaluated.

    Attributes:
        weights: the file, as the user named it.
        backend: what runs it.
        image_size: long side to evaluate at, in pixels.
        rect: whether in rectangles.
    """

    weights: str
    backend: Backend
    image_size: int
    rect: bool

    @classmethod
    def open(cls, weights: str, options: EvaluationOptions) -> Candidate:
        """Opens a file of any kind.

        Raises:
            UserError: if it cannot be run as the options say.
        """
        backend = load_backend(
            weights,
            device=select_device(options.device),
            half=options.half,
            fused=not options.no_fuse,
            nms_free=options.nms_free,
        )
        return cls.of(backend, weights, options)

    @classmethod
    def of(cls, backend: Backend, weights: str, options: EvaluationOptions) -> Candidate:
        """Evaluates what is open already; a file made for one size is evaluated as a square of that size.

        Raises:
            UserError: if it was made for another shape.
        """
        if backend.image_size is None:
            size = remembered_size(options.imgsz, backend.geometry, weights)
            return cls(weights, backend, fit_image_size(size, backend.stride), not options.no_rect)
        height, width = backend.image_size
        if height != width:
            raise UserError(f"{weights}: evaluation needs a square or dynamic export, found {height}x{width}")
        if options.imgsz not in (None, height) or not options.no_rect:
            say(f"{weights} was exported for {height}x{width}: evaluating at that size with square letterboxes")
        return cls(weights, backend, height, False)

    def dataset(self, annotations: Annotations) -> DetectionDataset:
        """The images at this candidate's size."""
        return DetectionDataset(annotations, image_size=self.image_size)

    def evaluate(self, dataset: DetectionDataset, options: EvaluationOptions) -> Evaluation:
        """Runs it over the images and scores it."""
        return evaluate(
            TTA(self.backend) if options.augment else self.backend,
            dataset,
            batch_size=options.batch_size,
            confidence=options.conf_thres,
            iou=options.iou_thres,
            max_detections=options.max_det,
            rect=self.rect,
            single_class=options.single_cls,
            workers=options.workers,
            pictures=isinstance(options, ValOptions),
            description=f"{options.task}: {self.weights}",
        )


def find_data(options: EvaluationOptions, weights: str) -> str:
    """The data set asked for, or the one that the weights were trained on, which is said.

    Raises:
        UserError: if neither is known.
    """
    if options.data:
        return options.data
    data = load_checkpoint(weights).data if Path(weights).suffix == ".pt" else ""
    if not data:
        raise UserError(f"--data: missing; {weights} does not say what it was trained on, so name a dataset YAML")
    say(f"data: {data}, which {weights} was trained on")
    find_config(data, "data")
    return data


def load_split(data: str, candidates: Sequence[Candidate], options: EvaluationOptions) -> Annotations:
    """The split to evaluate on.

    Raises:
        UserError: if it cannot be had, or has not as many classes as the candidates predict.
    """
    config = load_data_config(data, download=options.download)
    annotations = load_annotations(config, options.task, single_class=options.single_cls)
    for candidate in candidates:
        if len(annotations.names) != len(candidate.backend.names) and not options.single_cls:
            raise UserError(
                f"{data}: has {len(annotations.names)} classes, but {candidate.weights} predicts "
                f"{len(candidate.backend.names)}; evaluate on the data set the weights were trained for"
            )
    return annotations
