"""A data set of one's own: images and boxes from Python."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.data.toy import SIZES, load, smooth_image, write_yolo
from tests.inference.white_box import WhiteBoxBackend
from tests.training.tiny import tiny_trainer
from yolorep.config import Hyp
from yolorep.data.dataset import DetectionDataset, SequenceDataset, resized_shape
from yolorep.data.loader import eval_loader, train_loader
from yolorep.errors import UserError
from yolorep.evaluation.evaluator import evaluate
from yolorep.evaluation.pictures import plot_evaluation

BOX = (1, 0.5, 0.5, 0.5, 0.25)


class Rectangles:
    """Dark pictures with a white rectangle, drawn when asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[tuple[float, ...]]]:
        height, width = 80 + 16 * (index % 3), 96
        image = np.full((height, width, 3), 20, np.uint8)
        image[height * 3 // 8 : height * 5 // 8, width // 4 : width * 3 // 4] = 255
        return image, [BOX]


@pytest.fixture
def dataset() -> SequenceDataset:
    return SequenceDataset(Rectangles(20), ["rectangle", "square"], image_size=64)


def test_it_trains(dataset: SequenceDataset) -> None:
    loader = train_loader(dataset, Hyp(), batch_size=4, workers=1)
    trainer = tiny_trainer(epochs=1)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.batches = lambda number: loader
    trainer.fit()
    assert trainer.progress.finished
    assert any(not torch.equal(*pair) for pair in zip(before, trainer.model.parameters(), strict=True))


def test_it_is_evaluated(dataset: SequenceDataset, tmp_path: Path) -> None:
    evaluation = evaluate(WhiteBoxBackend(), dataset, batch_size=4)
    assert evaluation.metrics["AP50"] > 0.99
    assert {result["image_id"] for result in evaluation.results} == set(range(20))
    np.testing.assert_allclose(evaluation.detections[0].xyxy[0], [24, 30, 72, 50], atol=3)
    plot_evaluation(evaluation, dataset, tmp_path)
    assert (tmp_path / "val_batch0.jpg").stat().st_size > 1000


def test_the_four_members_are_enough(dataset: SequenceDataset) -> None:
    """An object that is no data set of this package's."""
    own = SimpleNamespace(
        annotations=dataset.annotations, image_size=64, in_memory=False, load_image=dataset.load_image
    )
    for make in (lambda data: train_loader(data, Hyp(), batch_size=8), lambda data: eval_loader(data, batch_size=8)):
        assert all(torch.equal(one.images, other.images) for one, other in zip(make(own), make(dataset), strict=True))
    assert evaluate(WhiteBoxBackend(), own, batch_size=8).metrics["AP50"] > 0.99


def test_the_same_as_from_files(tmp_path: Path) -> None:
    annotations = load(write_yolo(tmp_path))
    items = [(cv2.imread(path), annotations.labels(index)) for index, path in enumerate(annotations.paths)]
    own = SequenceDataset(items, annotations.names, image_size=48)
    files = DetectionDataset(annotations, image_size=48)
    assert (own.in_memory, files.in_memory) == (True, False)
    assert len(own) == len(files)
    np.testing.assert_allclose(own.annotations.boxes, annotations.boxes, atol=1e-6)
    np.testing.assert_allclose(own.annotations.truth.xywh, annotations.truth.xywh, atol=1e-3)
    for index, size in enumerate(SIZES):
        assert own.load_image(index).shape == (*resized_shape(size, 48), 3)
        np.testing.assert_array_equal(own.load_image(index), files.load_image(index))


IMAGE = smooth_image(40, 60)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((IMAGE[..., 0], []), r"item 1: expected an image .*found uint8 \(40, 60\)"),
        ((IMAGE / 255, []), r"item 1: expected an image .*found float64 \(40, 60, 3\)"),
        ((IMAGE[:0], []), r"item 1: expected an image .*found uint8 \(0, 60, 3\)"),
        ((None, []), r"item 1: expected an image .*found NoneType"),
        ((IMAGE, [[0, 0.5, 0.5, 0.1]]), r"item 1: expected boxes \(k, 5\).*found the shape \(1, 4\)"),
        ((IMAGE, BOX), r"item 1: expected boxes \(k, 5\).*found the shape \(5,\)"),
        ((IMAGE, [BOX, (2, 0.5, 0.5, 0.1, 0.1)]), r"a class id below 2 .*found \[2\.0, 0\.5"),
        ((IMAGE, [(0.5, 0.5, 0.5, 0.1, 0.1)]), r"a class id below 2"),
        ((IMAGE, [(0, 30, 20, 10, 10)]), r"in shares of the image, 0 to 1, found \[0\.0, 30\.0"),
        ((IMAGE, [(0, float("nan"), 0.5, 0.1, 0.1)]), r"in shares of the image"),
        ((IMAGE, [BOX, (0, 0.5)]), r"item 1: expected boxes \(k, 5\).*found rows of several lengths, or no numbers"),
        ((IMAGE, ["car"]), r"item 1: expected boxes \(k, 5\).*found rows of several lengths, or no numbers"),
        ((IMAGE,), "item 1: expected a pair of image and boxes, found 1 values"),
        (IMAGE, "item 1: expected a pair of image and boxes, found ndarray"),
    ],
)
def test_wrong_items(item: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        SequenceDataset([(IMAGE, []), item], ["a", "b"], image_size=64)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "size", "message"),
    [
        ("car", 64, r"names: expected a list of class names, such as \['car', 'bus'\], found 'car'"),
        ([3], 64, r"names: expected a list of class names.*found \[3\]"),
        (["car"], 0, "image_size: expected a whole number of pixels, at least 1, found 0"),
        (["car"], 64.0, "image_size: expected a whole number of pixels, at least 1, found 64.0"),
    ],
)
def test_wrong_names_and_sizes(names: Any, size: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SequenceDataset([(IMAGE, [])], names, image_size=size)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda image: image.astype(np.float32), r"float32 \(54, 64, 3\)"),
        (lambda image: image[:-1], r"uint8 \(53, 64, 3\)"),
        (lambda image: None, "NoneType"),
    ],
)
def test_what_a_data_set_loads_is_checked(dataset: SequenceDataset, change: Any, found: str) -> None:
    own = SimpleNamespace(
        annotations=dataset.annotations,
        image_size=64,
        in_memory=True,
        load_image=lambda index: change(dataset.load_image(index)) if index == 0 else dataset.load_image(index),
    )
    message = rf"load_image\(0\), item 0: expected an image of uint8 \(54, 64, 3\), found {found}"
    for make in (lambda: train_loader(own, Hyp(), batch_size=8), lambda: eval_loader(own, batch_size=8)):
        with pytest.raises(UserError, match=message):
            list(make())


def test_an_image_may_not_change_its_size() -> None:
    items = [(IMAGE, [BOX])]
    dataset = SequenceDataset(items, ["a", "b"], image_size=64)
    items[0] = (smooth_image(60, 40), [BOX])
    with pytest.raises(UserError, match="item 0: expected an image of 60x40 pixels, as it was at first, found 40x60"):
        dataset.load_image(0)


def test_nothing_to_learn() -> None:
    with pytest.raises(UserError, match=r"found none in 1 images \(the first is item 0\)"):
        train_loader(SequenceDataset([(IMAGE, [])], ["a"], image_size=64), Hyp(), batch_size=1)
