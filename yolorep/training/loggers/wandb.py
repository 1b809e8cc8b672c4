"""Weights & Biases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from yolorep.errors import UserError, first_line
from yolorep.files import write_text
from yolorep.training.loggers.base import Logger, Row, tagged


class WandB(Logger):
    """A W&B run, offline in the folder ``wandb`` of the run folder unless ``WANDB_MODE`` says otherwise.

    An offline run is written anew when training is resumed; an online one goes on. W&B's own variables, such as
    ``WANDB_PROJECT`` and ``WANDB_ENTITY``, hold; the project is ``yolorep`` otherwise.
    """

    requires = "wandb"
    environment: ClassVar = {"WANDB_ERROR_REPORTING": "false"}
    leaves = ("wandb", "wandb.id")

    def start(self, folder: Path, *, options: Mapping[str, Any], hyp: Mapping[str, Any], rows: Sequence[Row]) -> None:
        import wandb

        for old in folder.glob("wandb/offline-run-*"):
            shutil.rmtree(old)
        known = folder / "wandb.id"
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "yolorep"),
                name=folder.name,
                dir=str(folder),
                id=known.read_text(encoding="utf-8") if known.is_file() else None,
                resume="allow",
                mode=os.environ.get("WANDB_MODE", "offline"),
                config={"options": dict(options), "hyp": dict(hyp)},
            )
        except wandb.Error as error:
            raise UserError(f"--log wandb: {first_line(error)}; see WANDB_MODE") from error
        write_text(known, self.run.id)
        for row in [] if self.run.resumed else rows:
            self.epoch(row)

    def epoch(self, row: Row) -> None:
        self.run.log(tagged(row), step=int(row["epoch"]))

    def close(self) -> None:
        self.run.finish()
