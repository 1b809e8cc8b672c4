"""What is known about the images of one split: files, sizes, boxes. Flat arrays only, however many images there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Ids below it fit 64 bits.
ID_LIMIT = 2**63


class FlatStrings:
    """An immutable list of strings in two arrays.

    A Python list of a million strings would slowly be copied into every forked worker, because reading an object writes
    its reference count.
    """

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.data = data
        self.offsets = offsets

    @classmethod
    def of(cls, strings: Iterable[str]) -> FlatStrings:
        """Packs strings (file names with undecodable bytes included)."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} strings")
        index %= len(self)
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Truth:
    """Every annotated object in pixels, crowds and degenerate boxes included: what detections are scored against.

    Attributes:
        image: (m,) int64 index of the object's image, ascending.
        class_id: (m,) int64 index into the names.
        xywh: (m, 4) float64 left, top, width, height in pixels.
        area: (m,) float64 pixels.
        crowd: (m,) bool.
    """

    image: NDArray[np.int64]
    class_id: NDArray[np.int64]
    xywh: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    @classmethod
    def of_boxes(cls, boxes: NDArray[np.float64], counts: NDArray[np.int64], sizes: NDArray[np.int32]) -> Truth:
        """Objects of which nothing but the box is known: none is a crowd, and the area is the box's.

        Args:
            boxes: (m, 5) ``class, cx, cy, w, h``, normalized, those of an image together.
            counts: (n,) boxes of each image.
            sizes: (n, 2) height and width of the images in pixels.
        """
        image = np.repeat(np.arange(len(counts)), counts)
        scale = sizes[image][:, ::-1].astype(np.float64)
        size = boxes[:, 3:] * scale
        return cls(
            image=image,
            class_id=boxes[:, 0].astype(np.int64),
            xywh=np.concatenate([boxes[:, 1:3] * scale - size / 2, size], axis=1),
            area=size.prod(axis=1),
            crowd=np.zeros(len(boxes), bool),
        )

    def of_images(self, chosen: NDArray[np.bool_]) -> Truth:
        """The objects of the images for which ``chosen`` is true, and which are numbered without the others."""
        keep = chosen[self.image]
        return Truth(
            image=(np.cumsum(chosen) - 1)[self.image[keep]],
            class_id=self.class_id[keep],
            xywh=self.xywh[keep],
            area=self.area[keep],
            crowd=self.crowd[keep],
        )


@dataclass(frozen=True)
class Annotations:
    """One split of a data set.

    Attributes:
        names: class names.
        category_ids: the data set's own id of each class, used in saved detections.
        paths: image files.
        sizes: (n, 2) int32 height and width in pixels, EXIF orientation applied.
        image_ids: the data set's own ids: (n,) int64, or strings, also for numbers that do not fit.
        boxes: (k, 5) float32 training boxes ``class, cx, cy, w, h``, normalized to the image, no crowds.
        offsets: (n + 1,) int64; image ``i`` has ``boxes[offsets[i]:offsets[i + 1]]``.
        truth: what detections are scored against.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    paths: FlatStrings
    sizes: NDArray[np.int32]
    image_ids: NDArray[np.int64] | FlatStrings
    boxes: NDArray[np.float32]
    offsets: NDArray[np.int64]
    truth: Truth

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        category_ids: tuple[int, ...],
        *,
        paths: Iterable[str],
        sizes: NDArray[np.int32],
        image_ids: Sequence[int | str],
        truth: Truth,
    ) -> Annotations:
        """Derives the training boxes from the truth: no crowds, clipped to the image, nothing without an area."""
        height_width = sizes[truth.image].astype(np.float64)
        whole = height_width[:, ::-1]
        low = np.clip(truth.xywh[:, :2] / whole, 0, 1)
        high = np.clip((truth.xywh[:, :2] + truth.xywh[:, 2:]) / whole, 0, 1)
        boxes = np.concatenate([truth.class_id[:, None], (low + high) / 2, high - low], axis=1).astype(np.float32)
        keep = ~truth.crowd & (boxes[:, 3:] > 0).all(axis=1)
        counts = np.bincount(truth.image[keep], minlength=len(sizes))
        numeric = all(isinstance(image_id, int) and -ID_LIMIT <= image_id < ID_LIMIT for image_id in image_ids)
        return cls(
            names=names,
            category_ids=category_ids,
            paths=FlatStrings.of(paths),
            sizes=sizes,
            image_ids=np.array(image_ids, np.int64) if numeric else FlatStrings.of(map(str, image_ids)),
            boxes=boxes[keep],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            truth=truth,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, index: int) -> NDArray[np.float32]:
        """Training boxes of one image: (k, 5) float32 ``class, cx, cy, w, h``, normalized."""
        return self.boxes[self.offsets[index] : self.offsets[index + 1]]

    def image_id(self, index: int) -> int | str:
        """The data set's own id of an image."""
        image_id = self.image_ids[index]
        return image_id if isinstance(image_id, str) else int(image_id)

    def single_class(self) -> Annotations:
        """The same boxes, all of one class: ``item``, or the only name there was."""
        boxes = self.boxes.copy()
        boxes[:, 0] = 0
        return replace(
            self,
            names=self.names if len(self.names) == 1 else ("item",),
            category_ids=self.category_ids[:1],
            boxes=boxes,
            truth=replace(self.truth, class_id=np.zeros_like(self.truth.class_id)),
        )

    def ground_truth(self) -> dict[str, Any]:
        """The truth as a COCO data set, for pycocotools. Ids of images and categories are the data set's own."""
        image_ids = [self.image_id(index) for index in range(len(self))]
        truth = self.truth
        return {
            "info": {},
            "licenses": [],
            "images": [
                {"id": image_id, "file_name": path, "height": height, "width": width}
                for image_id, path, (height, width) in zip(image_ids, self.paths, self.sizes.tolist(), strict=True)
            ],
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self.category_ids, self.names, strict=True)
            ],
            "annotations": [
                # Counted from 1: pycocotools takes an annotation with id 0 for "not matched".
                {
                    "id": number,
                    "image_id": image_ids[image],
                    "category_id": self.category_ids[class_id],
                    "bbox": xywh,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                for number, (image, class_id, xywh, area, crowd) in enumerate(
                    zip(
                        truth.image.tolist(),
                        truth.class_id.tolist(),
                        truth.xywh.tolist(),
                        truth.area.tolist(),
                        truth.crowd.tolist(),
                        strict=True,
                    ),
                    start=1,
                )
            ],
        }
