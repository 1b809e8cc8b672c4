"""Augmentation as YOLOv5 does it: pure functions of images, boxes and an explicit random generator.

Images are (height, width, 3) uint8 BGR; boxes are (k, 5) float32 ``class, x1, y1, x2, y2`` in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.config import Hyp
from yolorep.ops.letterbox import BORDER, LetterBox

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Matrix = NDArray[np.float64]
Shape = tuple[int, int]

#: A box must keep these after the affine map: side in pixels, share of its area, largest aspect ratio.
_MIN_SIDE, _MIN_AREA, _MAX_ASPECT = 2.0, 0.1, 100.0


def to_pixels(labels: NDArray[np.float32], shape: Shape, left: float = 0, top: float = 0) -> Boxes:
    """Turns (k, 5) ``class, cx, cy, w, h`` normalized to an image into pixel boxes of a canvas it lies on.

    Args:
        labels: normalized labels.
        shape: (height, width) of the image on the canvas.
        left: x of the image's left edge on the canvas.
        top: y of its top edge.
    """
    height, width = shape
    boxes = np.empty_like(labels)
    boxes[:, 0] = labels[:, 0]
    half = labels[:, 3:] / 2
    scale, offset = np.array([width, height], np.float32), np.array([left, top], np.float32)
    boxes[:, 1:3] = (labels[:, 1:3] - half) * scale + offset
    boxes[:, 3:] = (labels[:, 1:3] + half) * scale + offset
    return boxes


def to_normalized(boxes: Boxes, shape: Shape) -> NDArray[np.float32]:
    """The inverse of ``to_pixels`` for an image that fills its canvas."""
    height, width = shape
    scale = np.array([width, height], np.float32)
    labels = np.empty_like(boxes)
    labels[:, 0] = boxes[:, 0]
    labels[:, 1:3] = (boxes[:, 1:3] + boxes[:, 3:]) / 2 / scale
    labels[:, 3:] = (boxes[:, 3:] - boxes[:, 1:3]) / scale
    return labels


def affine_matrix(rng: np.random.Generator, hyp: Hyp, *, source: Shape, target: Shape) -> tuple[Matrix, float]:
    """Draws the map from a canvas to the network input: rotation, scale, shear, perspective about the centre; a shift.

    Args:
        rng: source of the draw.
        hyp: ``degrees``, ``translate``, ``scale``, ``shear``, ``perspective``.
        source: (height, width) of the canvas.
        target: (height, width) of the result, cut from the middle.

    Returns:
        ((3, 3) homogeneous matrix on x, y, 1; its scale).
    """
    degrees, scale = rng.uniform(-hyp.degrees, hyp.degrees), rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    centre = np.eye(3)
    centre[0, 2], centre[1, 2] = -source[1] / 2, -source[0] / 2
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-hyp.perspective, hyp.perspective, 2)
    angle = math.radians(degrees)
    rotation = np.eye(3)
    # Counter-clockwise on the screen, whose y axis points down.
    rotation[:2, :2] = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-hyp.shear, hyp.shear, 2)))
    shift = np.eye(3)
    shift[:2, 2] = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * (target[1], target[0])
    return shift @ shear @ rotation @ perspective @ centre, scale


def warp(image: Image, matrix: Matrix, target: Shape) -> Image:
    """Maps an image by a (3, 3) matrix into shape ``target``; what lies outside becomes grey."""
    size, border = (target[1], target[0]), (BORDER, BORDER, BORDER)
    if matrix[2, 0] or matrix[2, 1]:
        warped = cv2.warpPerspective(image, matrix, size, borderValue=border)
    else:
        warped = cv2.warpAffine(image, matrix[:2], size, borderValue=border)
    return np.asarray(warped, np.uint8)


def warp_boxes(boxes: Boxes, matrix: Matrix, scale: float, target: Shape) -> Boxes:
    """Maps boxes: the box around the four mapped corners, clipped; one of which too little is left is dropped.

    Args:
        boxes: on the canvas.
        matrix: (3, 3).
        scale: of the matrix: a box is compared with its area before, times the square of this.
        target: (height, width) of the result.
    """
    if not len(boxes):
        return boxes
    corners = np.ones((len(boxes), 4, 3))
    corners[:, :, :2] = boxes[:, [1, 2, 3, 4, 1, 4, 3, 2]].reshape(-1, 4, 2)
    corners = corners @ matrix.T
    points = corners[:, :, :2] / corners[:, :, 2:]
    limit = np.array([target[1], target[0]])
    low, high = points.min(axis=1).clip(0, limit), points.max(axis=1).clip(0, limit)
    before, after = (boxes[:, 3:] - boxes[:, 1:3]) * scale, high - low
    aspect = np.maximum(after[:, 0] / (after[:, 1] + 1e-16), after[:, 1] / (after[:, 0] + 1e-16))
    keep = (
        (after > _MIN_SIDE).all(axis=1)
        & (after.prod(axis=1) > _MIN_AREA * (before.prod(axis=1) + 1e-16))
        & (aspect < _MAX_ASPECT)
    )
    return np.asarray(np.concatenate([boxes[:, :1], low, high], axis=1)[keep], np.float32)


def visible_window(matrix: Matrix, canvas: Shape, target: Shape) -> tuple[int, int, int, int]:
    """The part of a canvas that a map shows: x1, y1, x2, y2 in whole pixels, with a margin for interpolation."""
    height, width = target
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ np.linalg.inv(matrix).T
    if (corners[:, 2] <= 0).any():  # the horizon of a strong perspective lies inside
        return 0, 0, canvas[1], canvas[0]
    points = corners[:, :2] / corners[:, 2:]
    x1, y1 = np.floor(points.min(axis=0)).astype(int) - 2
    x2, y2 = np.ceil(points.max(axis=0)).astype(int) + 2
    return (
        min(max(x1, 0), canvas[1] - 1),
        min(max(y1, 0), canvas[0] - 1),
        max(min(x2, canvas[1]), 1),
        max(min(y2, canvas[0]), 1),
    )


def mosaic(
    load_image: Callable[[int], Image],
    shapes: Sequence[Shape],
    labels: Sequence[NDArray[np.float32]],
    rng: np.random.Generator,
    hyp: Hyp,
    *,
    image_size: int,
) -> tuple[Image, Boxes]:
    """Four images around a random centre, then a random affine map that cuts out ``image_size`` square.

    The canvas is twice as large as the result, but only the part of it that the map shows is painted, and an image
    outside that part is not even loaded.

    Args:
        load_image: image 0 to 3; its shape is given by ``shapes``.
        shapes: (height, width) of the four, in the order top left, top right, bottom left, bottom right.
        labels: of the four, normalized.
        rng: source of all draws.
        hyp: parameters of the affine map.
        image_size: side of the result.
    """
    side = 2 * image_size
    centre_x, centre_y = rng.uniform(image_size / 2, 1.5 * image_size, 2).astype(int).tolist()
    matrix, scale = affine_matrix(rng, hyp, source=(side, side), target=(image_size, image_size))
    x1, y1, x2, y2 = visible_window(matrix, (side, side), (image_size, image_size))
    canvas = np.full((y2 - y1, x2 - x1, 3), BORDER, np.uint8)
    boxes = []
    for position, ((height, width), label) in enumerate(zip(shapes, labels, strict=True)):
        left = centre_x - width if position % 2 == 0 else centre_x
        top = centre_y - height if position < 2 else centre_y
        boxes.append(to_pixels(label, (height, width), left, top))
        # Corners of what is seen of this image, on the canvas.
        from_x, to_x = max(left, x1), min(left + width, x2)
        from_y, to_y = max(top, y1), min(top + height, y2)
        if from_x < to_x and from_y < to_y:
            part = load_image(position)[from_y - top : to_y - top, from_x - left : to_x - left]
            canvas[from_y - y1 : to_y - y1, from_x - x1 : to_x - x1] = part
    all_boxes = np.concatenate(boxes)
    all_boxes[:, 1:] = all_boxes[:, 1:].clip(0, side)
    shown = matrix @ np.array([[1, 0, x1], [0, 1, y1], [0, 0, 1]])
    target = (image_size, image_size)
    return warp(canvas, shown, target), warp_boxes(all_boxes, matrix, scale, target)


def letterbox_affine(
    image: Image, label: NDArray[np.float32], rng: np.random.Generator, hyp: Hyp, *, target: Shape
) -> tuple[Image, Boxes]:
    """One image, letterboxed into ``target`` and mapped at random about its centre."""
    box = LetterBox.plan((image.shape[0], image.shape[1]), target)
    boxes = to_pixels(label, box.resized, box.left, box.top)
    matrix, scale = affine_matrix(rng, hyp, source=target, target=target)
    image = box.apply(image)
    if not np.array_equal(matrix, np.eye(3)):
        image = warp(image, matrix, target)
    return image, warp_boxes(boxes, matrix, scale, target)


def mixup(first: Image, second: Image, rng: np.random.Generator) -> Image:
    """Blends two images of equal shape with a weight near one half; their boxes are simply joined."""
    weight = float(rng.beta(32.0, 32.0))
    return np.asarray(cv2.addWeighted(first, weight, second, 1 - weight, 0.0), np.uint8)


def random_hsv(image: Image, rng: np.random.Generator, hyp: Hyp) -> Image:
    """Scales hue, saturation and value by random gains in 1 ± ``hsv_h``, ``hsv_s``, ``hsv_v``."""
    if not (hyp.hsv_h or hyp.hsv_s or hyp.hsv_v):
        return image
    gains = rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v) + 1
    levels = np.arange(256)[:, None] * gains
    levels[:, 0] %= 180
    table = levels.clip(0, 255).astype(np.uint8)[None]
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR), np.uint8)


def random_flips(image: Image, boxes: Boxes, rng: np.random.Generator, hyp: Hyp) -> tuple[Image, Boxes]:
    """Turns an image upside down with probability ``flipud`` and left to right with probability ``fliplr``."""
    height, width = image.shape[:2]
    up_down, left_right = rng.random(2) < (hyp.flipud, hyp.fliplr)
    boxes = boxes.copy()
    if up_down:
        image = np.asarray(cv2.flip(image, 0), np.uint8)
        boxes[:, [2, 4]] = height - boxes[:, [4, 2]]
    if left_right:
        image = np.asarray(cv2.flip(image, 1), np.uint8)
        boxes[:, [1, 3]] = width - boxes[:, [3, 1]]
    return image, boxes
