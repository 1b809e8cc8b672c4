"""The pictures of an evaluation: which there are, and that no image of the data set keeps them from being drawn."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.inference.white_box import WhiteBoxBackend
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.drawing import class_colour
from yolorep.evaluation.evaluator import evaluate
from yolorep.evaluation.pictures import plot_evaluation

CURVES = {"pr_curve.png", "confidence_curves.png", "confusion_matrix.png", "confusion_matrix_normalized.png"}


def dataset(
    folder: Path, shapes: list[tuple[int, int]], *, labelled: int | None = None, image_size: int = 64
) -> DetectionDataset:
    """Images with a white square in the middle; the first ones are labelled."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, (height, width) in enumerate(shapes):
        image = np.full((height, width, 3), 20, np.uint8)
        image[height // 4 : height - height // 4, width // 4 : width - width // 4] = 255
        cv2.imwrite(str(folder / "images" / f"{number:02}.png"), image)
        row = "1 0.5 0.5 0.5 0.5\n" if labelled is None or number < labelled else ""
        (folder / "labels" / f"{number:02}.txt").write_text(row)
    (folder / "data.yaml").write_text("{train: images, val: images, names: [rectangle, square]}")
    return DetectionDataset(load_annotations(load_data_config(folder / "data.yaml"), "val"), image_size=image_size)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))


def pictures(data: DetectionDataset, folder: Path) -> set[str]:
    folder.mkdir()
    plot_evaluation(evaluate(WhiteBoxBackend(), data, batch_size=4), data, folder)
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("images", "labelled", "batches"), [(1, None, 1), (8, None, 1), (9, None, 2), (30, None, 3), (30, 9, 2), (3, 0, 0)]
)
def test_which_pictures_there_are(tmp_path: Path, images: int, labelled: int | None, batches: int) -> None:
    data = dataset(tmp_path / "data", [(48, 64)] * images, labelled=labelled)
    expected = CURVES | {f"val_batch{number}.jpg" for number in range(batches)}
    assert pictures(data, tmp_path / "out") == expected


@pytest.mark.parametrize("shape", [(1, 1080), (1080, 1), (1, 1), (2, 3000)])
def test_thin_images(tmp_path: Path, shape: tuple[int, int]) -> None:
    data = dataset(tmp_path / "data", [shape, (48, 64)])
    assert pictures(data, tmp_path / "out") == CURVES | {"val_batch0.jpg"}


def test_images_that_vanished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = dataset(tmp_path / "data", [(48, 64)] * 9)
    evaluation = evaluate(WhiteBoxBackend(), data, batch_size=4)
    (tmp_path / "data/images/01.png").unlink()
    (tmp_path / "data/images/08.png").write_bytes(b"not an image")
    (tmp_path / "out").mkdir()
    capsys.readouterr()
    plot_evaluation(evaluation, data, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == CURVES | {"val_batch0.jpg"}
    first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"not drawn: .*01\.png: no such file", first)
    assert re.match(r"not drawn: .*08\.png: not an image", second)


@pytest.mark.parametrize("shape", [(480, 640), (640, 300), (64, 64), (30, 40)])
def test_boxes_are_where_they_belong(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Images are loaded in another size than their boxes are in; both boxes still lie about the white square."""
    data = dataset(tmp_path / "data", [shape], image_size=256)
    pictures(data, tmp_path / "out")
    picture = cv2.imread(str(tmp_path / "out" / "val_batch0.jpg"))
    assert picture is not None
    for tile in np.array_split(picture[30:-8, 8:-8], 2, axis=1):  # without the captions and the white around
        columns, rows = (
            np.nonzero((np.abs(tile.astype(int) - class_colour(1)).max(axis=2) < 60).any(axis=axis))[0]
            for axis in (0, 1)
        )
        height, width = tile.shape[:2]
        assert columns.min() == pytest.approx(width / 4, abs=0.03 * max(height, width))
        assert columns.max() == pytest.approx(width * 3 / 4, abs=0.03 * max(height, width))
        assert rows.max() == pytest.approx(height * 3 / 4, abs=0.03 * max(height, width))
