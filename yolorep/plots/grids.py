"""Grids of images with boxes: what the network was shown, and what it saw beside what was labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolorep.detections import Detections
from yolorep.drawing import draw
from yolorep.images import write_image
from yolorep.ops.boxes import cxcywh_to_xyxy

Image = NDArray[np.uint8]

#: Width of a grid in pixels.
GRID_SIZE = 1920


def plot_batch(images: Tensor, targets: Tensor, names: Sequence[str], out: Path) -> None:
    """Draws the first 16 images of a training batch with their targets.

    Args:
        images: (b, 3, h, w) uint8 RGB.
        targets: (n, 6) image index, class, ``cx, cy, w, h`` normalized to the image.
        names: class names.
        out: picture to write.
    """
    height, width = images.shape[2:]
    tiles, found = [], []
    for i, image in enumerate(images[:16].cpu()):
        rows = targets[targets[:, 0] == i].cpu()
        xyxy = cxcywh_to_xyxy(rows[:, 2:6]) * torch.tensor([width, height, width, height])
        tiles.append(np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
        found.append(_certain(xyxy.float().numpy(), rows[:, 1].long().numpy()))
    columns = math.ceil(math.sqrt(len(tiles)))
    side = GRID_SIZE // columns
    write_image(
        out, _grid([_tile(*pair, names, side, hide_conf=True) for pair in zip(tiles, found, strict=True)], columns)
    )


def plot_predictions(
    images: Sequence[Image],
    labels: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    predictions: Sequence[Detections],
    names: Sequence[str],
    out: Path,
) -> None:
    """Draws images twice, side by side: with their labels, and with what was detected.

    Args:
        images: BGR uint8 images, at most 8 are shown.
        labels: for each image (k, 4) xyxy boxes in its pixels and (k,) classes.
        predictions: for each image what was detected, in its pixels.
        names: class names.
        out: picture to write.
    """
    pairs = 1 if len(images) < 4 else 2  # a row
    side = GRID_SIZE // (2 * pairs)
    tiles = []
    for image, (boxes, class_ids), found in list(zip(images, labels, predictions, strict=True))[:8]:
        tiles.append(_caption(_tile(image, _certain(boxes, class_ids), names, side, hide_conf=True), "labels"))
        tiles.append(_caption(_tile(image, found, names, side, hide_conf=False), "detected"))
    write_image(out, _grid(tiles, 2 * pairs))


def _certain(boxes: NDArray[np.float32], class_ids: NDArray[np.int64]) -> Detections:
    """Labels as detections."""
    return Detections(boxes, np.ones(len(boxes), np.float32), class_ids)


def _tile(image: Image, detections: Detections, names: Sequence[str], side: int, *, hide_conf: bool) -> Image:
    """Fits an image into a square side and draws on it then, so that the text keeps its size."""
    gain = min(side / max(image.shape[:2]), 2.0)
    size = max(1, round(image.shape[1] * gain)), max(1, round(image.shape[0] * gain))
    small = np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if gain < 1 else cv2.INTER_LINEAR), np.uint8
    )
    scaled = Detections(detections.xyxy * np.float32(gain), detections.confidence, detections.class_id)
    return draw(small, scaled, names, hide_conf=hide_conf)


def _caption(tile: Image, text: str) -> Image:
    strip = np.full((24, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (60, 60, 60), 1, cv2.LINE_AA)
    return np.vstack((strip, tile))


def _grid(tiles: Sequence[Image], columns: int, gap: int = 6) -> Image:
    """Puts tiles into rows on white, each row as high as its highest tile."""
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    cell = max(tile.shape[1] for tile in tiles)
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    columns = max(len(row) for row in rows)
    canvas = np.full((sum(heights) + gap * (len(rows) + 1), columns * cell + gap * (columns + 1), 3), 255, np.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for i, tile in enumerate(row):
            left = gap + i * (cell + gap) + (cell - tile.shape[1]) // 2
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top += height + gap
    return canvas
