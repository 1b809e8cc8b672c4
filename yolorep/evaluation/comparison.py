"""A model beside a baseline: the differences, how sure they are, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolorep.evaluation.bootstrap import bootstrap
from yolorep.evaluation.evaluator import Evaluation
from yolorep.evaluation.metrics import METRICS

#: Share of the draws that an interval spans.
LEVEL = 0.95
#: Which IoU thresholds the numbers average that draws are made of.
DRAWN = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}


@dataclass(frozen=True)
class Difference:
    """A number of a model less that of the baseline.

    Attributes:
        value: on the images as they are; None where one of the two is undefined.
        interval: what 95 % of the draws of the images lie in; None for numbers that are not drawn.
        share: of the draws in which it is above 0, where it is 0 counted half; None likewise.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    share: float | None = None


@dataclass(frozen=True)
class Contrast:
    """A model less the baseline.

    Attributes:
        metrics: each of the twelve numbers.
        per_class: AP of each class, in the order of the names.
    """

    metrics: dict[str, Difference]
    per_class: tuple[Difference, ...]


def contrasts(evaluations: Sequence[Evaluation], *, resamples: int, seed: int) -> list[Contrast]:
    """Every model but the first less the first, all evaluated on the same images.

    The intervals are percentiles of a paired bootstrap: every draw of images is the same for all models.

    Args:
        evaluations: the baseline's, then the others'.
        resamples: draws of the images.
        seed: of the draws.
    """
    baseline, *others = evaluations
    base, *drawn = bootstrap([evaluation.coco.pairings for evaluation in evaluations], resamples=resamples, seed=seed)
    return [_contrast(baseline, other, draws - base) for other, draws in zip(others, drawn, strict=True)]


def _contrast(baseline: Evaluation, other: Evaluation, draws: NDArray[np.float64]) -> Contrast:
    """One model less the baseline; ``draws`` are (classes, draws, IoU thresholds) differences of AP."""
    metrics = {
        name: _difference(
            baseline.metrics[name],
            other.metrics[name],
            _mean(draws[..., DRAWN[name]].swapaxes(0, 1).reshape(draws.shape[1], -1)) if name in DRAWN else None,
        )
        for name in METRICS
    }
    per_class = tuple(
        _difference(first.AP, second.AP, _mean(of_class))
        for first, second, of_class in zip(baseline.coco.per_class, other.coco.per_class, draws, strict=True)
    )
    return Contrast(metrics, per_class)


def _difference(first: float, second: float, draws: NDArray[np.float64] | None) -> Difference:
    if first < 0 or second < 0:  # pycocotools' -1: there are no such objects
        return Difference(None)
    if draws is None:
        return Difference(second - first)
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Difference(second - first, (low, high), float((draws > 0).mean() + (draws == 0).mean() / 2))


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of the rows over what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)


def comparison_table(baseline: Evaluation, other: Evaluation, contrast: Contrast, labels: tuple[str, str]) -> str:
    """The twelve numbers and the AP of every class that has objects, side by side, for people."""
    first, second = labels
    lines = [_row("", "objects", first, second, f"{second} - {first}", f"{LEVEL:.0%} interval", f"{second} > {first}")]
    for name in METRICS:
        lines.append(_line(name, "", (baseline.metrics[name], other.metrics[name]), contrast.metrics[name]))
    lines.append("AP of each class")
    for one, two, difference in zip(baseline.coco.per_class, other.coco.per_class, contrast.per_class, strict=True):
        if one.objects:
            lines.append(_line(one.name, str(one.objects), (one.AP, two.AP), difference))
    return "\n".join([*lines, _verdict(contrast.metrics["AP"], first, second)])


def _line(name: str, objects: str, numbers: tuple[float, float], difference: Difference) -> str:
    first, second = ("-" if number < 0 else f"{number:.4f}" for number in numbers)
    value = "-" if difference.value is None else f"{difference.value:+.4f}"
    interval = "" if difference.interval is None else "{:+.4f} to {:+.4f}".format(*difference.interval)
    share = "" if difference.share is None else f"{difference.share:.1%}"
    return _row(name, objects, first, second, value, interval, share)


def _row(name: str, objects: str, first: str, second: str, value: str, interval: str, share: str) -> str:
    return f"{name:24}{objects:>8}{first:>9}{second:>9}{value:>10}{interval:>21}{share:>9}".rstrip()


def _verdict(difference: Difference, first: str, second: str) -> str:
    if difference.value is None or difference.interval is None:
        return "AP: there are no objects"
    low, high = difference.interval
    if low <= 0 <= high:
        return f"AP: these images do not tell {second} from {first}: the interval of their difference holds 0"
    better = second if low > 0 else first
    return f"AP: {better} is better by {abs(difference.value):.4f}, more than the choice of images explains"


def contrast_dict(contrast: Contrast, names: Sequence[str]) -> dict[str, Any]:
    """The differences as plain values, for ``comparison.json``."""
    return {
        "metrics": {name: asdict(difference) for name, difference in contrast.metrics.items()},
        "per_class": [
            {"name": name, **asdict(difference)} for name, difference in zip(names, contrast.per_class, strict=True)
        ],
    }
