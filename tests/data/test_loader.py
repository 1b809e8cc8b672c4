from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from tests.data.toy import SIZES, load, write_coco, write_yaml, write_yolo
from yolorep.config import Hyp
from yolorep.data.dataset import DetectionDataset
from yolorep.data.loader import Batch, eval_letterbox, eval_loader, train_loader
from yolorep.errors import UserError
from yolorep.ops.letterbox import rect_shape

STILL = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "mosaic": 0.0, "fliplr": 0.0} | dict.fromkeys(
    ("hsv_h", "hsv_s", "hsv_v"), 0.0
)


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionDataset:
    return DetectionDataset(load(write_yolo(tmp_path, count=11)), image_size=64, training=True)


def epoch(loader, number: int) -> list[Batch]:
    loader.set_epoch(number)
    return list(loader)


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.paths == other.paths
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)


def test_batches(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, Hyp(mixup=0.5), batch_size=4)
    batches = epoch(loader, 0)
    assert len(loader) == len(batches) == 3
    assert [len(batch.images) for batch in batches] == [4, 4, 3]
    assert sorted(path for batch in batches for path in batch.paths) == list(dataset.annotations.paths)
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[1:] == (3, 64, 64)
        assert batch.images.is_contiguous()
        assert batch.targets.dtype == torch.float32
        assert batch.targets.shape[1] == 6
        assert set(batch.targets[:, 0].tolist()) <= set(range(len(batch.images)))
        assert (batch.targets[:, 1] < 3).all()
        boxes = batch.targets[:, 2:]
        assert (boxes[:, 2:] > 0).all()
        assert (boxes[:, :2] - boxes[:, 2:] / 2 > -1e-5).all()
        assert (boxes[:, :2] + boxes[:, 2:] / 2 < 1 + 1e-5).all()
    assert sum(len(batch.targets) for batch in batches) > 0


def test_repeats_exactly_and_differs_between_epochs_and_seeds(dataset: DetectionDataset) -> None:
    hyp = Hyp(mixup=0.5)
    loader = train_loader(dataset, hyp, batch_size=4, seed=3)
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert_equal(epoch(loader, 0), first)
    assert_equal(epoch(train_loader(dataset, hyp, batch_size=4, seed=3), 1), second)
    other = epoch(train_loader(dataset, hyp, batch_size=4, seed=4), 0)
    for batches in (second, other):
        assert [batch.paths for batch in batches] != [batch.paths for batch in first]
    # The same image is drawn differently: not only the order changes.
    images = {path: image for batch in first for path, image in zip(batch.paths, batch.images, strict=True)}
    for batch in second + other:
        for path, image in zip(batch.paths, batch.images, strict=True):
            assert not torch.equal(images[path], image)


@pytest.mark.parametrize("cache", [None, "ram"])
def test_workers_change_nothing(tmp_path: Path, cache: str | None) -> None:
    dataset = DetectionDataset(load(write_yolo(tmp_path)), image_size=64, cache=cache, training=True)
    alone = train_loader(dataset, Hyp(), batch_size=3)
    helped = train_loader(dataset, Hyp(), batch_size=3, workers=2)
    for number in (0, 1, 5):
        assert_equal(epoch(alone, number), epoch(helped, number))
    evaluated = [eval_loader(dataset, batch_size=3, workers=workers) for workers in (0, 2)]
    for one, other in zip(*evaluated, strict=True):
        assert one.indices == other.indices
        assert one.letterboxes == other.letterboxes
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize(("cache", "expected"), [(None, 1), ("disk", 1), ("ram", 0)])
def test_images_in_memory_need_no_processes_to_evaluate(tmp_path: Path, cache: str | None, expected: int) -> None:
    dataset = DetectionDataset(load(write_yolo(tmp_path)), image_size=64, cache=cache)
    before = set(multiprocessing.active_children())
    batches = iter(eval_loader(dataset, batch_size=1, workers=1))
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == expected


def test_no_two_images_share_their_draws(tmp_path: Path) -> None:
    """Equal pictures become different samples."""
    (tmp_path / "images").mkdir()
    source = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for number in range(8):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), source)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/0.txt").write_text("0 .5 .5 .5 .5\n")
    annotations = load(write_yaml(tmp_path, "train: images\nnc: 1\n"))
    loader = train_loader(DetectionDataset(annotations, image_size=64), Hyp(mosaic=0), batch_size=2, workers=2)
    seen = {image.numpy().tobytes() for number in range(3) for batch in epoch(loader, number) for image in batch.images}
    assert len(seen) == 24


def test_the_global_generators_are_left_alone(dataset: DetectionDataset) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    epoch(train_loader(dataset, Hyp(mixup=1), batch_size=4), 0)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def test_distributed_samplers_share_the_images(dataset: DetectionDataset) -> None:
    paths: list[str] = []
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=1)  # type: ignore[arg-type]
        loader = train_loader(dataset, Hyp(), batch_size=4, sampler=sampler)
        assert len(loader) == 2
        first = [path for batch in epoch(loader, 0) for path in batch.paths]
        assert first != [path for batch in epoch(loader, 1) for path in batch.paths]
        paths += first
    assert len(paths) == 12
    assert set(paths) == set(dataset.annotations.paths)


def test_pickles_for_spawned_workers(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, Hyp(), batch_size=4)
    assert_equal(epoch(pickle.loads(pickle.dumps(loader)), 0), epoch(loader, 0))


