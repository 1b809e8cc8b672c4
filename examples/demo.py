"""The whole path in a few minutes: train, evaluate, fuse, detect. ``make demo`` runs this.

Trains cfg/yolorep/n.yaml, the default model, from scratch on rendered shapes at a small size, fails unless it learned
something (AP50 >= 0.5), fuses the result, detects with it and leaves a picture of what it found.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from yolorep.cli import main
from yolorep.data.catalog import load_data_config

FOLDER = Path("runs/demo")
DATA = "data/shapes.yaml"
IMAGE_SIZE, EPOCHS = 160, "25"
WANTED_AP50 = 0.5
PICTURE_ROWS, PICTURE_COLUMNS = 3, 4


def run(*argv: str) -> None:
    """Runs a command as the shell would, and shows it; exits with its code if that is not 0."""
    print(f"\n$ yolorep {' '.join(argv)}", flush=True)
    if code := main(argv):
        sys.exit(code)


def picture(folder: Path) -> np.ndarray:
    """Puts the first annotated images side by side."""
    tile = 320
    canvas = np.full((PICTURE_ROWS * tile, PICTURE_COLUMNS * tile, 3), 255, np.uint8)
    files = sorted(folder.glob("*.jpg")) + sorted(folder.glob("*.png"))
    for index, file in enumerate(files[: PICTURE_ROWS * PICTURE_COLUMNS]):
        image = cv2.imread(str(file))
        scale = (tile - 4) / max(image.shape[:2])
        image = cv2.resize(
            image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        height, width = image.shape[:2]
        top = index // PICTURE_COLUMNS * tile + (tile - height) // 2
        left = index % PICTURE_COLUMNS * tile + (tile - width) // 2
        canvas[top : top + height, left : left + width] = image
    return canvas


def demo() -> int:
    """Returns the exit code."""
    start = time.perf_counter()
    if FOLDER.exists():  # of an earlier demo, which may have been interrupted
        shutil.rmtree(FOLDER)
    common = ("--project", str(FOLDER), "--imgsz", str(IMAGE_SIZE))
    run("train", "--data", DATA, "--epochs", EPOCHS, "--cache", "ram", "--noval", "--name", "train", *common)
    weights, fused = FOLDER / "train" / "weights" / "best.pt", FOLDER / "fused.pt"
    run("fuse", "--weights", str(weights), "--output", str(fused))
    run("val", "--weights", str(fused), "--data", DATA, "--name", "val", *common)
    ap50 = json.loads((FOLDER / "val" / "metrics.json").read_text())["AP50"]
    if ap50 < WANTED_AP50:
        print(f"\nerror: the fused model reached AP50 {ap50:.3f}, expected at least {WANTED_AP50}", file=sys.stderr)
        return 1

    # Images that training has not seen.
    images = load_data_config(DATA).images("val")
    listing = FOLDER / "images.txt"
    listing.write_text("\n".join(images[: PICTURE_ROWS * PICTURE_COLUMNS]))
    run("detect", "--weights", str(fused), "--source", str(listing), "--name", "detect", *common)
    result = FOLDER / "demo.png"
    cv2.imwrite(str(result), picture(FOLDER / "detect"))
    print(f"\nAP50 {ap50:.3f} after {time.perf_counter() - start:.0f} s; what it sees: {result}")
    return 0


if __name__ == "__main__":
    sys.exit(demo())
