"""Images of a split, resized so that the long side is the training or evaluation size."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.config import cache_dir
from yolorep.console import progress, say
from yolorep.data.annotations import Annotations
from yolorep.data.cache import file_state
from yolorep.errors import UserError
from yolorep.images import ImageError, read_image

#: Share of the free memory a RAM cache may take.
_MEMORY_SHARE = 0.8


def resized_shape(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """(height, width) of an image whose long side becomes ``image_size``; the short side is rounded up as in YOLOv5."""
    longest = max(size)
    # In integers: 375 * (640 / 500) is a little more than 480 in floats.
    return -(-size[0] * image_size // longest), -(-size[1] * image_size // longest)


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
        self._pixels: NDArray[np.uint8] | None = None
        self._starts = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1) * 3)])
        self._folder: Path | None = None
        if cache == "ram":
            self._fill_memory()
        elif cache == "disk":
            self._fill_folder()

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return self.annotations.names

    @property
    def in_memory(self) -> bool:
        """Whether every image is kept decoded in memory."""
        return self._pixels is not None

    def labels(self, index: int) -> NDArray[np.float32]:
        """Training boxes of one image: (k, 5) float32 ``class, cx, cy, w, h``, normalized. Not to be written to."""
        return self.annotations.labels(index)

    def load_image(self, index: int) -> NDArray[np.uint8]:
        """Returns one image: (height, width, 3) uint8 BGR of shape ``self.shapes[index]``. Not to be written to.

        Raises:
            UserError: if the file no longer decodes.
        """
        if self._pixels is not None:
            return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(*self.shapes[index], 3)
        if self._folder is not None:
            file = self._disk_file(index)
            try:
                return np.asarray(np.load(file, allow_pickle=False), np.uint8)
            except (OSError, ValueError):
                pass  # removed or damaged since: only slower
        return self._decode(index)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        path = self.annotations.paths[index]
        # Bilinear sampling at one half averages 2x2 pixels, which a JPEG decoder does in less than half the time.
        ratio = int(self.annotations.sizes[index].max()) // self.image_size if self._training else 1
        try:
            image = read_image(path, shrink=max(shrink for shrink in (1, 2, 4, 8) if shrink <= max(ratio, 1)))
        except ImageError as error:
            raise UserError(f"{path}: {error}; it could be read when the data set was scanned") from error
        height, width = self.shapes[index].tolist()
        if image.shape[:2] == (height, width):
            return image
        by_area = not self._training and max(image.shape[:2]) > self.image_size
        method = cv2.INTER_AREA if by_area else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)

    def _fill_memory(self) -> None:
        needed, free = int(self._starts[-1]), _free_memory()
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
                self._store(index, file)

        self._in_threads(fill, "caching images on disk")

    def _store(self, index: int, file: Path) -> None:
        image = self._decode(index)
        temporary = file.with_name(f".{file.stem}.{os.getpid()}.{index}.npy")
        # Renamed, so that nobody reads half a file. Not fsynced: what a power cut damages is decoded again.
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(temporary, image, allow_pickle=False)
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
        state = f"{path}\0{file_state(path)} {self.image_size} {self._training}"
        key = hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
        return self._folder / key[:2] / f"{key[2:34]}.npy"

    def _in_threads(self, function: object, desc: str) -> None:
        with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
            for _ in progress(pool.map(function, range(len(self))), total=len(self), desc=desc, unit="images"):  # type: ignore[arg-type]
                pass


def _free_memory() -> int | None:
    """Bytes a program can still take, or None where that is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
