"""Batches for training and for evaluation."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from yolorep.config import Hyp
from yolorep.data import transforms
from yolorep.data.dataset import Dataset, load_checked, resized_shape
from yolorep.data.workers import (
    PREFETCH,
    Watch,
    WorkerLost,
    affordable_workers,
    errors_where_batches_are_awaited,
    free_shared_memory,
    kill,
    kill_stopped,
    share,
    start_worker,
    too_many_files,
)
from yolorep.errors import UserError
from yolorep.ops.letterbox import LetterBox, Size, bounds, rect_shape
from yolorep.ops.prepare import letterboxed, write_rgb
from yolorep.signals import stopping_held

B = TypeVar("B")


@dataclass
class Batch:
    """Augmented images and their boxes.

    Attributes:
        images: (b, 3, height, width) uint8 RGB.
        targets: (n, 6) float32 ``image in the batch, class, cx, cy, w, h``, normalized to the network input.
        paths: file of each image (of the first one of a mosaic).
    """

    images: Tensor
    targets: Tensor
    paths: list[str]

    def pin_memory(self) -> Batch:
        """Called by torch's loader when the batches go to a GPU."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.paths)


@dataclass
class EvalBatch:
    """Letterboxed images of equal shape.

    Attributes:
        images: (b, 3, height, width) uint8 RGB.
        indices: of the images in the data set.
        letterboxes: from original pixels to the network input.
    """

    images: Tensor
    indices: list[int]
    letterboxes: list[LetterBox]

    def pin_memory(self) -> EvalBatch:
        """Called by torch's loader when the batches go to a GPU."""
        return EvalBatch(self.images.pin_memory(), self.indices, self.letterboxes)


class EpochSampler(Sized, Protocol):
    """Which images this process trains on in an epoch, and in which order; torch's DistributedSampler is one."""

    def __iter__(self) -> Iterator[int]: ...
    def set_epoch(self, epoch: int) -> None: ...


