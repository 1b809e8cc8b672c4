"""Where the numbers of every epoch go: the results table always, and what ``--log`` names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib import import_module

from yolorep.errors import UserError, suggest
from yolorep.evaluation.metrics import METRICS
from yolorep.training.loggers.base import Logger
from yolorep.training.loggers.mlflow import MLflow
from yolorep.training.loggers.table import ResultsTable
from yolorep.training.loggers.tensorboard import TensorBoard
from yolorep.training.loggers.wandb import WandB
from yolorep.training.trainer import Callback, EpochResult, Trainer

#: By the name that ``--log`` and the extra have.
LOGGERS: dict[str, type[Logger]] = {
    "csv": ResultsTable,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def make_loggers(names: Sequence[str] | None) -> list[Logger]:
    """The results table and the loggers asked for, not yet started.

    Args:
        names: Keys of :data:`LOGGERS`; None for TensorBoard if it is installed.

    Raises:
        UserError: if there is no such logger, or what it needs is not installed.
    """
    if names is None:
        names = ["tensorboard"] if _load(TensorBoard) else []
    for name in names:
        if name not in LOGGERS:
            raise UserError(f"--log {name}: expected {', '.join(LOGGERS)}{suggest(name, LOGGERS)}")
        if not _load(LOGGERS[name]):
            raise UserError(f"--log {name}: {name} is not installed: pip install 'yolorep[{name}]'")
    return [LOGGERS[name]() for name in dict.fromkeys(["csv", *names])]


def _load(logger: type[Logger]) -> bool:
    """Imports what a logger needs, told not to call home; whether it is installed."""
    for variable, value in logger.environment.items():
        os.environ.setdefault(variable, value)
    try:
        import_module(logger.requires or __name__)
    except ImportError:
        return False
    return True


class Logs(Callback):
    """Hands every epoch's numbers to the loggers.

    Args:
        loggers: Started ones.
    """

    def __init__(self, loggers: Iterable[Logger]) -> None:
        self.loggers = list(loggers)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        """Log the epoch."""
        row = result_row(result)
        for logger in self.loggers:
            logger.epoch(row)

    def on_close(self, trainer: Trainer) -> None:
        """Close the loggers."""
        with ExitStack() as closing:  # every one, even if one fails
            for logger in reversed(self.loggers):
                closing.callback(logger.close)


def result_row(result: EpochResult) -> dict[str, float]:
    """An epoch's numbers, as exact as the table holds them."""
    values: dict[str, float] = {
        "epoch": result.epoch + 1,
        **{f"train/{term}": value for term, value in result.losses.items()},
        **{f"val/{term}": value for term, value in result.val_losses.items()},
        **{name: result.metrics[name] for name in METRICS if name in result.metrics},
        **{f"lr/{group}": value for group, value in result.learning_rates.items()},
        "seconds": round(result.seconds, 2),
    }
    return {name: float(f"{value:.6g}") for name, value in values.items()}
