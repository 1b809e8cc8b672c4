"""Recipes: reading them, and what one comes to for a data set and a number of epochs, in words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import create_model

from yolorep.config import Hyp, Recipe, find_config, load_yaml, validate
from yolorep.console import say
from yolorep.models.heads.base import DetectionHead
from yolorep.training.optim import Schedule
from yolorep.training.task import HEADS, HeadTraining


def load_hyp(name: str | Path, *, heads: Mapping[type[DetectionHead], HeadTraining] = HEADS) -> Hyp:
    """Reads a recipe, one flat YAML for whatever head is trained: YOLOv5's files serve every kind.

    Args:
        name: The file.
        heads: The kinds of heads, whose keys it may hold.

    Returns:
        An instance of :class:`Hyp` and at once of every head's own class of keys.

    Raises:
        UserError: listing every unknown key and impossible value.
    """
    path = find_config(name, "hyp")
    parts: tuple[type[Recipe], ...] = (Hyp, *dict.fromkeys(row.keys for row in heads.values()))
    hyp = validate(_side_by_side(parts), load_yaml(path), source=path)
    for key, why in (item for part in parts for item in part.ignored.items()):
        if value := getattr(hyp, key):
            say(f"{path}: {key} {value:g} is ignored: {why}")
    assert isinstance(hyp, Hyp)
    return hyp


class _AllKeys(Recipe):
    """What the schema of a whole file adds to its parts: it is pickled as these, for it has no name to be found by."""

    def __reduce__(self) -> tuple[Callable[..., Recipe], tuple[Any, ...]]:
        return _restored, (type(self).__bases__[:0:-1], self.model_dump())


@functools.cache
def _side_by_side(parts: tuple[type[Recipe], ...]) -> type[Recipe]:
    """All parts' keys in one schema, in their order, which is the reverse of the bases'."""
    return create_model("Hyp", __base__=(_AllKeys, *reversed(parts)))


def _restored(parts: tuple[type[Recipe], ...], values: Mapping[str, Any]) -> Recipe:
    return _side_by_side(parts)(**values)


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