class ShuffleSampler:
    """All images in an order that depends on seed and epoch only."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist())


class _TrainKey(NamedTuple):
    """All that decides what a batch looks like; travels from the main process to a worker."""

    epoch: int
    indices: list[int]
    shape: tuple[int, int]
    mosaic: bool


class _TrainBatches:
    """Makes a training batch from its key. The draws depend on seed, epoch and image only, not on who makes it."""

    def __init__(self, dataset: Dataset, hyp: Hyp, *, seed: int) -> None:
        self.dataset, self.annotations, self.hyp, self.seed = dataset, dataset.annotations, hyp, seed

    def __call__(self, key: _TrainKey) -> Batch:
        height, width = key.shape
        images = np.empty((len(key.indices), 3, height, width), np.uint8)
        targets = []
        for position, index in enumerate(key.indices):
            rng = np.random.default_rng([self.seed, key.epoch, index])
            image, boxes = self._augment(index, rng, key.shape, mosaic=key.mosaic)
            write_rgb(image, images[position])
            rows = np.empty((len(boxes), 6), np.float32)
            rows[:, 0] = position
            rows[:, 1:] = transforms.to_normalized(boxes, key.shape)
            targets.append(rows)
        paths = [self.annotations.paths[index] for index in key.indices]
        return Batch(torch.from_numpy(images), torch.from_numpy(np.concatenate(targets)), paths)

    def _augment(
        self, index: int, rng: np.random.Generator, shape: tuple[int, int], *, mosaic: bool
    ) -> tuple[transforms.Image, transforms.Boxes]:
        hyp = self.hyp
        if mosaic and rng.random() < hyp.mosaic:
            image, boxes = self._mosaic(index, rng)
            if rng.random() < hyp.mixup:
                other, other_boxes = self._mosaic(int(rng.integers(len(self.annotations))), rng)
                image, boxes = transforms.mixup(image, other, rng), np.concatenate([boxes, other_boxes])
        else:
            image, boxes = transforms.letterbox_affine(
                load_checked(self.dataset, index), self.annotations.labels(index), rng, hyp, target=shape
            )
        return transforms.random_flips(transforms.random_hsv(image, rng, hyp), boxes, rng, hyp)

    def _mosaic(self, index: int, rng: np.random.Generator) -> tuple[transforms.Image, transforms.Boxes]:
        dataset, annotations = self.dataset, self.annotations
        four = rng.permutation([index, *rng.integers(len(annotations), size=3)]).tolist()
        return transforms.mosaic(
            lambda position: load_checked(dataset, four[position]),
            [resized_shape((height, width), dataset.image_size) for height, width in annotations.sizes[four].tolist()],
            [annotations.labels(member) for member in four],
            rng,
            self.hyp,
            image_size=square_side(dataset),
        )


def square_side(dataset: Dataset) -> int:
    """The side of the square images that are trained on.

    Raises:
        UserError: if the data set's images are fitted into another shape.
    """
    if isinstance(dataset.image_size, int):
        return dataset.image_size
    raise UserError(f"image_size: expected one number to train at, the long side, found {dataset.image_size}")


class _TrainOrder(Sampler[_TrainKey]):
    """The batches of an epoch."""

    def __init__(
        self, dataset: Dataset, sampler: EpochSampler, *, batch_size: int, seed: int, rect: bool, stride: int
    ) -> None:
        self.sampler, self.batch_size, self.seed, self.epoch, self.mosaic = sampler, batch_size, seed, 0, True
        self.shape = bounds(square_side(dataset))
        self.largest_shape = self.shape
        self.rect_shapes: NDArray[np.int64] | None = None
        if rect:
            sizes = dataset.annotations.sizes.tolist()
            shapes = [rect_shape((height, width), dataset.image_size, stride, pad=0.0) for height, width in sizes]
            self.rect_shapes = np.array(shapes, np.int64)
            self.largest_shape = tuple(self.rect_shapes.max(axis=0).tolist())
            self.aspects = dataset.annotations.sizes[:, 0] / dataset.annotations.sizes[:, 1]

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[_TrainKey]:
        self.sampler.set_epoch(self.epoch)
        indices = np.fromiter(self.sampler, np.int64)
        if self.rect_shapes is None:
            for start in range(0, len(indices), self.batch_size):
                members = indices[start : start + self.batch_size].tolist()
                yield _TrainKey(self.epoch, members, self.shape, self.mosaic)
            return
        # Images of similar aspect share a batch; the sampler's order decides among those of equal aspect.
        indices = indices[np.argsort(self.aspects[indices], kind="stable")]
        starts = np.arange(0, len(indices), self.batch_size)
        for start in np.random.default_rng([self.seed, self.epoch]).permutation(starts):
            members = indices[start : start + self.batch_size]
            height, width = self.rect_shapes[members].max(axis=0).tolist()
            yield _TrainKey(self.epoch, members.tolist(), (height, width), False)


class _Loader(Generic[B]):
    """A torch loader whose items are whole batches, made from keys, in this process or in workers.

    Attributes:
        largest: bytes of the largest batch, or a bound.
        workers: how many processes prepare batches.
        short_of_memory: they are fewer than wanted for want of shared memory.
    """

    def __init__(
        self, make: Callable[[Any], B], keys: Any, *, workers: int, pin_memory: bool, largest: int, what: str
    ) -> None:
        workers = min(workers, len(keys), os.cpu_count() or 1)
        self.largest = largest
        self.workers = affordable_workers(workers, largest, free=free_shared_memory(), what=what) if workers else 0
        self.short_of_memory = self.workers < workers
        self._keys = keys
        self._loader: DataLoader[Any] = DataLoader(
            _Guarded(make),
            batch_size=None,  # a key is a whole batch
            sampler=keys,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            collate_fn=_unchanged,
            worker_init_fn=start_worker,
            persistent_workers=self.workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else every iteration would draw from the global one
        )
        self._processes: list[BaseProcess] = []
        weakref.finalize(self, kill_stopped, self._processes)  # before torch waits for them to end

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[B]:
        for batch in self._watched() if self.workers else self._loader:
            if isinstance(batch, UserError | WorkerLost):
                # A new one: raising a local variable makes a reference cycle, and the workers would be stopped by the
                # garbage collector, which takes them ten seconds.
                raise type(batch)(str(batch))
            yield batch

    def _watched(self) -> Iterator[Any]:
        """Batches of workers.

        Raises:
            WorkerLost: if one of them is dead or stopped.
        """
        batches: Iterable[Any] = self._loader
        if not self._processes:
            with stopping_held(), errors_where_batches_are_awaited():
                batches = iter(self._loader)
            self._processes.extend(self._loader._iterator._workers)  # type: ignore[union-attr]
        with Watch(self._processes, self._loader._iterator._worker_result_queue) as watch:  # type: ignore[union-attr]
            try:
                yield from batches
            except (RuntimeError, OSError, EOFError) as error:
                if fault := watch.fault() or too_many_files(error):
                    kill(self._processes)
                    raise WorkerLost(fault) from None
                raise


class _Guarded(TorchDataset[Any]):
    """Hands errors meant for the user to the main process as they are; torch would wrap them in a traceback."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getitem__(self, key: Any) -> Any:
        try:
            batch = self.make(key)
        except UserError as error:
            return error
        return batch if get_worker_info() is None else share(batch)


def _unchanged(batch: Any) -> Any:
    return batch


