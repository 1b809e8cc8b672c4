"""The whole path in a few minutes: train, evaluate, fuse, detect. ``make demo`` runs this.

Trains cfg/yolorep/n.yaml, the default model, from scratch on the rendered shapes of demo.yaml at a small size, fails
unless it learned to tell them apart (AP50 >= 0.9), fuses the result, detects with it at the confidence that val found
best and leaves a picture of what it sees in images that training has not seen.
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
DATA = str(Path(__file__).with_name("demo.yaml"))
#: Looked at a little larger than in training, images show more of small shapes.
TRAIN_SIZE, IMAGE_SIZE = "128", "160"
EPOCHS = "30"
WANTED_AP50 = 0.9
PICTURE_ROWS, PICTURE_COLUMNS = 2, 3


def run(*argv: str) -> None:
    """Runs a command as the shell would, and shows it; exits with its code if that is not 0."""
    print(f"\n$ yolorep {' '.join(argv)}", flush=True)
    if code := main(argv):
        sys.exit(code)


def picture(folder: Path) -> np.ndarray:
    """Puts the first annotated images side by side."""
    tile = 426
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
    project = ("--project", str(FOLDER))
    size = ("--imgsz", IMAGE_SIZE)
    training = ("--data", DATA, "--epochs", EPOCHS, "--imgsz", TRAIN_SIZE, "--cache", "ram", "--noval")
    run("train", *training, "--name", "train", *project)
    weights, fused = FOLDER / "train" / "weights" / "best.pt", FOLDER / "fused.pt"
    run("fuse", "--weights", str(weights), "--output", str(fused))
    run("val", "--weights", str(fused), "--data", DATA, *size, "--name", "val", *project)
    metrics = json.loads((FOLDER / "val" / "metrics.json").read_text())
    ap50 = metrics["AP50"]
    if ap50 < WANTED_AP50:
        print(f"\nerror: the fused model reached AP50 {ap50:.3f}, expected at least {WANTED_AP50}", file=sys.stderr)
        return 1

    images = load_data_config(DATA).images("val")
    listing = FOLDER / "images.txt"
    listing.write_text("\n".join(images[: PICTURE_ROWS * PICTURE_COLUMNS]))
    confidence = ("--conf-thres", str(metrics["best_confidence"]))
    run("detect", "--weights", str(fused), "--source", str(listing), *size, *confidence, "--name", "detect", *project)
    result = FOLDER / "demo.jpg"
    cv2.imwrite(str(result), picture(FOLDER / "detect"), [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(f"\nAP50 {ap50:.3f} after {time.perf_counter() - start:.0f} s; what it sees: {result}")
    return 0


if __name__ == "__main__":
    sys.exit(demo())
