from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolorep.detections import Detections
from yolorep.errors import UserError
from yolorep.evaluation.confusion import confusion_matrix
from yolorep.plots.curves import (
    plot_confusion_matrix,
    plot_labels,
    plot_pr_curve,
    plot_results,
)

HEADER = "epoch,train/box,train/obj,train/cls,AP,AP50,AP75,APs,APm,APl,lr/bias,lr/weight,lr/norm,seconds\n"


def is_picture(path: Path) -> bool:
    """A picture that is not of one colour; also: nothing else is in the folder."""
    image = cv2.imread(str(path))
    others = [other for other in path.parent.iterdir() if other.suffix != ".csv" and other != path]
    return image is not None and min(image.shape[:2]) >= 300 and image.std() > 5 and not others


@pytest.mark.parametrize(
    "rows",
    [
        ["1,.1,.2,.3,.1,.2,.1,-1,.1,.2,.07,.01,.01,9"],
        [
            "1,.1,.2,.3,,,,,,,.07,.01,.01,9",
            "2,.1,.1,.2,.3,.4,.3,-1,-1,-1,.01,.01,.01,9",
            "3,.1,.1,.1,,,,,,,.01,.01,.01,9",
        ],
        ["1,.1,.2,.3,,,,,,,.07,.01,.01,9", "2,.1,.2,.3,,,,,,,.07,.01,.01,9"],  # --noval
    ],
)
def test_plot_results(tmp_path: Path, rows: list[str]) -> None:
    (tmp_path / "results.csv").write_text(HEADER + "\n".join(rows) + "\n")
    plot_results(tmp_path / "results.csv", tmp_path / "results.png")
    assert is_picture(tmp_path / "results.png")


def test_plot_results_without_rows(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(HEADER)
    with pytest.raises(UserError, match=r"results\.csv: expected one row an epoch"):
        plot_results(tmp_path / "results.csv", tmp_path / "results.png")


@pytest.mark.parametrize(("classes", "absent"), [(1, []), (3, [1]), (40, [5, 30]), (2, [0, 1])])
def test_plot_pr_curve(tmp_path: Path, classes: int, absent: list[int]) -> None:
    precision = np.tile(np.linspace(1, 0, 101)[None, :, None, None, None], (10, 1, classes, 4, 3))
    precision[:, :, absent] = -1
    plot_pr_curve(precision, [f"class {i}" for i in range(classes)], tmp_path / "pr.png")
    assert is_picture(tmp_path / "pr.png")


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_plot_confusion_matrix(tmp_path: Path, classes: int) -> None:
    matrix = np.eye(classes + 1, dtype=np.int64) * 7
    matrix[-1] = 0  # a row that is empty
    plot_confusion_matrix(matrix, [f"class {i}" for i in range(classes)], tmp_path / "confusion.png")
    assert is_picture(tmp_path / "confusion.png")


@pytest.mark.parametrize(("classes", "count"), [(3, 200), (30, 500), (2, 0)])
def test_plot_labels(tmp_path: Path, classes: int, count: int) -> None:
    rng = np.random.default_rng(0)
    class_ids = np.minimum(rng.geometric(0.5, count), classes) - 1
    boxes = rng.uniform(0, 1, (count, 4)).astype(np.float32)
    plot_labels(class_ids, boxes, [f"class {i}" for i in range(classes)], tmp_path / "labels.png")
    assert is_picture(tmp_path / "labels.png")


def test_settings_of_the_user_stay(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plot_confusion_matrix(np.eye(3, dtype=np.int64), ["a", "b"], tmp_path / "confusion.png")
    assert dict(mpl.rcParams) == before


def boxes(*x: float) -> np.ndarray:
    """Squares of 100 pixels, shifted to the right."""
    return np.array([[left, 0, left + 100, 100] for left in x], np.float32).reshape(-1, 4)


def found(x: list[float], classes: list[int], confidence: list[float] | None = None) -> Detections:
    scores = np.array(confidence or [0.9] * len(x), np.float32)
    return Detections(boxes(*x), scores, np.array(classes, np.int64))


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
        (found([0], [1], [0.25]), ([0], [1]), {(1, 2): 1}),  # not certain enough
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
