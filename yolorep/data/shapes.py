"""A small detection data set, drawn instead of downloaded: coloured shapes on textured backgrounds.

Every image depends on the options and its own number only, so every machine draws the same data set.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yolorep.config import cache_dir
from yolorep.console import progress
from yolorep.errors import UserError, suggest

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Field2D = NDArray[np.float32]

#: Raise it when the drawing changes: data sets drawn before are then left alone and a new one is drawn.
_VERSION = 1
_SPLITS = ("train", "val")
#: Fixed-point bits of polygon corners: shapes are placed to 1/16 pixel.
_SHIFT = 4
#: Least share of a shape that lies inside the image.
_MIN_INSIDE = 0.7
#: Least distance in RGB between a shape and what it lies on.
_MIN_CONTRAST = 90.0
#: Radius of the largest shapes, as a share of the image's long side.
_LARGEST = 0.26


class ShapesOptions(BaseModel):
    """What the ``generate`` key of a data YAML says.

    Attributes:
        train, val: images of each split.
        image_size: long side in pixels.
        objects: at most, in an image.
        smallest: radius of the smallest shapes, as a share of the long side.
        visible: least share of a shape that others and the image's edge leave visible.
        seed: of the random numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: int = Field(default=512, ge=1, le=1_000_000)
    val: int = Field(default=128, ge=1, le=1_000_000)
    image_size: int = Field(default=320, ge=64, le=2048)
    objects: int = Field(default=9, ge=2, le=100)
    smallest: float = Field(default=0.025, ge=0.01, lt=_LARGEST)
    visible: float = Field(default=0.55, ge=0.1, le=1)
    seed: int = Field(default=0, ge=0)


def parse_shapes(value: Any, faults: list[str]) -> ShapesOptions | None:
    """Checks the ``generate`` key; what is wrong is appended to ``faults``."""
    if not isinstance(value, dict):
        faults.append(f"generate: expected a mapping of {', '.join(ShapesOptions.model_fields)}, found {value!r}")
        return None
    try:
        return ShapesOptions.model_validate(value)
    except ValidationError as error:
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            if fault["type"] == "extra_forbidden":
                faults.append(f"generate.{key}: unknown key{suggest(key, ShapesOptions.model_fields)}")
            else:
                faults.append(f"generate.{key}: {fault['msg']}, found {fault['input']!r}")
        return None


def _regular(corners: int, turn: float = 0.0) -> Points:
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Points:
    points = _regular(10, -math.pi / 2)
    points[1::2] *= 0.42
    return points


def _cross() -> Points:
    arm = 0.34
    quarter = np.array([[arm, -arm], [arm, -1.0], [-arm, -1.0]])
    turns = [np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in -np.pi / 2 * np.arange(4)]
    return np.concatenate([quarter @ turn.T for turn in turns])


#: Class name -> outline within the unit circle.
OUTLINES: dict[str, Callable[[], Points]] = {
    "circle": lambda: _regular(64),
    "square": lambda: _regular(4, math.pi / 4),
    "triangle": lambda: _regular(3, -math.pi / 2),
    "star": _star,
    "cross": _cross,
}


def render_shapes(options: ShapesOptions) -> Path:
    """Returns the folder of the data set (``images/`` and ``labels/``) in the cache directory, drawn if missing.

    Raises:
        UserError: if the cache directory cannot be written.
    """
    state = f"{_VERSION} {options.model_dump_json()}"
    folder = cache_dir() / f"shapes-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            complete = Path(scratch) / "complete"
            for split in _SPLITS:
                _render_split(complete, split, options)
            complete.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); set YOLOREP_CACHE to a folder that can"
            ) from error
    return folder


def _render_split(root: Path, split: str, options: ShapesOptions) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)

    def write(number: int) -> None:
        image, rows = render_image(options, split, number)
        # PNG would be five times the size, mostly noise.
        complete, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        assert complete
        (images / f"{number:06}.jpg").write_bytes(encoded.tobytes())
        lines = [f"{int(row[0])} {row[1]:.6f} {row[2]:.6f} {row[3]:.6f} {row[4]:.6f}\n" for row in rows]
        (labels / f"{number:06}.txt").write_text("".join(lines), encoding="utf-8")

    count = getattr(options, split)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in progress(pool.map(write, range(count)), total=count, desc=f"drawing shapes {split}", unit="images"):
            pass


def render_image(options: ShapesOptions, split: str, number: int) -> tuple[Image, NDArray[np.float64]]:
    """Draws one image.

    Args:
        options: of the data set.
        split: "train" or "val".
        number: of the image.

    Returns:
        ((height, width, 3) uint8 BGR; (k, 5) ``class, cx, cy, w, h`` of what is visible of each shape, normalized).
    """
    rng = np.random.default_rng([options.seed, _SPLITS.index(split), number])
    side = options.image_size
    short = int(side * rng.choice([1.0, 0.75, 0.75, 0.625]))
    height, width = (side, short) if rng.random() < 0.3 else (short, side)
    image = _background(rng, height, width)
    owner = np.full((height, width), -1, np.int16)
    classes: list[int] = []
    whole = np.zeros(0)  # pixels of each shape when it was drawn
    seen = np.zeros(0)  # and those that are still visible
    # Large ones first: they would hide the small ones.
    wanted = rng.integers(2, options.objects + 1)
    radii = np.sort(side * np.exp(rng.uniform(math.log(options.smallest), math.log(_LARGEST), wanted)))[::-1]
    for radius in radii:
        for _ in range(8):  # attempts at a place where nothing gets hidden
            class_id = int(rng.integers(len(OUTLINES)))
            mask, left, top, share = _outline_mask(rng, class_id, radius, (height, width))
            window = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
            inside = mask > 127
            hidden = np.bincount(owner[window][inside] + 1, minlength=len(classes) + 1)[1:]
            if share < max(_MIN_INSIDE, options.visible) or (seen - hidden < options.visible * whole).any():
                continue
            image[window] = _painted(rng, image[window], mask, inside)
            owner[window][inside] = len(classes)
            classes.append(class_id)
            whole, seen = np.append(whole, inside.sum()), np.append(seen - hidden, inside.sum())
            break
    rows = np.zeros((len(classes), 5))
    for index, class_id in enumerate(classes):
        left, top, box_width, box_height = cv2.boundingRect((owner == index).astype(np.uint8))
        centre_x, centre_y = left + box_width / 2, top + box_height / 2
        rows[index] = class_id, centre_x / width, centre_y / height, box_width / width, box_height / height
    return _finish(rng, image), rows


