"""What happens beside the training loop: the results table, TensorBoard, checkpoints."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolorep.console import say
from yolorep.engine.trainer import Callback, EpochResult, TrainBatch, Trainer
from yolorep.evaluation.metrics import METRICS
from yolorep.files import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from yolorep.data.annotations import Annotations


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


class Announcer(Callback):
    """One printed line an epoch."""

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        """Print losses, AP and time."""
        parts = [f"epoch {result.epoch + 1}/{trainer.schedule.epochs}"]
        parts += [f"{name} {value:.4f}" for name, value in result.losses.items()]
        parts += [f"{name} {result.metrics[name]:.3f}" for name in ("AP", "AP50") if name in result.metrics]
        parts.append(f"{result.seconds:.1f} s{'  best' if result.best else ''}")
        say("  ".join(parts))
        if result.final and result.epoch + 1 < trainer.schedule.epochs:
            say(f"stopped: no better AP for {trainer.patience} epochs (--patience)")


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


class Checkpoints(Callback):
    """Writes ``last.pt``, ``best.pt`` and, every so many epochs, ``epochN.pt``.

    Must come after the results table: a run is resumed from ``last.pt``, whose epochs must have their rows.

    Args:
        folder: Where to write.
        save_last: Writes everything needed to go on to a path, atomically.
        save_best: Writes the averaged weights to a path, atomically.
        period: Also keep a checkpoint every so many epochs; 0 or less for none.
        final_only: Before the last epoch, write ``best.pt`` only.
    """

    def __init__(
        self,
        folder: Path,
        *,
        save_last: Callable[[Trainer, Path], Any],
        save_best: Callable[[Trainer, Path], Any],
        period: int = 0,
        final_only: bool = False,
    ) -> None:
        self.folder = folder
        self.save_last = save_last
        self.save_best = save_best
        self.period = period
        self.final_only = final_only

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        """Write what is due."""
        due = result.final or not self.final_only
        never_evaluated = trainer.progress.best_fitness is None
        if result.best or (due and never_evaluated):  # never evaluated: the latest is the best known
            self.save_best(trainer, self.folder / "best.pt")
        if not due:
            return
        if self.period > 0 and (result.epoch + 1) % self.period == 0:
            self.save_best(trainer, self.folder / f"epoch{result.epoch + 1}.pt")
        self.save_last(trainer, self.folder / "last.pt")


class Plots(Callback):
    """Pictures of what went in and of how it went.

    Args:
        folder: Where to put them.
        annotations: The training set.
    """

    def __init__(self, folder: Path, annotations: Annotations) -> None:
        self.folder = folder
        self.annotations = annotations

    def on_batch(self, trainer: Trainer, batch: TrainBatch, iteration: int) -> None:
        """Draw the first batch."""
        if iteration == 0:
            from yolorep.plots.grids import plot_batch

            plot_batch(batch.images, batch.targets, self.annotations.names, self.folder / "train_batch.jpg")

    def on_end(self, trainer: Trainer) -> None:
        """Draw the curves and the labels."""
        from yolorep.plots.curves import plot_labels, plot_results

        boxes = self.annotations.boxes
        plot_labels(boxes[:, 0], boxes[:, 1:], self.annotations.names, self.folder / "labels.png")
        plot_results(self.folder / "results.csv", self.folder / "results.png")