class TrainLoader(_Loader[Batch]):
    """Iterates over the batches of an epoch; see ``train_loader``."""

    def __init__(self, order: _TrainOrder, batches: _TrainBatches, *, workers: int, pin_memory: bool) -> None:
        largest = order.batch_size * 3 * math.prod(order.largest_shape)
        super().__init__(batches, order, workers=workers, pin_memory=pin_memory, largest=largest, what="training")
        self.dataset = batches.dataset
        self.batch_size = order.batch_size
        self._order = order

    def set_epoch(self, epoch: int, *, mosaic: bool = True) -> None:
        """Chooses the order and the draws of the next iteration. Call it before every epoch, after resuming too.

        Args:
            epoch: counted from 0.
            mosaic: False leaves mosaic and mixup out, whatever the recipe says.
        """
        self._order.epoch, self._order.mosaic = epoch, mosaic


class EvalLoader(_Loader[EvalBatch]):
    """Iterates over the batches of a data set; see ``eval_loader``."""

    def __init__(self, batches: _EvalBatches, keys: list[_EvalKey], *, workers: int, pin_memory: bool) -> None:
        largest = max((len(key.indices) * 3 * math.prod(key.shape) for key in keys), default=0)
        super().__init__(batches, keys, workers=workers, pin_memory=pin_memory, largest=largest, what="evaluation")


def train_loader(
    dataset: Dataset,
    hyp: Hyp,
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    rect: bool = False,
    stride: int = 32,
    sampler: EpochSampler | None = None,
    pin_memory: bool = False,
) -> TrainLoader:
    """Batches of augmented images; the last one may be smaller.

    What an image becomes depends on ``seed``, the epoch and the image only: runs repeat exactly, with any number of
    workers.

    Args:
        dataset: what to train on; its ``image_size`` is the side of the network input.
        hyp: augmentation parameters.
        batch_size: images in a batch.
        workers: processes that prepare batches; 0 prepares them in this one. No more than there are CPU cores are used.
        seed: of order and augmentation.
        rect: batches of images with similar aspect ratio, letterboxed into the smallest common shape, without mosaic.
        stride: largest stride of the network; rectangles are multiples of it.
        sampler: images of this process and their order, for distributed training; all, shuffled, when None.
        pin_memory: prepare batches for copying to a GPU.

    Raises:
        UserError: if no image has a box.
    """
    if not len(dataset.annotations.boxes):
        raise UserError(
            f"expected labelled objects to train on, found none in {len(dataset.annotations)} images "
            f"(the first is {dataset.annotations.paths[0]}); labels belong in the sibling folder 'labels'"
        )
    order = _TrainOrder(
        dataset,
        sampler if sampler is not None else ShuffleSampler(len(dataset.annotations), seed),
        batch_size=batch_size,
        seed=seed,
        rect=rect,
        stride=stride,
    )
    batches = _TrainBatches(dataset, hyp, seed=seed)
    return TrainLoader(order, batches, workers=workers, pin_memory=pin_memory)


class _EvalKey(NamedTuple):
    indices: list[int]
    shape: tuple[int, int]


class _EvalBatches:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __call__(self, key: _EvalKey) -> EvalBatch:
        dataset = self.dataset
        letterboxes = [
            eval_letterbox((height, width), key.shape, image_size=dataset.image_size)
            for height, width in dataset.annotations.sizes[key.indices].tolist()
        ]
        images = [load_checked(dataset, index) for index in key.indices]
        return EvalBatch(letterboxed(images, letterboxes), key.indices, letterboxes)


def eval_letterbox(source: tuple[int, int], target: tuple[int, int], *, image_size: Size) -> LetterBox:
    """How evaluation places an image: resized to ``image_size`` exactly as the data set does, then only padded."""
    resized = resized_shape(source, image_size)
    placed = LetterBox.plan(resized, target, image_size=image_size)
    return replace(placed, source=source)


def eval_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    stride: int = 32,
    rect: bool = True,
    pad: float = 0.5,
    workers: int = 0,
    pin_memory: bool = False,
) -> EvalLoader:
    """Batches of letterboxed images, in the same order every time.

    An image's network input depends on the image only, so that results cannot depend on the batch size.

    Args:
        dataset: what to evaluate on.
        batch_size: at most so many images in a batch; only images of equal network shape share one.
        stride: largest stride of the network.
        rect: give each image the smallest rectangle instead of the whole size.
        pad: strides added to the rectangle before rounding up; half a one as YOLOv5 does.
        workers: processes that prepare batches; 0 prepares them in this one, as is always done with images kept in
            memory, for which starting processes takes longer.
        pin_memory: prepare batches for copying to a GPU.
    """
    size = dataset.image_size
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (height, width) in enumerate(dataset.annotations.sizes.tolist()):
        shape = rect_shape((height, width), size, stride, pad=pad) if rect else bounds(size)
        groups.setdefault(shape, []).append(index)
    keys = [
        _EvalKey(members[start : start + batch_size], shape)
        for shape, members in sorted(groups.items())
        for start in range(0, len(members), batch_size)
    ]
    workers = 0 if dataset.in_memory else workers
    return EvalLoader(_EvalBatches(dataset), keys, workers=workers, pin_memory=pin_memory)
