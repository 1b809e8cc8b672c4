"""The state of a run beside its weights, as tensors and plain values, and how to go on from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from yolorep.errors import UserError
from yolorep.training.loggers import LOGGERS
from yolorep.training.trainer import Progress, Trainer

#: What a run leaves in its folder besides its options; last.pt comes first, for without it there is nothing to resume.
_RUN_FILES = (
    *(f"weights/{name}.pt" for name in ("last", "best", "epoch[0-9]*")),
    *("metrics.json", "train_batch[0-9].jpg", "val_batch[0-9].jpg"),
    *(f"{name}.png" for name in ("results", "labels", "pr_curve", "confidence_curves")),
    *(f"{name}.png" for name in ("confusion_matrix", "confusion_matrix_normalized")),
    *(pattern for logger in LOGGERS.values() for pattern in logger.leaves),
)


def training_state(trainer: Trainer) -> dict[str, Any]:
    """Everything besides the two sets of weights that the next epoch depends on.

    What the data loader draws depends on the seed and the epoch only, so it has no state.
    """
    return {
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "epochs": trainer.schedule.epochs,
        "ema_updates": trainer.ema.updates,
        "progress": asdict(trainer.progress),
        "rng": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(trainer.device) if trainer.device.type == "cuda" else None,
        },
    }


def restore_training_state(trainer: Trainer, state: dict[str, Any]) -> None:
    """Undo :func:`training_state`: the trainer, with weights already loaded, goes on where the state was taken."""
    trainer.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty if the run was started without float16
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.ema.updates = state["ema_updates"]
    trainer.progress = Progress(**state["progress"])
    torch.set_rng_state(state["rng"]["cpu"].cpu())
    if trainer.device.type == "cuda" and state["rng"]["cuda"] is not None:
        torch.cuda.set_rng_state(state["rng"]["cuda"].cpu(), trainer.device)


def find_last(resume: str, *, project: str) -> Path:
    """The ``last.pt`` to go on from.

    Args:
        resume: A ``last.pt``, its run directory, or empty for the newest below ``project``.
        project: Folder of runs.

    Raises:
        UserError: if there is none.
    """
    if not resume:
        found = sorted(Path(project).glob("**/weights/last.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"--resume: expected a run with weights/last.pt below {project}, found none; name the file")
        return found[-1]
    path = Path(resume)
    if path.is_dir():
        path = path / "weights" / "last.pt"
    if not path.is_file():
        raise UserError(f"--resume {resume}: expected a last.pt of an interrupted run, found no such file")
    path = Path(os.path.abspath(path))  # the run is two folders up
    if not (path.parent.parent / "args.yaml").is_file():
        raise UserError(
            f"--resume {resume}: expected a last.pt in its run folder, beside args.yaml and hyp.yaml, found none in "
            f"{path.parent.parent}; go on there, or start a new run with --weights {resume}"
        )
    return path


def epochs_to_do(asked: int | None, *, before: int, progress: Mapping[str, Any], last: Path) -> int:
    """How many epochs a resumed run has.

    Args:
        asked: What was asked for; None for as many as before.
        before: As many it had until now.
        progress: How far it is.
        last: Its ``last.pt``.

    Raises:
        UserError: if fewer are asked for than it has, or none is left to do.
    """
    done = progress["epochs_done"]
    least = max(before, done + 1)
    if asked is not None and asked < least:
        raise UserError(f"--epochs {asked}: expected at least {least}, for {last} has done {done} of {before} epochs")
    return asked or before


def refuse_unfinished(folder: Path) -> None:
    """Make sure that a folder about to be used again holds no run that could go on.

    Raises:
        UserError: if it does.
    """
    last = folder / "weights" / "last.pt"
    if last.is_file() and not (folder / "metrics.json").is_file():
        raise UserError(
            f"{folder}: expected a finished run to write over, found an unfinished one; go on with --resume {last}, "
            "choose another --name, or remove the folder"
        )


def remove_run(folder: Path) -> None:
    """Remove a finished run's files, so that those of the next one in its folder stand alone."""
    for path in [path for pattern in _RUN_FILES for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed process was in the middle of writing."""
    for path in run_dir.rglob(".*.part*"):
        path.unlink(missing_ok=True)
