"""Small data sets on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolorep.data.annotations import Annotations
from yolorep.data.catalog import load_data_config
from yolorep.data.scan import load_annotations

SIZES = [(40, 60), (60, 40), (50, 50), (33, 57), (64, 48), (20, 80), (41, 37), (48, 64)]


def smooth_image(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """A colourful (height, width, 3) uint8 BGR picture that survives JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def write_yolo(root: Path, *, split: str = "train", count: int = 8, suffix: str = ".png") -> Path:
    """Writes images and labels: image i has i % 4 boxes. Returns the data YAML."""
    rng = np.random.default_rng(7)
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        cv2.imwrite(str(root / "images" / split / f"{number:03}{suffix}"), smooth_image(height, width, seed=number))
        rows = [
            f"{rng.integers(3)} {x:.4f} {y:.4f} {w:.4f} {h:.4f}\n"
            for x, y, w, h in np.concatenate(
                [rng.uniform(0.3, 0.7, (number % 4, 2)), rng.uniform(0.2, 0.6, (number % 4, 2))], 1
            )
        ]
        if rows:
            (root / "labels" / split / f"{number:03}.txt").write_text("".join(rows))
    return write_yaml(root, f"{split}: images/{split}\nnames: [a, b, c]\n")


def write_yaml(root: Path, text: str) -> Path:
    path = root / "data.yaml"
    path.write_text(text)
    return path


def write_coco(root: Path, **changes: Any) -> Path:
    """Writes three images and a COCO JSON with a crowd and non-contiguous ids. Returns the data YAML."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    images = []
    for number, (height, width) in enumerate(SIZES[:3]):
        cv2.imwrite(str(root / "images" / f"{number}.png"), smooth_image(height, width, seed=number))
        images.append({"id": 700 + number, "file_name": f"{number}.png", "height": height, "width": width})
    content = {
        "images": images,
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "car"}, {"id": 44, "name": "cup"}],
        "annotations": [
            {"id": 5, "image_id": 701, "category_id": 90, "bbox": [1, 2, 10.5, 20], "area": 150.25, "iscrowd": 0},
            {"id": 9, "image_id": 700, "category_id": 3, "bbox": [5, 5, 30, 10], "area": 250.0, "iscrowd": 1},
            {"id": 7, "image_id": 700, "category_id": 44, "bbox": [50, 30, 30, 30]},
            {"id": 8, "image_id": 700, "category_id": 44, "bbox": [5, 5, 0, 4], "area": 0},
        ],
    }
    content.update(changes)
    (root / "instances.json").write_text(json.dumps(content))
    return write_yaml(root, "val: {images: images, annotations: instances.json}\n")


def load(yaml: Path, split: str = "train", **options: Any) -> Annotations:
    return load_annotations(load_data_config(yaml), split, **options)


def overwrite(file: Path) -> None:
    """Makes the content useless; size and modification time stay."""
    state = file.stat()
    file.write_bytes(b"?" * state.st_size)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


@contextmanager
def small_disk(largest: int) -> Iterator[None]:
    """Writing a file larger than so many bytes fails, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
