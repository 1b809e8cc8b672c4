"""The ``val`` command."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from yolorep.config import find_config
from yolorep.console import say
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.engine.build import load_backend
from yolorep.engine.device import select_device
from yolorep.engine.evaluation_plots import plot_evaluation
from yolorep.engine.evaluator import Evaluation, evaluate
from yolorep.engine.image_size import fit_image_size
from yolorep.errors import UserError
from yolorep.files import new_run_dir, write_text
from yolorep.formats.base import Backend
from yolorep.formats.tta import TTA
from yolorep.media.sinks import OutputNames, yolo_text
from yolorep.metrics import METRICS
from yolorep.options import ValOptions
from yolorep.weights.load import load_checkpoint

#: Classes listed without --verbose.
SHORT_TABLE = 20


def val(options: ValOptions) -> Path:
    """Evaluates weights on a data set; prints the numbers and writes them to the run directory, which is returned.

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
    options = _fit_to_file(options, backend)
    if options.augment:
        backend = TTA(backend)
    folder = new_run_dir(options.project, options.name, exist_ok=options.exist_ok)
    dataset = DetectionDataset(annotations, image_size=options.imgsz)
    evaluation = evaluate(
        backend,
        dataset,
        batch_size=options.batch_size,
        confidence=options.conf_thres,
        iou=options.iou_thres,
        max_detections=options.max_det,
        rect=not options.no_rect,
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
    return folder


def table(evaluation: Evaluation, *, images: int, every_class: bool = False) -> str:
    """The twelve numbers, the classes and the speed, for people."""
    coco = evaluation.coco
    lines = [f"{'class':24}{'images':>8}{'objects':>9}{'AP':>8}{'AP50':>8}{'AR100':>8}"]
    objects = sum(entry.objects for entry in coco.per_class)
    numbers = [coco.metrics[name] for name in ("AP", "AP50", "AR100")]
    lines.append(f"{'all':24}{images:8d}{objects:9d}" + "".join(f"{number:8.3f}" for number in numbers))
    shown = [entry for entry in coco.per_class if entry.objects]
    if len(shown) > SHORT_TABLE and not every_class:
        lines.append(f"({len(shown)} classes; --verbose lists them)")
    elif len(coco.per_class) > 1:
        lines += [
            f"{entry.name:24}{entry.images:8d}{entry.objects:9d}{entry.AP:8.3f}{entry.AP50:8.3f}{entry.AR100:8.3f}"
            for entry in shown
        ]
    for group in (METRICS[:6], METRICS[6:]):
        lines.append("  ".join(f"{name} {coco.metrics[name]:.4f}" for name in group))
    speed = ", ".join(f"{name} {value:.1f} ms" for name, value in evaluation.speed.items())
    return "\n".join([*lines, f"per image: {speed}"])


def metrics_dict(evaluation: Evaluation) -> dict[str, Any]:
    """What ``metrics.json`` holds: the twelve numbers, the classes, the speed in milliseconds an image."""
    return {
        **evaluation.coco.metrics,
        "per_class": [asdict(entry) for entry in evaluation.coco.per_class],
        "speed": evaluation.speed,
    }


def _training_data(weights: Path) -> str:
    """The data set the weights were trained on, if the file says it."""
    data = load_checkpoint(weights).data if weights.suffix == ".pt" else ""
    if not data:
        raise UserError(f"--data: missing; {weights} does not say what it was trained on, so name a dataset YAML")
    say(f"data: {data}, which {weights} was trained on")
    find_config(data)
    return data


def _fit_to_file(options: ValOptions, backend: Backend) -> ValOptions:
    """A file exported for one size is evaluated at that size, as a square."""
    if backend.image_size is None:
        return replace(options, imgsz=fit_image_size(options.imgsz, backend.stride))
    height, width = backend.image_size
    if height != width:
        raise UserError(f"{options.weights}: evaluation needs a square or dynamic export, found {height}x{width}")
    if options.imgsz != height or not options.no_rect:
        say(f"{options.weights} was exported for {height}x{width}: evaluating at that size with square letterboxes")
    return replace(options, imgsz=height, no_rect=True)


def _save_txt(evaluation: Evaluation, dataset: DetectionDataset, folder: Path, *, with_confidence: bool) -> None:
    names = OutputNames()  # images of the same name in several folders get files of their own
    for index, detections in enumerate(evaluation.detections):
        height, width = dataset.annotations.sizes[index].tolist()
        text = yolo_text(detections, (height, width), with_confidence=with_confidence)
        write_text(folder / f"{names.of(dataset.annotations.paths[index])}.txt", text)
