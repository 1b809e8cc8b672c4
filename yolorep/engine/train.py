"""``train``: from options to a finished run. Inputs are checked first; only then is anything created."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from yolorep.config import Hyp, load_hyp, load_yaml
from yolorep.console import say
from yolorep.data.annotations import Annotations
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import DetectionDataset
from yolorep.data.loader import TrainLoader, train_loader
from yolorep.data.scan import load_annotations
from yolorep.engine.autoanchor import fit_anchors, object_sizes
from yolorep.engine.callbacks import Announcer, Checkpoints, Plots, ResultsTable, TensorBoardLog
from yolorep.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from yolorep.engine.device import select_device
from yolorep.engine.ema import ModelEma
from yolorep.engine.optim import Schedule, build_optimizer
from yolorep.engine.resume import find_last, remove_leftovers, restore_training_state, training_state
from yolorep.engine.start import freeze_layers, starting_model
from yolorep.engine.trainer import Callback, MultiScale, Trainer
from yolorep.errors import UserError, suggest
from yolorep.files import new_run_dir, write_text
from yolorep.losses.anchor import AnchorLoss, AnchorLossGains
from yolorep.models.detector import Detector
from yolorep.ops.letterbox import round_up
from yolorep.options import TrainOptions


@dataclass(frozen=True)
class Run:
    """Everything a run needs, checked and loaded.

    Attributes:
        options: What was asked for.
        hyp: Hyperparameters.
        device: Where to train.
        model: The model, on the CPU.
        image_size: Long side of the network input, a multiple of the model's largest stride.
        train_set: Images to train on.
        val_set: Images to evaluate on.
        resumed: Where to go on, or None for a new run.
    """

    options: TrainOptions
    hyp: Hyp
    device: torch.device
    model: Detector
    image_size: int
    train_set: DetectionDataset
    val_set: DetectionDataset
    resumed: Checkpoint | None = None


def train(options: TrainOptions) -> Path:
    """Train a detector.

    Args:
        options: What to train, on what, and how.

    Returns:
        The run's folder: ``args.yaml``, ``hyp.yaml``, ``results.csv``, ``metrics.json``, ``weights/`` and plots.

    Raises:
        UserError: if an input is wrong; nothing has been created then.
        NonFiniteLoss: if training diverges; checkpoints of finished epochs are kept.
        KeyboardInterrupt: on Ctrl-C, after saying how to go on.
    """
    run = resume_run(options) if options.resume is not None else new_run(options)
    folder = run.resumed.path.parent.parent if run.resumed else create_run_dir(run)
    trainer = build_trainer(run, folder)
    say(f"results go to {folder}")
    try:
        trainer.fit()
    except KeyboardInterrupt:
        last = folder / "weights" / "last.pt"
        say(f"interrupted; go on with --resume {last}" if last.is_file() else "interrupted before an epoch was saved")
        raise
    finish(run, folder)
    return folder


def new_run(options: TrainOptions) -> Run:
    """Check and load the inputs of a new run.

    Raises:
        UserError: if one is wrong.
    """
    _check_numbers(options)
    if Path(options.data).is_file():  # resuming may happen from another folder
        options = replace(options, data=str(Path(options.data).resolve()))
    hyp = load_hyp(options.hyp)
    device = select_device(options.device)
    names = load_data_config(options.data).names
    torch.manual_seed(options.seed)
    model = starting_model(options, names=("item",) if options.single_cls and len(names) > 1 else names)
    return _load_data(Run(options, hyp, device, model, 0, *_NO_DATA))


def resume_run(options: TrainOptions) -> Run:
    """Load an interrupted run with the options it was started with; only ``--device`` may differ.

    Raises:
        UserError: if there is nothing to go on with, or the data set's classes are no longer the model's.
    """
    last = find_last(options.resume or "", project=options.project)
    folder = last.parent.parent
    stored = read_options(folder / "args.yaml")
    options = replace(stored, device=options.device or stored.device, resume=str(last))
    checkpoint = load_checkpoint(last)
    if "progress" not in checkpoint.training:
        raise UserError(f"{last}: expected a last.pt with the state of a run, found weights only; use --weights")
    if checkpoint.training["progress"]["finished"] and (folder / "metrics.json").is_file():
        done = checkpoint.training["progress"]["epochs_done"]
        raise UserError(f"{last}: the run is finished after {done} epochs; start a new one with --weights {last}")
    torch.manual_seed(options.seed)
    model = checkpoint.build(use_ema=False)
    run = _load_data(
        Run(options, load_hyp(folder / "hyp.yaml"), select_device(options.device), model, 0, *_NO_DATA, checkpoint)
    )
    if run.train_set.names != model.names:
        raise UserError(
            f"{options.data}: expected the classes the run was started with ({', '.join(model.names)}), "
            f"found {', '.join(run.train_set.names)}; start a new run with --weights {last}"
        )
    remove_leftovers(folder)
    return run
