"""The ``train`` command."""

from __future__ import annotations

from yolorep.options import TrainOptions
from yolorep.training.run import TrainResult, train


def run(options: TrainOptions) -> TrainResult:
    """Trains a detector: :func:`yolorep.training.run.train`."""
    return train(options)
