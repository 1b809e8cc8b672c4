"""Images and videos made on the spot, with a white rectangle whose place is known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BOX = (40, 20, 100, 60)


def make_image(height: int = 96, width: int = 128, *, box: tuple[int, int, int, int] = BOX) -> NDArray[np.uint8]:
    """A dark image with a white rectangle ``box`` (x1, y1, x2, y2)."""
    image = np.full((height, width, 3), (40, 30, 20), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def write_image(path: Path, image: NDArray[np.uint8] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), make_image() if image is None else image)
    return path


def write_video(
    path: Path, frames: int, *, fps: float = 25.0, size: tuple[int, int] = (128, 96), codec: str = "mp4v"
) -> Path:
    """A video of (width, height) ``size`` whose frames get brighter."""
    images = [make_image(size[1], size[0]) for _ in range(frames)]
    for i, image in enumerate(images):
        image[:8] = 10 * i % 200
    return write_frames(path, images, fps=fps, codec=codec)


def write_frames(path: Path, images: list[NDArray[np.uint8]], *, fps: float = 25.0, codec: str = "MJPG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return path


def damage_frames(path: Path, numbers: Iterable[int]) -> Path:
    """Makes frames of an AVI file that cannot be decoded, counted from 0."""
    data = bytearray(path.read_bytes())
    starts, position = [], data.find(b"movi")
    while (position := data.find(b"00dc", position)) >= 0:
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        starts.append((position + 8, size))
        position += 8 + size
    for number in numbers:
        start, size = starts[number]
        data[start : start + size] = bytes(size)
    path.write_bytes(data)
    return path


def probe_video(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Frames that can be decoded, frames a second, (width, height)."""
    capture = cv2.VideoCapture(str(path))
    fps = capture.get(cv2.CAP_PROP_FPS)
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count, fps, size
