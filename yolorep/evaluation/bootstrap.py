"""AP in images drawn at random, without evaluating anything twice: what tells a difference from noise.

A draw takes as many images as there are, with replacement. pycocotools pairs detections with objects image by image, so
a draw changes no pair, only how often each image counts. Its AP is therefore that of the pairs of one evaluation, with
counts in which every image weighs as often as it was drawn: the number pycocotools finds in a data set that holds
copies of these images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yolorep.console import progress

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

#: Where pycocotools samples the precision.
RECALLS = np.linspace(0, 1, 101)
#: Draws computed together: more take more memory and no less time.
CHUNK = 25


@dataclass(frozen=True)
class Pairing:
    """What pycocotools paired the detections of one class with: objects of all sizes, at most 100 boxes an image.

    Attributes:
        image: (n,) index of each detection's image; the detections by falling confidence.
        confidence: (n,) theirs.
        correct: (IoU thresholds, n) whether it found an object.
        ignored: (IoU thresholds, n) whether it counts neither way: those of crowds.
        objects: (images,) objects there are to find.
    """

    image: NDArray[np.int64]
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]


def pairings(evaluation: COCOeval, order: Sequence[int] | NDArray[np.int64]) -> tuple[Pairing, ...]:
    """Takes the pairs of every class out of pycocotools.

    Args:
        evaluation: after its ``evaluate``.
        order: position of each class among pycocotools' categories.
    """
    params = evaluation.params
    # One entry a category, size and image, None where there is nothing. The first size is "all".
    shape = (len(order), len(params.areaRng), len(params.imgIds))
    entries = np.array(evaluation.evalImgs, object).reshape(shape)[:, 0]
    return tuple(_pairing(entries[position], thresholds=len(params.iouThrs)) for position in order)


def _pairing(entries: NDArray[Any], *, thresholds: int) -> Pairing:
    there = [(index, entry) for index, entry in enumerate(entries) if entry is not None]
    objects = np.zeros(len(entries), np.int64)
    image, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    matched, ignored = [np.zeros((thresholds, 0))], [np.zeros((thresholds, 0), bool)]
    for index, entry in there:
        objects[index] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        image.append(np.full(len(entry["dtScores"]), index))
        scores.append(np.asarray(entry["dtScores"], np.float64))
        matched.append(entry["dtMatches"])
        ignored.append(np.asarray(entry["dtIgnore"], bool))
    confidence = np.concatenate(scores)
    falling = np.argsort(-confidence, kind="stable")  # as pycocotools sorts
    out = np.concatenate(ignored, axis=1)[:, falling]
    correct = (np.concatenate(matched, axis=1)[:, falling] > 0) & ~out
    return Pairing(np.concatenate(image)[falling], confidence[falling], correct, out, objects)


def average_precision(pairing: Pairing, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP of one class when images count several times, as pycocotools computes it.

    Args:
        pairing: the class's detections.
        weights: (draws, images) how often each image counts.

    Returns:
        (draws, IoU thresholds), NaN where there is no object.
    """
    objects = weights @ pairing.objects
    drawn = weights[:, pairing.image]
    seen = np.cumsum(drawn, axis=1)  # detections down to each
    found = np.zeros((len(weights), len(pairing.correct)))
    for threshold, (correct, ignored) in enumerate(zip(pairing.correct, pairing.ignored, strict=True)):
        # Between two correct detections the recall stays and the precision falls: the others matter by their number.
        (hits,), (skipped,) = correct.nonzero(), ignored.nonzero()
        skips = np.pad(np.cumsum(drawn[:, skipped], axis=1), ((0, 0), (1, 0)))
        right = np.cumsum(drawn[:, hits], axis=1)
        precision = right / (seen[:, hits] - skips[:, np.searchsorted(skipped, hits)] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # Each correct detection answers for the recalls that it is the first to reach.
        reached = np.searchsorted(RECALLS, right / np.maximum(objects, 1)[:, None], side="right")
        found[:, threshold] = (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    found[objects == 0] = np.nan
    return found


def bootstrap(models: Sequence[Sequence[Pairing]], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """AP of several models in the same random draws of the images.

    Args:
        models: the pairings of each model's classes, all on the same images.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        (models, classes, draws, IoU thresholds), NaN where a draw has no object of the class.
    """
    images = len(models[0][0].objects)
    generator = np.random.default_rng(seed)
    parts = []
    for start in progress(range(0, resamples, CHUNK), desc="bootstrap", unit=f"x {CHUNK} draws"):
        count = min(CHUNK, resamples - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=count)
        parts.append([[average_precision(pairing, weights) for pairing in classes] for classes in models])
    return np.concatenate(parts, axis=2)
