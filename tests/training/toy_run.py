"""A training run that takes a second: its model, its options, and a way to stop it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from yolorep.options import TrainOptions
from yolorep.training.trainer import Trainer
from yolorep.weights.load import load_checkpoint

MODEL = {
    "nc": 2,
    "anchors": [[16, 16, 24, 24], [32, 32, 48, 48]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


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


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int, error: BaseException) -> None:
    original = Trainer.train_step

    def step(self: Trainer, batch: object, number: int, *, last: bool) -> dict[str, float]:
        if number == iteration:
            raise error
        return original(self, batch, number, last=last)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", step)
