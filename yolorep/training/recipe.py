"""What a recipe comes to for a data set and a number of epochs, in words."""

from __future__ import annotations

import torch

from yolorep.training.optim import Schedule


def mosaic_epochs(schedule: Schedule) -> int:
    """The number of epochs, the first ones, with mosaic and mixup."""
    return round((1 - schedule.hyp.close_mosaic) * schedule.epochs)


def ema_updates(schedule: Schedule) -> float:
    """The number of optimizer steps that the averaged weights span; 0 for YOLOv5's constants."""
    return schedule.hyp.ema_window * schedule.steps


def describe(schedule: Schedule, *, optimizer: torch.optim.Optimizer, autocast: torch.dtype | None) -> str:
    """One line: what adapts to the data set and the budget, worked out."""
    hyp = schedule.hyp
    window, mosaic = ema_updates(schedule), mosaic_epochs(schedule)
    return ", ".join(
        [
            f"{type(optimizer).__name__} at {hyp.lr0:g} to {hyp.lr0 * hyp.lrf:g}",
            f"{schedule.steps} steps of {schedule.accumulate * schedule.batch_size} images",
            f"the first {schedule.warmup} of {schedule.epochs * schedule.batches} iterations warm up",
            f"weights averaged over {window:.0f} steps" if window else "weights averaged as in YOLOv5",
            f"mosaic until epoch {mosaic}" if hyp.mosaic and mosaic else "no mosaic",
            f"forward in {str(autocast or torch.float32).removeprefix('torch.')}",
        ]
    )
