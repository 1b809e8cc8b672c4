"""A training run that takes a second: its model, its options, and a way to stop it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from yolorep.options import TrainOptions
from yolorep.training import run
from yolorep.training.trainer import Callback, Trainer
from yolorep.weights.load import load_checkpoint

MODEL = {
    "nc": 2,
    "anchors": [[16, 16, 24, 24], [32, 32, 48, 48]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


def write_toy_data(folder: Path) -> None:
    """Writes model.yaml, data.yaml and its few small images into a folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for index in range(count):
            image = np.full((64, 64, 3), 40, np.uint8)
            x, y, kind = rng.integers(0, 32), rng.integers(0, 32), rng.integers(0, 2)
            image[y : y + 30, x : x + 30, kind] = 250
            cv2.imwrite(str(folder / "images" / split / f"{index}.png"), image)
            row = f"{kind} {(x + 15) / 64} {(y + 15) / 64} {30 / 64} {30 / 64}\n"
            (folder / "labels" / split / f"{index}.txt").write_text(row)
    (folder / "model.yaml").write_text(yaml.safe_dump(MODEL))
    (folder / "data.yaml").write_text("{train: images/train, val: images/val, names: [blue, green]}")


def options(work: Path, **changes: object) -> TrainOptions:
    return replace(
        TrainOptions(
            cfg=str(work / "model.yaml"),
            data=str(work / "data.yaml"),
            epochs=3,
            batch_size=2,
            imgsz=64,
            device="cpu",
            workers=0,
            project=str(work / "runs"),
        ),
        **changes,
    )


def files(folder: Path) -> list[str]:
    """Every file of a run; the event file's name holds the time."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted("events" if name.startswith("events.out") else name for name in found)


def same_weights(first: Path, second: Path) -> bool:
    one, two = (load_checkpoint(folder / "weights" / "last.pt") for folder in (first, second))
    assert one.ema is not None
    assert two.ema is not None
    return all(torch.equal(one.state_dict[name], two.state_dict[name]) for name in one.state_dict) and all(
        torch.equal(one.ema[name], two.ema[name]) for name in one.ema
    )


def train(options: TrainOptions, *callbacks: Callback, plots: bool = False) -> Path:
    """Trains without pictures, for drawing takes longer than training here; the run's folder."""
    return run.train(options, callbacks=callbacks, plots=plots).folder


class StopAfter(Callback):
    """Raises an error after the step of an iteration."""

    def __init__(self, iteration: int, error: BaseException | None = None) -> None:
        self.iteration, self.error = iteration, error or KeyboardInterrupt()

    def on_batch(self, trainer: Trainer, batch: Any, iteration: int) -> None:
        if iteration == self.iteration:
            raise self.error
