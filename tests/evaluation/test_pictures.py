"""The pictures of an evaluation: which there are, and that no image of the data set keeps them from being drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.inference.white_box import WhiteBoxBackend
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.evaluation.evaluator import evaluate
from yolorep.evaluation.pictures import plot_evaluation

CURVES = {"pr_curve.png", "confidence_curves.png", "confusion_matrix.png", "confusion_matrix_normalized.png"}


def dataset(folder: Path, shapes: list[tuple[int, int]], *, labelled: int | None = None) -> DetectionDataset:
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
    return DetectionDataset(load_annotations(load_data_config(folder / "data.yaml"), "val"), image_size=64)


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
    assert first.endswith("01.png: not drawn: no such file")
    assert second.endswith("08.png: not drawn: not an image")