def test_letterboxed_without_mosaic(dataset: DetectionDataset) -> None:
    batch = next(iter(train_loader(dataset, Hyp(**STILL), batch_size=11)))
    for position, path in enumerate(batch.paths):
        index = list(dataset.annotations.paths).index(path)
        height, width = dataset.shapes[index].tolist()
        top, left = round((64 - height) / 2 - 0.1), round((64 - width) / 2 - 0.1)
        image = batch.images[position].numpy()[::-1].transpose(1, 2, 0)
        np.testing.assert_array_equal(image[top : top + height, left : left + width], dataset.load_image(index))
        rest = np.ones((64, 64), bool)
        rest[top : top + height, left : left + width] = False
        assert (image[rest] == 114).all()
        label = dataset.annotations.labels(index)
        expected = label[:, 1:] * [width, height, width, height] + [left, top, 0, 0]
        targets = batch.targets[batch.targets[:, 0] == position].numpy()
        np.testing.assert_allclose(targets[:, 2:] * 64, expected, atol=1e-3)
        np.testing.assert_array_equal(targets[:, 1], label[:, 0])


def test_rect_training(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, Hyp(**STILL), batch_size=3, rect=True, stride=16)
    seen, orders = set(), []
    for number in range(2):
        batches = epoch(loader, number)
        orders.append([batch.paths for batch in batches])
        for batch in batches:
            indices = [list(dataset.annotations.paths).index(path) for path in batch.paths]
            shapes = [rect_shape(tuple(dataset.annotations.sizes[i].tolist()), 64, 16, pad=0.0) for i in indices]
            assert batch.images.shape[2:] == tuple(np.max(shapes, axis=0).tolist())
            seen.add(tuple(batch.images.shape[2:]))
    assert sorted(path for paths in orders[0] for path in paths) == list(dataset.annotations.paths)
    assert len(seen) > 1
    assert orders[0] != orders[1]


@pytest.mark.parametrize("rect", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_evaluation_depends_on_the_image_only(rect: bool, batch_size: int, dataset: DetectionDataset) -> None:
    def by_index(size: int) -> dict[int, tuple[torch.Tensor, object]]:
        return {
            index: (image, box)
            for batch in eval_loader(dataset, batch_size=size, stride=16, rect=rect)
            for index, image, box in zip(batch.indices, batch.images, batch.letterboxes, strict=True)
        }

    expected, found = by_index(2), by_index(batch_size)
    assert sorted(found) == list(range(11))
    for index, (image, box) in found.items():
        assert torch.equal(image, expected[index][0])
        assert box == expected[index][1]
        size = tuple(dataset.annotations.sizes[index].tolist())
        assert image.shape[1:] == (rect_shape(size, 64, 16) if rect else (64, 64))


def test_evaluation_batches_have_one_shape_and_a_fixed_order(dataset: DetectionDataset) -> None:
    loader = eval_loader(dataset, batch_size=4, stride=16)
    first, second = list(loader), list(loader)
    assert [batch.indices for batch in first] == [batch.indices for batch in second]
    assert len(loader) == len(first)
    assert all(1 <= len(batch.indices) <= 4 and batch.images.dtype == torch.uint8 for batch in first)


@pytest.mark.parametrize("source", [*SIZES, (333, 500), (427, 640), (1080, 1920), (500, 333), (7, 640)])
@pytest.mark.parametrize("rect", [True, False])
def test_eval_letterbox_maps_boxes_there_and_back(source: tuple[int, int], rect: bool) -> None:
    target = rect_shape(source, 320, 32) if rect else (320, 320)
    box = eval_letterbox(source, target, image_size=320)
    assert box.source == source
    assert max(box.resized) == 320
    assert box.top + box.resized[0] <= target[0]
    assert box.left + box.resized[1] <= target[1]
    height, width = source
    corners = np.array([[0, 0, width, height], [width / 4, height / 3, width / 2, height / 2]], np.float32)
    np.testing.assert_allclose(box.undo(box.boxes(corners)), corners, atol=1e-3)
    # The pixels really are where the map says, to the rounding of the resized shape.
    x1, y1, x2, y2 = box.boxes(corners)[0]
    np.testing.assert_allclose([y1, x1], [box.top, box.left], atol=1e-4)
    np.testing.assert_allclose([y2 - y1, x2 - x1], box.resized, atol=1.0)


def test_evaluation_image_is_resized_once_and_padded(dataset: DetectionDataset) -> None:
    for batch in eval_loader(dataset, batch_size=4):
        for index, image, box in zip(batch.indices, batch.images, batch.letterboxes, strict=True):
            inner = image.numpy()[::-1].transpose(1, 2, 0)
            inner = inner[box.top : box.top + box.resized[0], box.left : box.left + box.resized[1]]
            np.testing.assert_array_equal(inner, dataset.load_image(index))


def test_coco_batches(tmp_path: Path) -> None:
    dataset = DetectionDataset(load(write_coco(tmp_path), "val"), image_size=64)
    assert sum(len(batch.indices) for batch in eval_loader(dataset, batch_size=2)) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_in_a_worker_reaches_the_user_as_one_line(workers: int, dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, Hyp(), batch_size=2, workers=workers)
    for path in dataset.annotations.paths:
        os.unlink(path)
    with pytest.raises(UserError, match="no such file") as error:
        epoch(loader, 0)
    assert "\n" not in str(error.value)
    del error  # its traceback holds the loader: the workers would live on until the next garbage collection


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory use from /proc")
def test_memory_is_flat_over_epochs(dataset: DetectionDataset) -> None:
    loader = train_loader(dataset, Hyp(), batch_size=4)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for number in range(5):
        epoch(loader, number)
    before = resident()
    for number in range(60):
        epoch(loader, number)
    assert resident() - before < 4e6
