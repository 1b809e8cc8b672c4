"""Images with labels, resized so that the long side is the training or evaluation size: from files, or your own."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from yolorep.config import cache_dir
from yolorep.console import progress, say
from yolorep.data.annotations import Annotations, Truth
from yolorep.data.cache import VERSION, file_state
from yolorep.errors import UserError
from yolorep.image_headers import limit_pixels, max_pixels
from yolorep.images import ImageError, read_image

#: Share of the free memory a RAM cache may take.
_MEMORY_SHARE = 0.8
#: Bytes of the checksum behind an image kept on disk.
_CHECK_SIZE = 4


def resized_shape(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """(height, width) of an image whose long side becomes ``image_size``; the short side is rounded up as in YOLOv5."""
    longest = max(size)
    # In integers: 375 * (640 / 500) is a little more than 480 in floats.
    return -(-size[0] * image_size // longest), -(-size[1] * image_size // longest)


class Dataset(Protocol):
    """What can be trained on and evaluated: any object with these four.

    :class:`DetectionDataset` reads files; :class:`SequenceDataset` makes one of images of your own.
    """

    @property
    def annotations(self) -> Annotations:
        """Class names, and for every image its name (a path or any text), size and boxes."""
        ...

    @property
    def image_size(self) -> int:
        """Long side of the loaded images in pixels."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether images are there at once, so that processes to load them would only take time."""
        ...

    def load_image(self, index: int) -> NDArray[np.uint8]:
        """One image: (height, width, 3) uint8 BGR, the :func:`resized_shape` of its size. It is not written to.

        Raises:
            UserError: if it cannot be loaded.
        """
        ...


