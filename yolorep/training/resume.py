"""The state of a run beside its weights, as tensors and plain values, and how to go on from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from yolorep.errors import UserError, first_line
from yolorep.training.loggers import LOGGERS
from yolorep.training.trainer import Progress, Trainer
from yolorep.weights.checkpoint import Checkpoint, load_strictly
from yolorep.weights.load import load_checkpoint

#: What a run leaves in its folder besides its options; last.pt comes first, for without it there is nothing to resume.
_RUN_FILES = (
    *(f"weights/{name}.pt" for name in ("last", "best", "epoch[0-9]*")),
    *("metrics.json", "train_batch[0-9].jpg", "val_batch[0-9].jpg"),
    *(f"{name}.png" for name in ("results", "labels", "pr_curve", "confidence_curves")),
    *(f"{name}.png" for name in ("confusion_matrix", "confusion_matrix_normalized")),
    *(pattern for logger in LOGGERS.values() for pattern in logger.leaves),
)
#: What a killed process was in the middle of writing.
_LEFTOVERS = "**/.*.part*"


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


Count = Annotated[int, Field(ge=0, le=10**12)]
#: What an optimizer remembers of each parameter.
_MOMENTS = {
    "SGD": {"momentum_buffer"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
}


class _Part(BaseModel):
    """A part of what :func:`training_state` gives, as it must be."""

    model_config = ConfigDict(strict=True, frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)


class _Progress(_Part):
    epochs_done: Count
    best_fitness: Annotated[float, Field(ge=0, le=1)] | None
    best_epoch: Count
    finished: bool


class _Group(_Part):
    name: str
    params: list[int]


class _Optimizer(_Part):
    state: dict[int, dict[str, Tensor | None]]
    param_groups: list[_Group]


class _Rng(_Part):
    cpu: Tensor
    cuda: Tensor | None


class _State(_Part):
    optimizer: _Optimizer
    scaler: dict[str, Annotated[float, Field(gt=0)] | Count]
    ema_updates: Count
    progress: _Progress
    rng: _Rng
    epochs: Annotated[int, Field(ge=1, le=10**9)] = 1  # files of before lack the last two
    own_loss: bool = False


def check_run(checkpoint: Checkpoint) -> None:
    """Make sure that a checkpoint holds all that a run goes on from, each of the right type.

    Raises:
        UserError: naming what is missing or wrong.
    """
    path, training = checkpoint.path, checkpoint.training
    if checkpoint.of_yolov5:
        raise UserError(f"{path}: a run of YOLOv5 cannot go on here; start a new one with --weights {path}")
    if not training or checkpoint.ema is None:
        raise UserError(f"{path}: expected a last.pt with the state of a run, found weights only; use --weights")
    try:
        state = _State.model_validate(training)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part)[:40] for part in fault["loc"])
        wrong = "is missing" if fault["type"] == "missing" else f"does not fit ({fault['msg']})"
        raise _damaged(path, f"training.{key} {wrong}") from error
    progress = state.progress
    if progress.best_epoch > progress.epochs_done:
        raise _damaged(path, f"its best epoch is {progress.best_epoch} of {progress.epochs_done}")


def restore_training_state(trainer: Trainer, resumed: Checkpoint) -> None:
    """Undo :func:`training_state`: the trainer, with weights already loaded, goes on where the state was taken.

    Args:
        trainer: As it was built for the run.
        resumed: Checked by :func:`check_run`.

    Raises:
        UserError: if the averaged weights or the optimizer's state are those of another model, or damaged.
    """
    assert resumed.ema is not None
    path, state = resumed.path, resumed.training
    load_strictly(trainer.ema.model, resumed.ema, source=f"{path} (averaged weights)")
    _restore_optimizer(trainer.optimizer, state["optimizer"], path)
    if state["scaler"] and trainer.scaler.is_enabled():  # empty if the run was started without float16
        if state["scaler"].keys() != trainer.scaler.state_dict().keys():
            raise _damaged(path, "training.scaler does not fit")
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.ema.updates = state["ema_updates"]
    trainer.progress = Progress(**state["progress"])
    try:
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        if trainer.device.type == "cuda" and state["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["rng"]["cuda"].cpu(), trainer.device)
    except (RuntimeError, TypeError) as error:
        raise _damaged(path, f"training.rng does not fit ({first_line(error)})") from error


def _restore_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping[str, Any], path: Path) -> None:
    """Give the optimizer what it remembered; its groups are as they were built, by the same recipe."""
    kind, own = type(optimizer).__name__, optimizer.state_dict()
    if _named_groups(stored) != _named_groups(own):
        raise _damaged(path, "its optimizer is of another model: the groups of parameters differ")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in stored["state"].items():
        if not 0 <= index < len(parameters) or moments.keys() != _MOMENTS[kind]:
            raise _damaged(path, f"training.optimizer.state.{index} is not what {kind} remembers of a parameter")
        for name, moment in moments.items():
            shape = () if name == "step" else parameters[index].shape
            if moment is None and kind == "SGD":
                continue
            if moment is None or moment.shape != shape or not moment.is_floating_point() or not _is_sound(name, moment):
                raise _damaged(path, f"training.optimizer.state.{index}.{name} does not fit its parameter")
    optimizer.load_state_dict({"state": stored["state"], "param_groups": own["param_groups"]})


def _named_groups(state: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    return [(group["name"], group["params"]) for group in state["param_groups"]]


def _is_sound(name: str, moment: Tensor) -> bool:
    return bool(torch.isfinite(moment).all() and (name not in ("step", "exp_avg_sq") or (moment >= 0).all()))


def _damaged(path: Path, fault: str) -> UserError:
    return UserError(f"{path}: a damaged checkpoint: {fault}; start a new run, with --weights if the weights load")


def check_best(checkpoint: Checkpoint) -> Checkpoint:
    """A run's checkpoint, if its ``best.pt`` is sound; where there is none, the next evaluated epoch becomes it.

    Raises:
        UserError: if it is damaged, or missing though no epoch follows.
    """
    best, progress = checkpoint.path.with_name("best.pt"), checkpoint.training["progress"]
    if best.is_file():
        load_checkpoint(best)
    elif progress["finished"]:
        raise UserError(f"{best}: no such file, and no epoch follows that could give one; see --epochs")
    elif progress["best_fitness"] is not None:
        fresh = {**progress, "best_fitness": None}
        return replace(checkpoint, training={**checkpoint.training, "progress": fresh})
    return checkpoint


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
    run = path.parent.parent
    if missing := [name for name in ("args.yaml", "hyp.yaml") if not (run / name).is_file()]:
        check_run(load_checkpoint(path))  # a file of another kind is none that was copied out of its run
        raise UserError(
            f"--resume {resume}: expected a last.pt in its run folder, beside args.yaml and hyp.yaml, found none in "
            f"{run} ({' and '.join(missing)} missing); go on there, or start a new run with --weights {resume}"
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
    if (asked is None and before < done) or (asked is not None and asked < least):
        asked = before if asked is None else asked
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
    _remove(folder, *_RUN_FILES, _LEFTOVERS)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was in the middle of writing."""
    _remove(folder, _LEFTOVERS)


def _remove(folder: Path, *patterns: str) -> None:
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
