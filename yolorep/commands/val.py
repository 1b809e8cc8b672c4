"""The ``val`` command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from yolorep.config import find_config
from yolorep.console import say
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.detections import yolo_text
from yolorep.device import select_device
from yolorep.errors import UserError
from yolorep.evaluation.evaluator import Evaluation, evaluate
from yolorep.evaluation.pictures import plot_evaluation
from yolorep.evaluation.report import metrics_dict, table
from yolorep.files import new_run_dir, write_text
from yolorep.formats.base import Backend
from yolorep.formats.tta import TTA
from yolorep.inference.open import load_backend
from yolorep.media.sinks import OutputNames
from yolorep.models.image_size import fit_image_size, remembered_size
from yolorep.options import ValOptions
from yolorep.weights.load import load_checkpoint


def run(options: ValOptions) -> Evaluation:
    """Evaluates weights on a data set; prints the numbers and writes them to a run directory, ``folder`` of the result.

    Raises:
        UserError: if weights, data or both do not fit.
    """
    backend = load_backend(
        options.weights,
        device=select_device(options.device),
        half=options.half,
        fused=not options.no_fuse,
        nms_free=options.nms_free,
    )
    data = options.data or _training_data(Path(options.weights))
    config = load_data_config(data, download=options.download)
    annotations = load_annotations(config, options.task, single_class=options.single_cls)
    if len(annotations.names) != len(backend.names) and not options.single_cls:
        raise UserError(
            f"{data}: has {len(annotations.names)} classes, but {options.weights} predicts {len(backend.names)}; "
            "evaluate on the data set the weights were trained for"
        )
    size, rect = _input_shape(options, backend)
    if options.augment:
        backend = TTA(backend)
    folder = new_run_dir(options.project, options.name, exist_ok=options.exist_ok)
    dataset = DetectionDataset(annotations, image_size=size)
    evaluation = evaluate(
        backend,
        dataset,
        batch_size=options.batch_size,
        confidence=options.conf_thres,
        iou=options.iou_thres,
        max_detections=options.max_det,
        rect=rect,
        single_class=options.single_cls,
        workers=options.workers,
        description=f"{options.task} {data}",
    )
    say(table(evaluation, images=len(dataset), every_class=options.verbose))
    write_text(folder / "metrics.json", json.dumps(metrics_dict(evaluation), indent=2))
    if options.save_json:
        write_text(folder / "predictions.json", json.dumps(evaluation.results))
    if options.save_txt:
        _save_txt(evaluation, dataset, folder / "labels", with_confidence=options.save_conf)
    plot_evaluation(evaluation, dataset, folder)
    say(f"results in {folder}")
    return replace(evaluation, folder=folder)


def _training_data(weights: Path) -> str:
    """The data set the weights were trained on, if the file says it."""
    data = load_checkpoint(weights).data if weights.suffix == ".pt" else ""
    if not data:
        raise UserError(f"--data: missing; {weights} does not say what it was trained on, so name a dataset YAML")
    say(f"data: {data}, which {weights} was trained on")
    find_config(data)
    return data


def _input_shape(options: ValOptions, backend: Backend) -> tuple[int, bool]:
    """The long side to evaluate at, and whether in rectangles; a file made for one size is evaluated as a square."""
    if backend.image_size is None:
        size = remembered_size(options.imgsz, backend.geometry, options.weights)
        return fit_image_size(size, backend.stride), not options.no_rect
    height, width = backend.image_size
    if height != width:
        raise UserError(f"{options.weights}: evaluation needs a square or dynamic export, found {height}x{width}")
    if options.imgsz not in (None, height) or not options.no_rect:
        say(f"{options.weights} was exported for {height}x{width}: evaluating at that size with square letterboxes")
    return height, False


def _save_txt(evaluation: Evaluation, dataset: DetectionDataset, folder: Path, *, with_confidence: bool) -> None:
    names = OutputNames()  # images of the same name in several folders get files of their own
    for index, detections in enumerate(evaluation.detections):
        height, width = dataset.annotations.sizes[index].tolist()
        text = yolo_text(detections, (height, width), with_confidence=with_confidence)
        write_text(folder / f"{names.of(dataset.annotations.paths[index])}.txt", text)
