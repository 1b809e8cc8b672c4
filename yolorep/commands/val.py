"""The ``val`` command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from yolorep.commands.candidate import Candidate, check_classes, find_data, load_split
from yolorep.console import say
from yolorep.data.dataset import Dataset
from yolorep.detections import yolo_text
from yolorep.errors import UserError
from yolorep.evaluation.evaluator import Evaluation
from yolorep.evaluation.pictures import plot_evaluation
from yolorep.evaluation.report import metrics_dict, table
from yolorep.files import new_run_dir, write_text
from yolorep.media.sinks import OutputNames
from yolorep.options import ValOptions


def run(options: ValOptions, dataset: Dataset | None = None) -> Evaluation:
    """Evaluates weights on a data set; prints the numbers and writes them to a run directory, ``folder`` of the result.

    Args:
        options: what was asked for.
        dataset: what to evaluate on, instead of the data YAML's.

    Raises:
        UserError: if weights, data or both do not fit.
    """
    if dataset is not None:
        if options.data is not None or options.imgsz not in (None, dataset.image_size):
            raise UserError(
                f"val(): expected dataset= to say what is evaluated and at which size, {dataset.image_size}, "
                "found data or imgsz beside it; leave them out"
            )
        options = replace(options, imgsz=dataset.image_size)
    return validate(Candidate.open(options.weights, options), options, dataset)


def validate(candidate: Candidate, options: ValOptions, dataset: Dataset | None = None) -> Evaluation:
    """Evaluates what is open already, see :func:`run`.

    Raises:
        UserError: if the data does not fit.
    """
    if dataset is None:
        dataset = candidate.dataset(load_split(find_data(options, candidate.weights), [candidate], options))
    else:
        check_classes([candidate], dataset.annotations.names, "dataset", options)
    folder = new_run_dir(options.project, options.name, exist_ok=options.exist_ok)
    evaluation = candidate.evaluate(dataset, options)
    say(table(evaluation, images=len(dataset.annotations), every_class=options.verbose))
    write_text(folder / "metrics.json", json.dumps(metrics_dict(evaluation), indent=2))
    if options.save_json:
        write_text(folder / "predictions.json", json.dumps(evaluation.results))
    if options.save_txt:
        _save_txt(evaluation, dataset, folder / "labels", with_confidence=options.save_conf)
    plot_evaluation(evaluation, dataset, folder)
    say(f"results in {folder}")
    return replace(evaluation, folder=folder)


def _save_txt(evaluation: Evaluation, dataset: Dataset, folder: Path, *, with_confidence: bool) -> None:
    names = OutputNames()  # images of the same name in several folders get files of their own
    for index, detections in enumerate(evaluation.detections):
        height, width = dataset.annotations.sizes[index].tolist()
        text = yolo_text(detections, (height, width), with_confidence=with_confidence)
        write_text(folder / f"{names.of(dataset.annotations.paths[index])}.txt", text)
