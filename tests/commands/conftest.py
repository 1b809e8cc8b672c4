"""Pictures in which a backend of the tests finds everything."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

SIZES = [(240, 320), (320, 240), (300, 300), (90, 320), (480, 640), (200, 133), (33, 47)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures of many shapes, each with one white rectangle, labelled exactly."""
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        image = np.full((height, width, 3), 20, np.uint8)
        x1, y1, x2, y2 = width // 4, height // 3, width * 3 // 4, height * 2 // 3
        image[y1:y2, x1:x2] = 255
        cv2.imwrite(str(tmp_path / "data/images/val" / f"{number}.png"), image)
        row = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        (tmp_path / "data/labels/val" / f"{number}.txt").write_text(" ".join(map(str, [1, *row])))
    path = tmp_path / "data" / "data.yaml"
    path.write_text("path: .\ntrain: images/val\nval: images/val\nnames: [rectangle, square]\n")
    return path
