"""The ``train`` command."""

from __future__ import annotations

from pathlib import Path

from yolorep.options import TrainOptions
from yolorep.training.run import train


def run(options: TrainOptions) -> Path:
    """Trains a detector: :func:`yolorep.training.run.train`."""
    return train(options)
