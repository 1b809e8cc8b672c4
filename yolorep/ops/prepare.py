"""From images to a network's input, and from its candidates back to the images: the only copy of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolorep.detections import Detections
from yolorep.ops.decode import Decoded
from yolorep.ops.letterbox import LetterBox
from yolorep.ops.nms import nms

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


def to_detections(
    decoded: Decoded,
    letterboxes: Sequence[LetterBox],
    *,
    confidence: float,
    iou: float | None,
    max_detections: int,
    multi_label: bool = False,
    class_agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> list[Detections]:
    """Keeps the best boxes of each image, by :func:`yolorep.ops.nms.nms`, and maps them back to its pixels.

    Args:
        decoded: candidates of a batch, boxes in pixels of the network input.
        letterboxes: how each image of the batch was placed.
        confidence, iou, max_detections, multi_label, class_agnostic, classes: as NMS takes them.

    Returns:
        One Detections an image, best first, in pixels of the image and with its size.
    """
    found = nms(
        decoded,
        confidence=confidence,
        iou=iou,
        max_detections=max_detections,
        multi_label=multi_label,
        class_agnostic=class_agnostic,
        classes=classes,
    )
    return [
        replace(detections, xyxy=box.undo(detections.xyxy), image_size=box.source)
        for detections, box in zip(found, letterboxes, strict=True)
    ]
