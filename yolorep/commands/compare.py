"""The ``compare`` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from string import ascii_lowercase
from typing import Any

from yolorep.commands.candidate import Candidate, find_data, load_split
from yolorep.console import say
from yolorep.errors import UserError
from yolorep.evaluation.comparison import comparison_table, contrast_dict, contrasts
from yolorep.evaluation.report import metrics_dict
from yolorep.files import new_run_dir, write_text
from yolorep.models.image_size import size_text
from yolorep.options import CompareOptions


def run(options: CompareOptions) -> dict[str, Any]:
    """Evaluates several weights on the same images, and tells which differences are more than noise.

    Prints tables, or JSON, and writes the latter to ``comparison.json`` in a run directory.

    Returns:
        What the file holds.

    Raises:
        UserError: if weights, data or both do not fit.
    """
    found = len(options.weights)
    if not 2 <= found <= len(ascii_lowercase):
        raise UserError(f"expected 2 to {len(ascii_lowercase)} weights to compare, found {found}")
    # With --json only JSON goes to stdout: what is said besides goes to stderr.
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        comparison = compare([Candidate.open(weights, options) for weights in options.weights], options)
    if options.json:
        print(json.dumps(comparison))
    return comparison


def compare(candidates: Sequence[Candidate], options: CompareOptions) -> dict[str, Any]:
    """Compares what is open already, see :func:`run`.

    Raises:
        UserError: if the classes are not the same, or the data set does not fit.
    """
    data = find_data(options, *(candidate.weights for candidate in candidates))
    annotations = load_split(data, candidates, options)
    folder = new_run_dir(options.project, options.name, exist_ok=options.exist_ok)
    evaluations = [candidate.evaluate(candidate.dataset(annotations), options) for candidate in candidates]
    differences = contrasts(evaluations, resamples=options.resamples, seed=options.seed)
    for label, candidate, evaluation in zip(ascii_lowercase, candidates, evaluations, strict=False):
        speed = ", ".join(f"{name} {value:.1f} ms" for name, value in evaluation.speed.items())
        say(f"{label}: {candidate.weights} at {size_text(candidate.image_size)} px; per image {speed}")
    say(f"{len(annotations)} images; intervals and shares from {options.resamples} draws of them")
    for label, evaluation, contrast in zip(ascii_lowercase[1:], evaluations[1:], differences, strict=False):
        say("\n" + comparison_table(evaluations[0], evaluation, contrast, labels=("a", label)))
    comparison = {
        "data": data,
        "split": options.task,
        "images": len(annotations),
        "resamples": options.resamples,
        "seed": options.seed,
        "models": [
            {"weights": candidate.weights, "image_size": candidate.image_size, **metrics_dict(evaluation)}
            for candidate, evaluation in zip(candidates, evaluations, strict=True)
        ],
        "differences": [
            {"weights": candidate.weights, **contrast_dict(contrast, annotations.names)}
            for candidate, contrast in zip(candidates[1:], differences, strict=True)
        ],
    }
    write_text(folder / "comparison.json", json.dumps(comparison, indent=2))
    say(f"results in {folder}")
    return comparison
