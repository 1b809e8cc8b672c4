"""Where the numbers of every epoch go: the results table, TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolorep.evaluation.metrics import METRICS
from yolorep.files import write_text
from yolorep.training.trainer import Callback, EpochResult, Trainer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def result_row(result: EpochResult) -> dict[str, str]:
    """One epoch as a row of ``results.csv``; epochs count from 1, and what was not measured stays empty."""
    values: dict[str, float] = {
        **{f"train/{term}": value for term, value in result.losses.items()},
        **{name: result.metrics[name] for name in METRICS if name in result.metrics},
        **{f"lr/{group}": value for group, value in result.learning_rates.items()},
    }
    row = {name: f"{value:.6g}" for name, value in values.items()}
    return {"epoch": str(result.epoch + 1), **row, "seconds": f"{result.seconds:.2f}"}


def _columns(row: Mapping[str, str]) -> list[str]:
    """The table's columns: those of a row, and the metrics that it has no values for."""
    losses, rates = ([name for name in row if name.startswith(kind)] for kind in ("train/", "lr/"))
    return ["epoch", *losses, *METRICS, *rates, "seconds"]


class ResultsTable(Callback):
    """``results.csv``: one row an epoch, rewritten as a whole so that it is never torn.

    Args:
        path: The file.
        epochs_done: When resuming: rows beyond are dropped, for their epochs will be repeated.
    """

    def __init__(self, path: Path, *, epochs_done: int = 0) -> None:
        self.path = path
        self.rows = read_results(path)[:epochs_done] if epochs_done else []

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        """Add the row."""
        self.rows.append(result_row(result))
        text = io.StringIO()
        writer = csv.DictWriter(text, _columns(self.rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of a ``results.csv``; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TensorBoardLog(Callback):
    """Scalars for TensorBoard, if it is installed: see :meth:`create`.

    There is one event file a run: resuming writes it anew from the table's rows, rather than leaving the repeated
    epochs of an older one behind.
    """

    def __init__(self, writer: SummaryWriter, rows: Sequence[Mapping[str, str]]) -> None:
        self.writer = writer
        for row in rows:
            self._add(row)

    @classmethod
    def create(cls, folder: Path, rows: Sequence[Mapping[str, str]]) -> TensorBoardLog | None:
        """A log in ``folder``, or None without TensorBoard."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        return cls(SummaryWriter(str(folder)), rows)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        """Log the epoch."""
        self._add(result_row(result))

    def on_end(self, trainer: Trainer) -> None:
        """Close the file."""
        self.writer.close()

    def _add(self, row: Mapping[str, str]) -> None:
        for name, value in row.items():
            if name != "epoch" and value:
                tag = f"metrics/{name}" if name in METRICS else name
                self.writer.add_scalar(tag, float(value), int(row["epoch"]))
        self.writer.flush()
