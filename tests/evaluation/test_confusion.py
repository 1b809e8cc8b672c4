"""Confusions, and precision, recall and F1 over confidence: against pycocotools, brute force and by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.random_scene import CLASSES, scene, score
from yolorep.detections import Detections
from yolorep.evaluation.bootstrap import Pairing
from yolorep.evaluation.confusion import ConfidenceCurves, confidence_curves, confusion_matrix


def pairings(rows: list[tuple[float, int, bool]], objects: list[int]) -> list[Pairing]:
    """Of one image: (confidence, class, whether it is right) of the detections, and the objects of each class."""

    def of(class_id: int) -> Pairing:
        own = sorted((row for row in rows if row[1] == class_id), reverse=True)
        correct = np.array([right for _, _, right in own], bool)[None]
        confidence = np.array([score for score, _, _ in own], np.float64)
        image = np.zeros(len(own), np.int64)
        return Pairing(image, confidence, correct, np.zeros_like(correct), np.array([objects[class_id]]))

    return [of(class_id) for class_id in range(len(objects))]


def at(curves: ConfidenceCurves, threshold: float) -> tuple[list[float], list[float], list[float]]:
    index = int(np.flatnonzero(np.isclose(curves.thresholds, threshold))[0])
    return tuple(values[:, index].tolist() for values in (curves.precision, curves.recall, curves.f1))  # type: ignore[return-value]


def test_curves_by_hand() -> None:
    rows = [(0.9, 0, True), (0.8, 0, False), (0.7, 0, True), (0.6, 1, True), (0.5, 1, False)]
    curves = confidence_curves(pairings(rows, [4, 1]))
    assert len(curves.thresholds) == 1001
    assert at(curves, 0.0) == (
        [pytest.approx(2 / 3), 0.5],
        [0.5, 1.0],
        [pytest.approx(4 / 7), pytest.approx(2 / 3)],
    )
    assert at(curves, 0.75) == ([0.5, 1.0], [0.25, 0.0], [pytest.approx(1 / 3), 0.0])
    assert at(curves, 0.9) == ([1.0, 1.0], [0.0, 0.0], [0.0, 0.0])  # above, not at: as NMS compares


@pytest.mark.parametrize("confidence", [0.001, 0.1, 0.37, 0.7, 0.999])
def test_a_detection_at_the_threshold_is_not_above_it(confidence: float) -> None:
    """Scores are float32, thresholds decimal: 0.1 is not above 0.1, though float32(0.1) > 0.1."""
    curves = confidence_curves(pairings([(confidence, 0, True)], [1]))
    assert at(curves, confidence)[1] == [0.0]
    assert at(curves, confidence - 0.001)[1] == [1.0]


@pytest.mark.parametrize(
    ("rows", "objects", "lowest", "best", "f1"),
    [
        # Between the wrong one at 0.3 and the right one at 0.5 every threshold is as good: the middle is taken.
        ([(0.5, 0, True), (0.3, 0, False)], [1], 0.0, 0.4, 1.0),
        # The mean over classes decides, not the sum over detections: 0.6 costs class 0 nothing and class 1 all.
        ([(0.9, 0, True)] + [(0.6, 0, False)] * 3 + [(0.6, 1, True)], [1, 1], 0.0, 0.3, (0.4 + 1) / 2),
        # A class without objects counts neither with its false alarms nor with its missing ones.
        ([(0.9, 0, True), (0.95, 1, False)], [1, 0], 0.0, 0.45, 1.0),
        # Below what the evaluation looked at nothing is known.
        ([(0.9, 0, True), (0.8, 0, True)], [2], 0.6, 0.7, 1.0),
        ([(0.9, 0, False)], [1], 0.0, None, 0.0),
        ([], [3], 0.0, None, 0.0),
        ([(0.9, 0, False)], [0], 0.0, None, 0.0),
        ([], [], 0.0, None, 0.0),
    ],
)
def test_best_confidence(
    rows: list[tuple[float, int, bool]], objects: list[int], lowest: float, best: float | None, f1: float
) -> None:
    curves = confidence_curves(pairings(rows, objects), lowest=lowest)
    assert curves.best_confidence == (best if best is None else pytest.approx(best, abs=0.0011))
    assert curves.best_f1 == pytest.approx(f1)


def test_classes_without_objects_have_no_curves() -> None:
    curves = confidence_curves(pairings([(0.9, 0, True), (0.9, 1, False)], [1, 0]))
    for values in (curves.precision, curves.recall, curves.f1):
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()


@pytest.mark.parametrize("lowest", [0.0, 0.001, 0.29, 0.5, 0.9999, 1.0])
def test_thresholds_begin_where_the_evaluation_looked(lowest: float) -> None:
    thresholds = confidence_curves(pairings([], [1]), lowest=lowest).thresholds
    assert thresholds[0] == pytest.approx(lowest, abs=0.001)
    assert thresholds[0] >= lowest
    assert thresholds[-1] == 1.0


Scene = list[tuple[list[dict[str, Any]], Detections]]


def distinct_scene(seed: int) -> Scene:
    """A scene in which no two confidences are the same, and a threshold lies between any two."""
    images = scene(seed, images=12)
    count = sum(len(found) for _, found in images)
    scores = np.random.default_rng(seed).permutation(999)[:count] / 1000 + 0.0005
    parts = np.split(scores.astype(np.float32), np.cumsum([len(found) for _, found in images])[:-1])
    return [
        (annotations, replace(found, confidence=own)) for (annotations, found), own in zip(images, parts, strict=True)
    ]


def count(images: Scene, class_id: int, threshold: float) -> tuple[int, int, int]:
    """Right detections, all that count, and objects of a class, by the definition of COCO's pairing."""
    right = counted = there = 0
    for labels, detections in images:
        own = [entry for entry in labels if entry["category"] == class_id]
        solid, crowds = ([np.array(entry["bbox"]) for entry in own if entry["iscrowd"] == kind] for kind in (0, 1))
        there += len(solid)
        for one in sorted(detections, key=lambda one: -one.confidence):
            if one.class_id != class_id or one.confidence <= threshold:
                continue
            box = np.array([*one.xyxy[:2], one.xyxy[2] - one.xyxy[0], one.xyxy[3] - one.xyxy[1]])
            overlaps = [overlap(box, other) for other in solid]
            if overlaps and max(overlaps) >= 0.5:
                solid.pop(int(np.argmax(overlaps)))
                right += 1
                counted += 1
            elif not any(overlap(box, crowd, of_first=True) >= 0.5 for crowd in crowds):
                counted += 1
    return right, counted, there


