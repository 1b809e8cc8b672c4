"""A copy of a data set for programs that write beside their data, and boxes as they write them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from yolorep.data.annotations import Annotations
from yolorep.detections import Detections
from yolorep.errors import UserError


def copy_data(splits: Mapping[str, Annotations], folder: Path) -> Path:
    """Copies images and labels in YOLO form; image ``i`` of a split becomes ``i``, six digits.

    Images are copied, not linked: a program that repairs a damaged JPEG would write through a link.

    Args:
        splits: "train", "val", "test" -> what is known about its images.
        folder: where to; an older copy is replaced.

    Returns:
        The data YAML.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for split, known in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index, source in enumerate(known.paths):
            suffix = os.path.splitext(source)[1].lower()
            shutil.copyfile(source, folder / "images" / split / f"{index:06d}{suffix}")
            rows = known.labels(index).tolist()
            lines = [" ".join([str(int(row[0])), *(f"{value:.6f}" for value in row[1:])]) + "\n" for row in rows]
            (folder / "labels" / split / f"{index:06d}.txt").write_text("".join(lines))
    names = next(iter(splits.values())).names
    path = folder / "data.yaml"
    content = {"path": str(folder), **{split: f"images/{split}" for split in splits}, "names": list(names)}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def read_boxes(folder: Path, annotations: Annotations) -> list[Detections]:
    """Detections written as ``class cx cy w h confidence``, sides of the image being 1, a file an image of the copy.

    Args:
        folder: of the files; an image without one has no detections.
        annotations: of the split.

    Returns:
        Detections of each image of the split, boxes in its own pixels.

    Raises:
        UserError: if a file holds something else.
    """
    found = []
    for index, (height, width) in enumerate(annotations.sizes.tolist()):
        path = folder / f"{index:06d}.txt"
        if not path.is_file():
            found.append(Detections.empty())
            continue
        try:
            rows = np.array([line.split() for line in path.read_text().splitlines()], np.float64).reshape(-1, 6)
        except ValueError as error:
            raise UserError(f"{path}: expected rows of class, cx, cy, w, h, confidence ({error})") from error
        low, high = rows[:, 1:3] - rows[:, 3:5] / 2, rows[:, 1:3] + rows[:, 3:5] / 2
        xyxy = np.concatenate([low, high], axis=1) * (width, height, width, height)
        found.append(Detections(xyxy.astype(np.float32), rows[:, 5].astype(np.float32), rows[:, 0].astype(np.int64)))
    return found
