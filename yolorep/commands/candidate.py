"""Weights to be evaluated and the images to do it on, checked to fit together: what ``val`` and ``compare`` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolorep.config import find_config
from yolorep.console import say
from yolorep.data.annotations import Annotations
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import Dataset, DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.device import select_device
from yolorep.errors import UserError
from yolorep.evaluation.evaluator import Evaluation, evaluate
from yolorep.formats.base import Backend
from yolorep.formats.tta import TTA
from yolorep.image_headers import limit_pixels
from yolorep.inference.open import load_backend
from yolorep.models.image_size import choose_size
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
        fixed = backend.image_size
        if fixed is not None and fixed[0] != fixed[1]:
            raise UserError(f"{weights}: evaluation needs a square or dynamic export, found {fixed[0]}x{fixed[1]}")
        size = choose_size(options.imgsz, geometry=backend.geometry, stride=backend.stride, fixed=fixed, source=weights)
        if fixed is not None and not options.no_rect:
            say(f"{weights}: square letterboxes, as it was exported for {fixed[0]}x{fixed[1]} only")
        return cls(weights, backend, size, fixed is None and not options.no_rect)

    def dataset(self, annotations: Annotations) -> DetectionDataset:
        """The images at this candidate's size."""
        return DetectionDataset(annotations, image_size=self.image_size)

    def evaluate(self, dataset: Dataset, options: EvaluationOptions) -> Evaluation:
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


def find_data(options: EvaluationOptions, *weights: str) -> str:
    """The data set asked for, or the one that the first weights to know were trained on, which is said.

    Raises:
        UserError: if neither is known.
    """
    if options.data:
        return options.data
    for file in weights:
        if Path(file).suffix.lower() == ".pt" and (data := load_checkpoint(file).data):
            say(f"data: {data}, which {file} was trained on")
            find_config(data, "data")
            return data
    raise UserError(
        f"--data: missing; {' and '.join(weights)} {'do' if len(weights) > 1 else 'does'} not say what it was "
        "trained on, so name a dataset YAML"
    )


def load_split(data: str, candidates: Sequence[Candidate], options: EvaluationOptions) -> Annotations:
    """The split to evaluate on.

    Raises:
        UserError: if it cannot be had, or has not as many classes as the candidates predict.
    """
    limit_pixels(options.max_pixels)
    config = load_data_config(data, download=options.download)
    annotations = load_annotations(config, options.task, single_class=options.single_cls)
    check_classes(candidates, annotations.names, data, options)
    return annotations


def check_classes(candidates: Sequence[Candidate], names: Sequence[str], data: str, options: EvaluationOptions) -> None:
    """Makes sure that class numbers mean the same to the weights and the data.

    Other spellings of a name are told; two candidates must spell alike, and no two classes may have changed places.

    Raises:
        UserError: if they do not.
    """
    if options.single_cls:
        return
    for candidate in candidates:
        own = candidate.backend.names
        if len(names) != len(own):
            raise UserError(
                f"{data}: has {len(names)} classes, but {candidate.weights} predicts {len(own)}; "
                "evaluate on the data set the weights were trained for"
            )
        differing = [index for index, (mine, theirs) in enumerate(zip(own, names, strict=True)) if mine != theirs]
        if not differing:
            continue
        first = differing[0]
        found = f"class {first}: expected {names[first]!r} as in {data}, found {own[first]!r}"
        if len(candidates) > 1:
            raise UserError(f"{candidate.weights}: {found}; compare weights of the same classes")
        if own[first] in names:
            raise UserError(f"{candidate.weights}: {found}, which is another class there; put its names in this order")
        say(f"{candidate.weights}: {len(differing)} classes have other names than in {data}; {found}")
