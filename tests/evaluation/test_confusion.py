"""Confusions, and precision, recall and F1 over confidence: against pycocotools, brute force and by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolorep.detections import Detections
from yolorep.evaluation.confusion import ConfidenceCurves, confidence_curves, confusion_matrix
from yolorep.evaluation.metrics import CocoMetric, CocoResult, Matches


def matches(rows: list[tuple[float, int, bool]], objects: list[int]) -> Matches:
    confidence, class_id, correct = zip(*rows, strict=True) if rows else ((), (), ())
    return Matches(
        np.array(confidence, np.float32), np.array(class_id, np.int64), np.array(correct, bool), np.array(objects)
    )


def at(curves: ConfidenceCurves, threshold: float) -> tuple[list[float], list[float], list[float]]:
    index = int(np.flatnonzero(np.isclose(curves.thresholds, threshold))[0])
    return tuple(values[:, index].tolist() for values in (curves.precision, curves.recall, curves.f1))  # type: ignore[return-value]


def test_curves_by_hand() -> None:
    rows = [(0.9, 0, True), (0.8, 0, False), (0.7, 0, True), (0.6, 1, True), (0.5, 1, False)]
    curves = confidence_curves(matches(rows, [4, 1]))
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
    curves = confidence_curves(matches([(confidence, 0, True)], [1]))
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
    curves = confidence_curves(matches(rows, objects), lowest=lowest)
    assert curves.best_confidence == (best if best is None else pytest.approx(best, abs=0.0011))
    assert curves.best_f1 == pytest.approx(f1)


def test_classes_without_objects_have_no_curves() -> None:
    curves = confidence_curves(matches([(0.9, 0, True), (0.9, 1, False)], [1, 0]))
    for values in (curves.precision, curves.recall, curves.f1):
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()


@pytest.mark.parametrize("lowest", [0.0, 0.001, 0.29, 0.5, 0.9999, 1.0])
def test_thresholds_begin_where_the_evaluation_looked(lowest: float) -> None:
    thresholds = confidence_curves(matches([], [1]), lowest=lowest).thresholds
    assert thresholds[0] == pytest.approx(lowest, abs=0.001)
    assert thresholds[0] >= lowest
    assert thresholds[-1] == 1.0


@dataclass
class Scene:
    """Random images of overlapping squares: objects, some of them crowds, and detections near them or not."""

    objects: list[list[tuple[np.ndarray, int, bool]]]  # of each image: xyxy, class, crowd
    detections: list[Detections]

    @classmethod
    def draw(cls, seed: int, *, classes: int = 3, images: int = 4) -> Scene:
        rng = np.random.default_rng(seed)

        def box() -> np.ndarray:
            corner = rng.integers(0, 60, 2)
            return np.concatenate([corner, corner + rng.integers(20, 50, 2)]).astype(np.float64)

        objects = [
            [(box(), int(rng.integers(classes)), bool(rng.random() < 0.2)) for _ in range(rng.integers(0, 7))]
            for _ in range(images)
        ]
        count = 12
        scores = rng.permutation(999)[: images * count].reshape(images, count) / 1000 + 0.0005  # all different
        detections = []
        for own, confidence in zip(objects, scores, strict=True):
            near = [thing for thing, _, _ in own] or [box()]
            found = [
                near[rng.integers(len(near))] + rng.integers(-6, 7, 4) if rng.random() < 0.7 else box()
                for _ in range(count)
            ]
            class_id = rng.integers(0, classes, count)
            detections.append(Detections(np.array(found, np.float32), confidence.astype(np.float32), class_id))
        return cls(objects, detections)

    def score(self, *, category_ids: tuple[int, ...] = (5, 1, 9)) -> CocoResult:
        annotations = [
            {
                "image_id": image,
                "category_id": category_ids[class_id],
                "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                "area": float(np.prod(box[2:] - box[:2])),
                "iscrowd": int(crowd),
            }
            for image, own in enumerate(self.objects)
            for box, class_id, crowd in own
        ]
        truth = {
            "images": [{"id": image, "height": 120, "width": 120} for image in range(len(self.objects))],
            "categories": [{"id": category, "name": str(category)} for category in category_ids],
            "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
        }
        metric = CocoMetric(truth, names=[str(category) for category in category_ids], category_ids=category_ids)
        for image, detections in enumerate(self.detections):
            metric.update(image, detections)
        return metric.compute()

    def count(self, class_id: int, threshold: float) -> tuple[int, int, int]:
        """Right detections, all that count, and objects of a class, by the definition of COCO's pairing."""
        right = counted = there = 0
        for own, detections in zip(self.objects, self.detections, strict=True):
            solid = [box for box, label, crowd in own if label == class_id and not crowd]
            crowds = [box for box, label, crowd in own if label == class_id and crowd]
            there += len(solid)
            for detected in sorted(detections, key=lambda one: -one.confidence):
                if detected.class_id != class_id or detected.confidence <= threshold:
                    continue
                box = np.array(detected.xyxy)
                overlaps = [_overlap(box, thing) for thing in solid]
                if overlaps and max(overlaps) >= 0.5:
                    solid.pop(int(np.argmax(overlaps)))
                    right += 1
                    counted += 1
                elif not any(_overlap(box, crowd, of_first=True) >= 0.5 for crowd in crowds):
                    counted += 1
        return right, counted, there


def _overlap(first: np.ndarray, second: np.ndarray, *, of_first: bool = False) -> float:
    """Intersection over union, or over the first box."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    inside = float(np.prod(np.maximum(high - low, 0)))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (first, second)]
    return inside / (areas[0] if of_first else sum(areas) - inside)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_curves_are_what_counting_gives(seed: int) -> None:
    scene = Scene.draw(seed)
    curves = confidence_curves(scene.score().matches)
    mean = []
    for threshold in (0.0, 0.1, 0.25, 0.5, 0.75, 0.95):
        f1s = []
        for class_id in range(3):
            right, counted, there = scene.count(class_id, threshold)
            precision, recall, f1 = (values[class_id] for values in at(curves, threshold))
            if not there:
                assert np.isnan([precision, recall, f1]).all()
                continue
            assert precision == pytest.approx(right / counted if counted else 1.0)
            assert recall == pytest.approx(right / there)
            both = precision + recall
            assert f1 == pytest.approx(2 * precision * recall / both if both else 0.0)
            f1s.append(f1)
        mean.append(np.mean(f1s) if f1s else 0.0)
    assert curves.best_f1 >= max(mean) - 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_curves_hold_pycocotools_precision(seed: int) -> None:
    """Its precision at a recall is the highest of any threshold that reaches the recall."""
    result = Scene.draw(seed).score()
    curves = confidence_curves(result.matches)
    for class_id, objects in enumerate(result.matches.objects):
        expected = result.precision[0, :, class_id, 0, 2]
        if not objects:
            assert (expected == -1).all()
            continue
        for recall, precision in zip(np.linspace(0, 1, 101), expected, strict=True):
            reached = (curves.recall[class_id] >= recall - 1e-12) & (curves.recall[class_id] > 0)
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
