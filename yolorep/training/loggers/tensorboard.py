"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolorep.training.loggers.base import Logger, Row, tagged


class TensorBoard(Logger):
    """One event file a run: resuming writes it anew, rather than leaving the repeated epochs of an older one behind."""

    requires = "torch.utils.tensorboard"
    leaves = ("events.out.tfevents.*",)

    def start(self, folder: Path, *, options: Mapping[str, Any], hyp: Mapping[str, Any], rows: Sequence[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob(self.leaves[0]):
            old.unlink()
        self.writer = SummaryWriter(str(folder))
        for row in rows:
            self.epoch(row)

    def epoch(self, row: Row) -> None:
        for tag, value in tagged(row).items():
            self.writer.add_scalar(tag, value, int(row["epoch"]))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
