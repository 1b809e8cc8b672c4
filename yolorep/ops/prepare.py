"""From images to a network's input, and from what it found back to the images: the only copy of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolorep.detections import Detections
from yolorep.ops.letterbox import LetterBox

Image = NDArray[np.uint8]


def write_rgb(image: Image, out: Image) -> None:
    """Copies a (height, width, 3) BGR image into a (3, height, width) array of contiguous planes, as RGB."""
    cv2.split(image, [out[2], out[1], out[0]])


def to_tensor(images: Sequence[Image]) -> Tensor:
    """BGR images (height, width, 3) of one shape to a batch (n, 3, height, width) uint8 RGB."""
    batch = np.empty((len(images), 3, *images[0].shape[:2]), np.uint8)
    for image, out in zip(images, batch, strict=True):
        write_rgb(image, out)
    return torch.from_numpy(batch)


def letterboxed(images: Sequence[Image], letterboxes: Sequence[LetterBox]) -> Tensor:
    """BGR images, each placed by its letterbox, to a batch (n, 3, height, width) uint8 RGB.

    Args:
        images: (height, width, 3) uint8.
        letterboxes: of each image, all of one target.
    """
    return to_tensor([box.apply(image) for image, box in zip(images, letterboxes, strict=True)])


def undo_letterboxes(
    found: Sequence[Detections], letterboxes: Sequence[LetterBox], *, names: tuple[str, ...]
) -> list[Detections]:
    """Maps what was found in a batch back to the images.

    Args:
        found: of each image, boxes in pixels of the network input.
        letterboxes: how each image of the batch was placed.
        names: class names.

    Returns:
        The same in pixels of the image, with its size and the names.
    """
    return [
        replace(detections, xyxy=box.undo(detections.xyxy), names=names, image_size=box.source)
        for detections, box in zip(found, letterboxes, strict=True)
    ]
