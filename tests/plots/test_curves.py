from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolorep.errors import UserError
from yolorep.plots.curves import (
    plot_confidence_curves,
    plot_confusion_matrix,
    plot_labels,
    plot_pr_curve,
    plot_results,
)

#: Of a run without validation losses.
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


def colours(path: Path) -> set[tuple[int, ...]]:
    image = cv2.imread(str(path))
    assert image is not None
    return {tuple(pixel[::-1].tolist()) for pixel in np.unique(image.reshape(-1, 3), axis=0)}


ORANGE = (0xD5, 0x5E, 0x00)  # of the second line in a diagram


@pytest.mark.parametrize(
    ("val", "second_line"), [("", False), (",val/box", True), (",val/other", False)], ids=["old file", "val", "unknown"]
)
def test_validation_losses_join_the_training_losses(tmp_path: Path, val: str, second_line: bool) -> None:
    rows = "1,.3,.01,.4\n2,.2,.01,.3\n3,.1,.01,\n" if val else "1,.3,.01\n2,.2,.01\n3,.1,.01\n"
    (tmp_path / "results.csv").write_text(f"epoch,train/box,lr/all{val}\n{rows}")
    plot_results(tmp_path / "results.csv", tmp_path / "results.png")
    assert (ORANGE in colours(tmp_path / "results.png")) == second_line


def texts(path: Path) -> list[str]:
    """What is written in an SVG picture: matplotlib says it in comments beside the outlines of the letters."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_epochs_are_whole_numbers(tmp_path: Path, epochs: int) -> None:
    rows = "".join(f"{epoch},.3,.2,.01\n" for epoch in range(1, epochs + 1))
    (tmp_path / "results.csv").write_text(f"epoch,train/box,AP,lr/all\n{rows}")
    plot_results(tmp_path / "results.csv", tmp_path / "results.svg")
    written = texts(tmp_path / "results.svg")
    assert {"box loss", "epoch", "1"} <= set(written)
    assert not [text for text in written if re.fullmatch(r"[1-9]\.\d*[1-9]", text)]


def test_the_best_confidence_is_marked(tmp_path: Path) -> None:
    thresholds = np.arange(1001) / 1000
    curves = {"Recall": np.stack([1 - thresholds, np.full(1001, np.nan), np.full(1001, 0.5)])}
    curves["F1"] = curves["Recall"] / 2
    plot_confidence_curves(thresholds, curves, ["a", "b", "c"], tmp_path / "curves.svg", best=0.5)
    written = texts(tmp_path / "curves.svg")
    expected = {"Recall (0.500 at 0.5)", "F1 (0.250 at 0.5)", "best confidence 0.5", "mean of classes", "a", "c"}
    assert expected <= set(written)
    assert "b" not in written


@pytest.mark.parametrize(("normalized", "expected"), [(False, ["30", "10", "4"]), (True, ["0.75", "0.25", "1.00"])])
def test_cells_of_the_confusion_matrix(tmp_path: Path, normalized: bool, expected: list[str]) -> None:
    """Of 40 objects of the class 10 are missed; 4 detections are of nothing."""
    matrix = np.array([[30, 10], [4, 0]])
    plot_confusion_matrix(matrix, ["a"], tmp_path / "confusion.svg", normalized=normalized)
    written = texts(tmp_path / "confusion.svg")
    cells = written[
        written.index("Confusions, as shares of each true class" if normalized else "Confusions, as counts") - 3 :
    ]
    assert cells[:3] == [expected[0], expected[2], expected[1]]  # row by row


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


@pytest.mark.parametrize("best", [0.37, None])
@pytest.mark.parametrize(("classes", "absent"), [(1, []), (3, [1]), (40, [5, 30]), (2, [0, 1])])
def test_plot_confidence_curves(tmp_path: Path, classes: int, absent: list[int], best: float | None) -> None:
    thresholds = np.arange(1001) / 1000
    curve = np.tile(1 - thresholds, (classes, 1))
    curve[absent] = np.nan
    names = [f"class {i}" for i in range(classes)]
    best = None if len(absent) == classes else best
    plot_confidence_curves(thresholds, {"Recall": curve, "F1": curve}, names, tmp_path / "curves.png", best=best)
    assert is_picture(tmp_path / "curves.png")


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("classes", [1, 3, 30])
def test_plot_confusion_matrix(tmp_path: Path, classes: int, normalized: bool) -> None:
    matrix = np.eye(classes + 1, dtype=np.int64) * 7
    matrix[-1] = 0  # a row that is empty
    names = [f"class {i}" for i in range(classes)]
    plot_confusion_matrix(matrix, names, tmp_path / "confusion.png", normalized=normalized)
    assert is_picture(tmp_path / "confusion.png")


@pytest.mark.parametrize("normalized", [True, False])
def test_true_classes_are_columns(tmp_path: Path, normalized: bool) -> None:
    """All objects of the first class were missed: the cell below is dark, the one beside it is not."""
    plot_confusion_matrix(np.array([[0, 50], [1, 0]]), ["a"], tmp_path / "confusion.png", normalized=normalized)
    image = cv2.imread(str(tmp_path / "confusion.png"))
    assert image is not None
    height, width = image.shape[:2]
    rows, columns = np.nonzero((np.abs(image.astype(int) - [0x6B, 0x30, 0x08]).max(axis=2) < 3)[:, : width * 3 // 4])
    # The darkest blue, colour bar aside. Shares: the false alarm is all of its column, so both are dark.
    assert np.median(columns[rows > height / 2]) < width / 2
    assert bool((rows < height * 0.4).any()) == normalized


@pytest.mark.parametrize("name", ["5$ or 6_$", "$^$", "a\\b{", "_"])
def test_names_are_no_formulas(tmp_path: Path, name: str) -> None:
    plot_confusion_matrix(np.eye(3, dtype=np.int64), [name, "b"], tmp_path / "confusion.png")
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