class DetectionDataset:
    """Images and labels of one split.

    Everything is in flat arrays, so that workers forked from this process share its memory for good.

    Args:
        annotations: the split.
        image_size: long side of the images in pixels.
        cache: "ram" keeps the resized images in memory, "disk" as ``.npy`` files under the cache directory.
        training: shrink by bilinear sampling, as YOLOv5 does in training, instead of by area.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        image_size: int,
        cache: Literal["ram", "disk"] | None = None,
        training: bool = False,
    ) -> None:
        self.annotations = annotations
        self.image_size = image_size
        self.shapes = np.array(
            [resized_shape((height, width), image_size) for height, width in annotations.sizes.tolist()], np.int64
        ).reshape(-1, 2)
        self._training = training
        self._max_pixels = max_pixels()
        self._pixels: NDArray[np.uint8] | None = None
        self._starts = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1) * 3)])
        self._folder: Path | None = None
        if cache == "ram":
            self._fill_memory()
        elif cache == "disk":
            self._fill_folder()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In a worker that was not forked: it has to be told what this process was told.
        self.__dict__.update(state)
        limit_pixels(self._max_pixels)

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def in_memory(self) -> bool:
        """Whether every image is kept decoded in memory."""
        return self._pixels is not None

    def load_image(self, index: int) -> NDArray[np.uint8]:
        """Returns one image: (height, width, 3) uint8 BGR of shape ``self.shapes[index]``. Not to be written to.

        Raises:
            UserError: if the file no longer decodes.
        """
        if self._pixels is not None:
            return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(*self.shapes[index], 3)
        if self._folder is not None:
            file = self._disk_file(index)
            image = self._read_stored(index, file)
            if image is None:  # removed or damaged since: only slower
                image = self._decode(index)
                with suppress(UserError):
                    self._store(index, file, image)
            return image
        return self._decode(index)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        path = self.annotations.paths[index]
        # Bilinear sampling at one half averages 2x2 pixels, which a JPEG decoder does in less than half the time.
        ratio = int(self.annotations.sizes[index].max()) // self.image_size if self._training else 1
        try:
            image = read_image(path, shrink=max(shrink for shrink in (1, 2, 4, 8) if shrink <= max(ratio, 1)))
        except ImageError as error:
            raise UserError(f"{path}: {error}; it could be read when the data set was scanned") from error
        return _resize(image, tuple(self.shapes[index].tolist()), by_area=not self._training)

    def _fill_memory(self) -> None:
        needed, free = int(self._starts[-1]), free_memory()
        if free is not None and needed > free * _MEMORY_SHARE:
            say(
                f"images are not cached: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB of memory free; "
                "try --cache disk"
            )
            return
        pixels = np.empty(needed, np.uint8)

        def fill(index: int) -> None:
            pixels[self._starts[index] : self._starts[index + 1]] = self._decode(index).reshape(-1)

        self._in_threads(fill, f"caching {needed / 1e9:.2f} GB in memory")
        self._pixels = pixels

    def _fill_folder(self) -> None:
        self._folder = cache_dir() / "images"

        def fill(index: int) -> None:
            file = self._disk_file(index)
            if not file.exists():
                self._store(index, file, self._decode(index))

        self._in_threads(fill, "caching images on disk")

    def _read_stored(self, index: int, file: Path) -> NDArray[np.uint8] | None:
        """An image kept on disk; None if it is not there, damaged, or another one."""
        try:
            content = file.read_bytes()
            stored, check = content[:-_CHECK_SIZE], content[-_CHECK_SIZE:]
            if zlib.crc32(stored).to_bytes(_CHECK_SIZE, "little") != check:
                return None
            image = np.load(io.BytesIO(stored), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return image if image.dtype == np.uint8 and image.shape == (*self.shapes[index], 3) else None

    def _store(self, index: int, file: Path, image: NDArray[np.uint8]) -> None:
        temporary = file.with_name(f".{file.stem}.{os.getpid()}.{index}.npy")
        # Renamed, so that nobody reads half a file. Not fsynced: what a power cut damages is decoded again.
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            packed = io.BytesIO()  # NumPy writing to the disk itself would not say why it cannot
            np.save(packed, image, allow_pickle=False)
            packed.write(zlib.crc32(packed.getbuffer()).to_bytes(_CHECK_SIZE, "little"))
            temporary.write_bytes(packed.getbuffer())
            temporary.replace(file)
        except OSError as error:
            raise UserError(
                f"{file}: images cannot be cached on disk ({error.strerror}); train without --cache disk, "
                "or set YOLOREP_CACHE to a folder with more room"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _disk_file(self, index: int) -> Path:
        assert self._folder is not None
        path = self.annotations.paths[index]
        state = f"{path}\0{file_state(path)} {self.image_size} {self._training} {VERSION}"
        key = hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / key[:2] / f"{key[2:34]}.npy"

    def _in_threads(self, function: object, desc: str) -> None:
        with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
            for _ in progress(pool.map(function, range(len(self))), total=len(self), desc=desc, unit="images"):  # type: ignore[arg-type]
                pass


class Items(Protocol):
    """A list, or anything else with a length and an index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[NDArray[np.uint8], ArrayLike]: ...


