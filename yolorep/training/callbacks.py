"""What happens beside the training loop: lines for people, checkpoints, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolorep.console import say
from yolorep.training.trainer import Callback, EpochResult, TrainBatch, Trainer

if TYPE_CHECKING:
    from yolorep.data.annotations import Annotations

#: Training batches that are drawn.
DRAWN_BATCHES = 3


class Announcer(Callback):
    """One printed line an epoch."""

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        """Print losses, AP and time."""
        parts = [f"epoch {result.epoch + 1}/{trainer.schedule.epochs}"]
        parts += [f"{name} {value:.4f}" for name, value in result.losses.items()]
        parts += [f"{name} {result.metrics[name]:.3f}" for name in ("AP", "AP50") if name in result.metrics]
        parts.append(f"{result.seconds:.1f} s{'  best' if result.best else ''}")
        say("  ".join(parts))
        if result.stopped:
            say(f"stopped: {result.stopped}")


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
        """Draw the first batches."""
        if iteration < DRAWN_BATCHES:
            from yolorep.plots.grids import plot_batch

            picture = self.folder / f"train_batch{iteration}.jpg"
            plot_batch(batch.images, batch.targets, self.annotations.names, picture)

    def on_end(self, trainer: Trainer) -> None:
        """Draw the curves and the labels."""
        from yolorep.plots.curves import plot_labels, plot_results

        boxes = self.annotations.boxes
        plot_labels(boxes[:, 0], boxes[:, 1:], self.annotations.names, self.folder / "labels.png")
        plot_results(self.folder / "results.csv", self.folder / "results.png")