def _outline_mask(
    rng: np.random.Generator, class_id: int, radius: float, shape: tuple[int, int]
) -> tuple[Image, int, int, float]:
    """Draws a turned, slightly squeezed outline at a random place of an image of this shape.

    Returns:
        (antialiased mask of the part inside the image, its left, its top, share of the outline's area inside).
    """
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    squeeze = np.array([1.0, rng.uniform(0.8, 1.0)])
    points = (list(OUTLINES.values())[class_id]() * squeeze) @ turn.T * radius
    points += rng.uniform(0, 1, 2) * (shape[1], shape[0])
    limit = np.array([shape[1], shape[0]])
    left, top = np.floor(points.min(axis=0)).astype(int).clip(0, limit - 1).tolist()
    right, bottom = np.ceil(points.max(axis=0) + 1).astype(int).clip(1, limit).tolist()
    mask = np.zeros((bottom - top, right - left), np.uint8)
    fixed = np.round((points - (left, top)) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
    return mask, left, top, float((mask > 127).sum() / cv2.contourArea(points.astype(np.float32)))


def _painted(rng: np.random.Generator, below: Image, mask: Image, inside: NDArray[np.bool_]) -> Image:
    """Fills a mask with a shaded colour that stands out, sometimes striped or with a rim."""
    mean = below[inside].mean(axis=0)
    colour = rng.uniform(0, 255, 3)
    for _ in range(20):
        if np.linalg.norm(colour - mean) >= _MIN_CONTRAST:
            break
        colour = rng.uniform(0, 255, 3)
    height, width = mask.shape
    slope = rng.uniform(-20, 20, 2)
    shade = np.linspace(-slope[0], slope[0], width) + np.linspace(-slope[1], slope[1], height)[:, None]
    if rng.random() < 0.25:
        shade += 16 * np.sign(_waves(rng, height, width, period=rng.uniform(6, 16)))
    fill = colour + shade[..., None]
    if rng.random() < 0.35:
        rim = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        rim = mask - cv2.erode(rim, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
        fill[rim > 127] = 20.0 if colour.mean() > 127 else 235.0
    alpha = mask[..., None] / np.float32(255)
    return _to_uint8(below * (1 - alpha) + fill * alpha)


def _waves(rng: np.random.Generator, height: int, width: int, *, period: float) -> Field2D:
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi / period
    x = np.arange(width, dtype=np.float32) * np.float32(frequency * math.cos(angle))
    y = np.arange(height, dtype=np.float32) * np.float32(frequency * math.sin(angle))
    return np.asarray(np.sin(x + (y + np.float32(rng.uniform(0, 6)))[:, None]), np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int, *, cells: int) -> NDArray[np.float32]:
    """Smooth colour noise of about ``cells`` blobs a side, -1 to 1."""
    coarse = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))


def _background(rng: np.random.Generator, height: int, width: int) -> Image:
    """A random colour with clouds of several sizes and, often, stripes, a checkerboard or thin lines."""
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = rng.uniform(50, 205, 3)
    for cells, strength in ((4, 45), (12, 22), (48, 14)):
        canvas += np.float32(strength * rng.uniform(0.4, 1.0)) * _clouds(rng, height, width, cells=cells)
    pattern = rng.integers(4)
    if pattern == 0:
        canvas += np.float32(rng.uniform(6, 20)) * _waves(rng, height, width, period=rng.uniform(12, 60))[..., None]
    elif pattern == 1:
        first = _waves(rng, height, width, period=rng.uniform(24, 80))
        second = _waves(rng, height, width, period=rng.uniform(24, 80))
        canvas += np.float32(rng.uniform(5, 14)) * np.sign(first * second)[..., None]
    image = _to_uint8(canvas)
    if pattern == 2:
        for start, end in rng.uniform(-0.2, 1.2, (rng.integers(3, 9), 2, 2)) * (width, height):
            colour = np.clip(image.mean(axis=(0, 1)) + rng.uniform(-70, 70, 3), 0, 255).tolist()
            ends = [tuple(np.round(point).astype(int).tolist()) for point in (start, end)]
            cv2.line(image, ends[0], ends[1], colour, int(rng.integers(1, 3)), cv2.LINE_AA)
    return image


def _finish(rng: np.random.Generator, image: Image) -> Image:
    """What a camera adds: a little blur and grain."""
    if rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9)), np.uint8)
    grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 7))
    return _to_uint8(image + grain)


def _to_uint8(values: NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(values, 0, 255), np.uint8)