class SequenceDataset:
    """Images and boxes of your own.

    Every item is looked at once here, for the image's size and its boxes. Its image is asked for again whenever it is
    needed, with several workers from several processes.

    Example:
        Frames of a video, boxes from a table; a list of pairs does as well::

            class Frames:
                def __len__(self) -> int:
                    return len(TABLE)

                def __getitem__(self, index: int):
                    image = read_frame(index)  # (height, width, 3) uint8, BGR as OpenCV reads it
                    boxes = TABLE[index]  # class, cx, cy, w, h in shares of the image: [[0, 0.5, 0.5, 0.2, 0.4]]
                    return image, boxes

            dataset = SequenceDataset(Frames(), ["car", "bus"], image_size=640)
            for batch in train_loader(dataset, Hyp(), batch_size=16):
                ...
            evaluate(backend, dataset, batch_size=16).metrics["AP"]

    Args:
        items: item ``i`` is (image, boxes): (height, width, 3) uint8 BGR, always of the same size, and (k, 5)
            ``class, cx, cy, w, h``, normalized.
        names: class names; class ids are indices of them.
        image_size: long side of the loaded images in pixels.

    Raises:
        UserError: if an item is something else.
    """

    def __init__(self, items: Items, names: Sequence[str], *, image_size: int) -> None:
        self.items = items
        self.image_size = image_size
        self.in_memory = isinstance(items, list)
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise UserError(f"names: expected a list of class names, such as ['car', 'bus'], found {names!r}")
        if not isinstance(image_size, int) or image_size < 1:
            raise UserError(f"image_size: expected a whole number of pixels, at least 1, found {image_size!r}")
        sizes, rows = np.zeros((len(items), 2), np.int32), [np.zeros((0, 5))]
        for index in progress(range(len(items)), desc="looking at images", unit="images"):
            image, boxes = _checked_item(items[index], index)
            sizes[index] = _checked_image(image, index).shape[:2]
            rows.append(_checked_boxes(boxes, len(names), index))
        counts = np.array([len(boxes) for boxes in rows[1:]], np.int64)
        self.annotations = Annotations.of(
            tuple(names),
            tuple(range(len(names))),
            paths=[f"item {index}" for index in range(len(items))],
            sizes=sizes,
            image_ids=range(len(items)),
            truth=Truth.of_boxes(np.concatenate(rows), counts, sizes),
        )

    def __len__(self) -> int:
        return len(self.annotations)

    def load_image(self, index: int) -> NDArray[np.uint8]:
        """One image: (height, width, 3) uint8 BGR, its long side ``image_size``; shrunk by area.

        Raises:
            UserError: if it is no longer of the size it was.
        """
        image = _checked_image(_checked_item(self.items[index], index)[0], index)
        height, width = self.annotations.sizes[index].tolist()
        if image.shape[:2] != (height, width):
            raise UserError(
                f"item {index}: expected an image of {width}x{height} pixels, as it was at first, "
                f"found {image.shape[1]}x{image.shape[0]}"
            )
        return _resize(image, resized_shape((height, width), self.image_size), by_area=True)


def load_checked(dataset: Dataset, index: int) -> NDArray[np.uint8]:
    """An image of a data set, which may be anybody's.

    Raises:
        UserError: if it is not of the type and shape that :class:`Dataset` asks for.
    """
    image = dataset.load_image(index)
    height, width = dataset.annotations.sizes[index].tolist()
    shape = (*resized_shape((height, width), dataset.image_size), 3)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == shape:
        return image
    found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UserError(
        f"load_image({index}), {dataset.annotations.paths[index]}: expected an image of uint8 {shape}, found {found}"
    )


def _checked_item(item: object, index: int) -> tuple[object, ArrayLike]:
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    found = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
    raise UserError(f"item {index}: expected a pair of image and boxes, found {found}")


def _checked_image(image: object, index: int) -> NDArray[np.uint8]:
    found = type(image).__name__
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return image
        found = f"{image.dtype} {image.shape}"
    raise UserError(f"item {index}: expected an image (height, width, 3) of uint8 BGR pixels, found {found}")


def _checked_boxes(boxes: ArrayLike, num_classes: int, index: int) -> NDArray[np.float64]:
    try:
        rows = np.asarray(boxes, np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"item {index}: expected boxes (k, 5) of class, cx, cy, w, h, found rows of several lengths, or no numbers"
        ) from error
    if not rows.size:
        return np.zeros((0, 5))
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise UserError(f"item {index}: expected boxes (k, 5) of class, cx, cy, w, h, found the shape {rows.shape}")
    known = np.isin(rows[:, 0], np.arange(num_classes))
    good = known & (rows[:, 1:] >= 0).all(axis=1) & (rows[:, 1:] <= 1).all(axis=1)
    if not good.all():
        raise UserError(
            f"item {index}: expected boxes of a class id below {num_classes} and cx, cy, w, h in shares of the image, "
            f"0 to 1, found {rows[~good][0].tolist()}"
        )
    return rows


def _resize(image: NDArray[np.uint8], shape: tuple[int, int], *, by_area: bool) -> NDArray[np.uint8]:
    """Resizes; ``by_area`` averages pixels where it shrinks."""
    if image.shape[:2] == shape:
        return image
    method = cv2.INTER_AREA if by_area and max(image.shape[:2]) > max(shape) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=method), np.uint8)


def free_memory() -> int | None:
    """Bytes a program can still take, or None where that is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
