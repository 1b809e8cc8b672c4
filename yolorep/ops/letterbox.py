"""Letterboxing: fit an image into a shape with grey borders, and map boxes there and back exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.defaults import IMAGE_SIZE
from yolorep.limits import LARGEST_IMAGE_SIZE

BORDER = 114
Shape = tuple[int, int]
#: How large images are wanted: their long side in pixels, or the (height, width) that they are fitted into.
Size = int | Shape


@dataclass(frozen=True)
class Geometry:
    """How a network wants its images, unless told otherwise: what its weights remember of their training.

    Attributes:
        image_size: long side in pixels; None if nobody knows.
        pad: strides added to the rectangles that evaluation uses, as ``rect_shape`` takes them.
    """

    image_size: int | None = None
    pad: float = 0.5

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image size: expected at least 1 pixel, found {self.image_size}")
        if not 0 <= self.pad < math.inf:
            raise ValueError(f"pad: expected at least 0 strides, found {self.pad}")

    def size(self, asked: Size | None = None) -> Size:
        """The size asked for; else the one that is remembered, or else :data:`yolorep.defaults.IMAGE_SIZE`."""
        return next(size for size in (asked, self.image_size, IMAGE_SIZE) if size is not None)


def is_geometry(value: Any) -> bool:
    """Whether a file's value is the attributes of a :class:`Geometry`."""
    try:
        geometry = Geometry(**value)
    except (TypeError, ValueError):
        return False
    size, pad = geometry.image_size, geometry.pad
    return type(pad) in (int, float) and (size is None or (type(size) is int and size <= LARGEST_IMAGE_SIZE))


def round_up(size: int, stride: int) -> int:
    """The smallest multiple of ``stride`` that is not below ``size``."""
    return math.ceil(size / stride) * stride


def bounds(size: Size) -> Shape:
    """The (height, width) that images are fitted into: of a long side, a square."""
    return (size, size) if isinstance(size, int) else size


def rect_shape(source: Shape, image_size: Size, stride: int, *, pad: float = 0.5) -> Shape:
    """The rectangular network input for an image: about ``image_size``, both sides multiples of ``stride``.

    Args:
        source: (height, width) of the image.
        image_size: wanted long side in pixels, or (height, width) to fit it into.
        stride: largest stride of the network.
        pad: in strides, added before rounding up. Evaluation uses 0.5 as YOLOv5 does (a square image at 640 becomes
            672), detection 0.
    """
    most = bounds(image_size)
    gain = min(most[0] / source[0], most[1] / source[1])
    # Rounded to 1e-9 strides first: 480 * (640/640) / 32 must not become 16 through float noise.
    height, width = (max(math.ceil(round(side * gain / stride + pad, 9)), 1) * stride for side in source)
    return height, width


@dataclass(frozen=True)
class LetterBox:
    """How one image sits inside a network input.

    Attributes:
        source: (height, width) of the image in pixels.
        target: (height, width) of the network input.
        resized: (height, width) of the image inside it.
        top: rows of border above the image.
        left: columns of border left of it.
    """

    source: Shape
    target: Shape
    resized: Shape
    top: int
    left: int

    @classmethod
    def plan(cls, source: Shape, target: Shape, *, image_size: Size | None = None) -> LetterBox:
        """Fits ``source`` into ``target``, centred, aspect ratio kept.

        Args:
            source: (height, width) of the image.
            target: (height, width) of the network input.
            image_size: the image grows no further than this, so that the border which ``rect_shape`` adds for
                evaluation stays a border.
        """
        most = bounds(image_size) if image_size is not None else target
        gain = min(min(target[i], most[i]) / source[i] for i in (0, 1))
        resized = min(round(source[0] * gain), target[0]), min(round(source[1] * gain), target[1])
        resized = max(resized[0], 1), max(resized[1], 1)
        # Rounding half a pixel down puts the odd border row below and to the right, as YOLOv5 does.
        top = round((target[0] - resized[0]) / 2 - 0.1)
        left = round((target[1] - resized[1]) / 2 - 0.1)
        return cls(source, target, resized, top, left)

    def apply(self, image: NDArray[np.uint8], *, shrink: int = cv2.INTER_LINEAR) -> NDArray[np.uint8]:
        """Resizes and pads an image.

        Args:
            image: (height, width, channels) uint8 of shape ``source``, or already ``resized``.
            shrink: interpolation for shrinking (enlarging is always bilinear).

        Returns:
            (target height, target width, channels) uint8.
        """
        if image.shape[:2] != self.resized:
            method = shrink if max(self.resized) < max(self.source) else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, self.resized[::-1], interpolation=method), dtype=np.uint8)
        canvas = np.full((*self.target, image.shape[2]), BORDER, np.uint8)
        canvas[self.top : self.top + self.resized[0], self.left : self.left + self.resized[1]] = image
        return canvas

    def boxes(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps (n, 4) boxes from source pixels to network-input pixels."""
        return np.asarray(xyxy * self._gain() + self._offset(), np.float32)

    def undo(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps (n, 4) boxes from network-input pixels to source pixels, clipped to the image."""
        boxes = (xyxy - self._offset()) / self._gain()
        height, width = self.source
        return np.asarray(np.clip(boxes, 0, np.array([width, height, width, height], np.float32)), np.float32)

    def _gain(self) -> NDArray[np.float32]:
        # Per axis: rounding to whole pixels makes them differ a little.
        y, x = self.resized[0] / self.source[0], self.resized[1] / self.source[1]
        return np.array([x, y, x, y], np.float32)

    def _offset(self) -> NDArray[np.float32]:
        return np.array([self.left, self.top, self.left, self.top], np.float32)