def overlap(first: np.ndarray, second: np.ndarray, *, of_first: bool = False) -> float:
    """Intersection of left, top, width, height over the union, or over the first."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    inside = float(np.prod(np.maximum(high - low, 0)))
    areas = [float(np.prod(box[2:])) for box in (first, second)]
    return inside / (areas[0] if of_first else sum(areas) - inside)


@pytest.mark.parametrize("seed", range(12))
def test_curves_are_what_counting_gives(seed: int) -> None:
    images = distinct_scene(seed)
    curves = confidence_curves(score(images).pairings)
    mean = []
    for threshold in (0.0, 0.1, 0.25, 0.5, 0.75, 0.95):
        f1s = []
        for class_id in range(CLASSES):
            right, counted, there = count(images, class_id, threshold)
            precision, recall, f1 = (values[class_id] for values in at(curves, threshold))
            if not there:
                assert np.isnan([precision, recall, f1]).all()
                continue
            assert precision == pytest.approx(right / counted if counted else 1.0)
            assert recall == pytest.approx(right / there)
            both = precision + recall
            assert f1 == pytest.approx(2 * precision * recall / both if both else 0.0)
            f1s.append(f1)
        mean.append(np.mean(f1s))
    assert 1 > curves.best_f1 >= max(mean) - 1e-12 > 0.3


@pytest.mark.parametrize("seed", range(12))
def test_curves_hold_pycocotools_precision(seed: int) -> None:
    """Its precision at a recall is the highest of any threshold that reaches the recall."""
    result = score(distinct_scene(seed))
    curves = confidence_curves(result.pairings)
    for class_id, pairing in enumerate(result.pairings):
        expected = result.precision[0, :, class_id, 0, 2]
        if not pairing.objects.any():
            assert (expected == -1).all()
            continue
        for recall, precision in zip(np.linspace(0, 1, 101), expected, strict=True):
            reached = (curves.recall[class_id] >= recall) & (curves.recall[class_id] > 0)
            assert precision == pytest.approx(curves.precision[class_id][reached].max(initial=0.0))


def boxes(*x: float) -> np.ndarray:
    """Squares of 100 pixels, shifted to the right."""
    return np.array([[left, 0, left + 100, 100] for left in x], np.float32).reshape(-1, 4)


def found(x: list[float], classes: list[int]) -> Detections:
    return Detections(boxes(*x), np.full(len(x), 0.9, np.float32), np.array(classes, np.int64))


@pytest.mark.parametrize(
    ("detections", "objects", "expected"),
    [
        (found([], []), ([], []), {}),
        (found([0], [1]), ([0], [1]), {(1, 1): 1}),
        (found([0], [0]), ([0], [1]), {(1, 0): 1}),  # confused
        (found([], []), ([0, 500], [1, 1]), {(1, 2): 2}),  # missed
        (found([0, 500], [0, 1]), ([], []), {(2, 0): 1, (2, 1): 1}),  # background
        (found([60], [1]), ([0], [1]), {(1, 2): 1, (2, 1): 1}),  # IoU 0.25
        (found([0, 5], [1, 1]), ([0], [1]), {(1, 1): 1, (2, 1): 1}),  # one to one
        (found([10, 0], [0, 1]), ([0], [1]), {(1, 1): 1, (2, 0): 1}),  # the higher IoU, whatever the class
        # Both detections overlap the first object most; the one that loses it gets the second object.
        (found([0, 10], [0, 1]), ([0, 30], [0, 1]), {(0, 0): 1, (1, 1): 1}),
        (found([0, 0], [0, 1]), ([0, 0], [0, 0]), {(0, 0): 1, (0, 1): 1}),  # ties
    ],
)
def test_confusion_matrix(
    detections: Detections, objects: tuple[list[float], list[int]], expected: dict[tuple[int, int], int]
) -> None:
    matrix = confusion_matrix(detections, boxes(*objects[0]), np.array(objects[1], np.int64), num_classes=2)
    assert {(int(i), int(j)): int(matrix[i, j]) for i, j in np.argwhere(matrix)} == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 2**31))
def test_confusion_matrix_is_the_greedy_one(objects: int, detected: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = boxes(*rng.integers(0, 200, objects)), boxes(*rng.integers(0, 200, detected))
    truth_class, guess_class = rng.integers(0, 3, objects), rng.integers(0, 3, detected)
    detections = Detections(guess, np.full(detected, 0.5, np.float32), guess_class)
    matrix = confusion_matrix(detections, truth, truth_class, num_classes=3)

    overlap = np.maximum(100 - np.abs(truth[:, None, 0] - guess[None, :, 0]), 0)
    iou = overlap / (200 - overlap)
    expected = np.zeros((4, 4), np.int64)
    free_truth, free_guess = set(range(objects)), set(range(detected))
    for i, j in sorted(np.ndindex(objects, detected), key=lambda pair: (-iou[pair], pair)):
        if iou[i, j] > 0.45 and i in free_truth and j in free_guess:
            free_truth.remove(i)
            free_guess.remove(j)
            expected[truth_class[i], guess_class[j]] += 1
    for i in free_truth:
        expected[truth_class[i], 3] += 1
    for j in free_guess:
        expected[3, guess_class[j]] += 1
    # Ties may be broken in another order: then classes can change places, the number of pairs cannot.
    assert matrix.sum() == expected.sum() and matrix[3].sum() == expected[3].sum()
    if len(np.unique(iou)) == iou.size:
        np.testing.assert_array_equal(matrix, expected)
