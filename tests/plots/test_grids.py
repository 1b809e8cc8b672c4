from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from yolorep.detections import Detections
from yolorep.drawing import class_colour
from yolorep.plots.grids import certain, plot_batch, plot_predictions

NAMES = ("cat", "dog")


def has_colour(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image.astype(int) - colour).max(axis=-1) < 3).any())


@pytest.mark.parametrize("count", [1, 5, 20])
def test_plot_batch(tmp_path: Path, count: int) -> None:
    images = torch.zeros(count, 3, 48, 64, dtype=torch.uint8)
    images[:, 0] = 200  # red
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5], [99, 0, 0.5, 0.5, 0.5, 0.5]])
    plot_batch(images, targets, NAMES, tmp_path / "batch.png")
    picture = cv2.imread(str(tmp_path / "batch.png"))
    assert has_colour(picture, (0, 0, 200))
    assert has_colour(picture, class_colour(1)) and not has_colour(picture, class_colour(0))


def test_boxes_are_in_place(tmp_path: Path) -> None:
    targets = torch.tensor([[0, 0, 0.25, 0.5, 0.5, 1.0]])
    plot_batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), targets, NAMES, tmp_path / "batch.png")
    picture = cv2.imread(str(tmp_path / "batch.png"))
    inked = (np.abs(picture.astype(int) - class_colour(0)).max(axis=-1) < 3).any(axis=0).nonzero()[0]
    assert abs(inked.max() - (6 + 64)) <= 3  # the image is doubled: its middle is at 64, behind a gap of 6


def test_no_targets(tmp_path: Path) -> None:
    plot_batch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 6), NAMES, tmp_path / "batch.jpg")
    assert (tmp_path / "batch.jpg").exists()


def pair(image: np.ndarray) -> tuple[np.ndarray, Detections, Detections]:
    labels = certain(np.array([[5, 5, 50, 35]], np.float32), np.array([0]))
    found = Detections(np.array([[6, 6, 48, 33]], np.float32), np.array([0.8], np.float32), np.array([1]))
    return image, labels, found


def test_thin_images(tmp_path: Path) -> None:
    images = [np.full((*size, 3), 50, np.uint8) for size in ((1, 3000), (3000, 1), (1, 1))]
    plot_predictions(map(pair, images), NAMES, tmp_path / "predictions.png")
    assert cv2.imread(str(tmp_path / "predictions.png")) is not None


@pytest.mark.parametrize("count", [1, 3, 8])
def test_plot_predictions(tmp_path: Path, count: int) -> None:
    images = [np.full((40 + 5 * i, 60, 3), 50, np.uint8) for i in range(count)]
    plot_predictions(map(pair, images), NAMES, tmp_path / "predictions.png")
    picture = cv2.imread(str(tmp_path / "predictions.png"))
    assert picture is not None
    for tile, class_id in zip(np.array_split(picture, 2 if count == 1 else 4, axis=1), (0, 1, 0, 1), strict=False):
        assert has_colour(tile, class_colour(class_id)) and not has_colour(tile, class_colour(1 - class_id))
    assert (images[0] == 50).all()


def test_of_no_images_there_is_no_picture(tmp_path: Path) -> None:
    plot_predictions([], NAMES, tmp_path / "predictions.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1, 1080), (1080, 1), (1, 1), (3, 5000)])
def test_thin_images_are_drawn(tmp_path: Path, shape: tuple[int, int]) -> None:
    images = [np.full((*shape, 3), 50, np.uint8), np.full((60, 60, 3), 50, np.uint8)]
    plot_predictions(map(pair, images), NAMES, tmp_path / "predictions.png")
    picture = cv2.imread(str(tmp_path / "predictions.png"))
    assert picture is not None
    assert has_colour(picture[:, picture.shape[1] // 2 :], class_colour(1))
