"""The ``train`` command: from options to a finished run. Inputs are checked first; only then is anything created."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from yolorep.config import Hyp, check_options, find_config, load_yaml, resources_dir
from yolorep.console import say
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import Dataset, DetectionDataset
from yolorep.data.loader import Batch, TrainLoader, train_loader
from yolorep.data.scan import load_annotations
from yolorep.device import autocast_dtype, refuse_launcher, select_device
from yolorep.errors import UserError, YolorepError
from yolorep.evaluation.evaluator import evaluate
from yolorep.evaluation.pictures import plot_evaluation
from yolorep.evaluation.report import metrics_dict, table
from yolorep.files import new_run_dir, write_text
from yolorep.formats.pytorch import TorchBackend
from yolorep.losses.terms import LossTerms
from yolorep.models.detector import Detector
from yolorep.models.heads.raw import Raw
from yolorep.models.image_size import fit_image_size
from yolorep.nn.reparam import fuse
from yolorep.ops.letterbox import Geometry
from yolorep.options import EPOCHS, FIND_BATCH_SIZE, TrainOptions
from yolorep.training.autoanchor import object_sizes
from yolorep.training.batch_size import choose_batch_size
from yolorep.training.callbacks import Announcer, Checkpoints, Plots
from yolorep.training.ema import ModelEma
from yolorep.training.loggers import Logs, make_loggers
from yolorep.training.loggers.table import read_rows
from yolorep.training.memory import keep_freed_memory
from yolorep.training.optim import Schedule, build_optimizer
from yolorep.training.recipe import describe, ema_updates, load_hyp, mosaic_epochs
from yolorep.training.resume import (
    epochs_to_do,
    find_last,
    refuse_unfinished,
    remove_leftovers,
    remove_run,
    restore_training_state,
    training_state,
)
from yolorep.training.start import freeze_layers, set_bn_momentum, starting_model
from yolorep.training.task import HEADS
from yolorep.training.trainer import Callback, MultiScale, Scores, Trainer
from yolorep.training.validation import validate
from yolorep.weights.checkpoint import Checkpoint, save_checkpoint
from yolorep.weights.load import load_checkpoint


@dataclass(frozen=True)
class Run:
    """Everything a run needs, checked and loaded.

    Attributes:
        options: What was asked for, ``imgsz`` a multiple of the model's largest stride.
        hyp: Hyperparameters.
        device: Where to train.
        model: The model, on the CPU.
        train_set: Images to train on.
        val_set: Images to evaluate on.
        resumed: Where to go on, or None for a new run.
    """

    options: TrainOptions
    hyp: Hyp
    device: torch.device
    model: Detector
    train_set: Dataset
    val_set: Dataset
    resumed: Checkpoint | None = None


#: Makes the loss of a model: (raw maps, targets) -> terms.
MakeLoss = Callable[[Detector], Callable[[Raw, Tensor], LossTerms]]


@dataclass(frozen=True, repr=False)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        folder: ``args.yaml``, ``hyp.yaml``, ``results.csv``, ``metrics.json``, ``weights/`` and plots.
        metrics: The twelve numbers of the best weights, fused.
    """

    folder: Path
    metrics: Mapping[str, float]

    @property
    def best(self) -> Path:
        """The averaged weights of the epoch of highest AP."""
        return self.folder / "weights" / "best.pt"

    @property
    def last(self) -> Path:
        """The last epoch's state, which a run can go on from."""
        return self.folder / "weights" / "last.pt"

    @functools.cached_property
    def model(self) -> Detector:
        """The detector with the best weights, in eval mode on the CPU; read when it is asked for."""
        model = load_checkpoint(self.best).build()
        assert isinstance(model, Detector)
        return model

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {self.metrics[name]:.3f}" for name in ("AP", "AP50"))
        return f"TrainResult({self.folder}, {numbers})"


def train(
    options: TrainOptions,
    *,
    callbacks: Sequence[Callback] = (),
    loss: MakeLoss | None = None,
    dataset: tuple[Dataset, Dataset] | None = None,
    plots: bool = True,
) -> TrainResult:
    """Train a detector.

    Args:
        options: What to train, on what, and how.
        callbacks: What happens besides, after the program's own callbacks: results table, checkpoints, plots.
        loss: Makes the loss of the model, instead of that of its head.
        dataset: What to train on and what to evaluate on, instead of the data YAML's; when resuming, the same again.
        plots: Draw pictures.

    Returns:
        The run's folder and what came out.

    Raises:
        UserError: if an input is wrong; nothing has been created then.
        NonFiniteLoss: if training diverges; checkpoints of finished epochs are kept.
        YolorepError: if the GPU has too little memory.
        KeyboardInterrupt: on Ctrl-C, with a ``last.pt`` to go on from and saying so.
    """
    refuse_launcher()
    keep_freed_memory()
    run = new_run(options, dataset) if options.resume is None else resume_run(options, dataset)
    if run.options.batch_size == FIND_BATCH_SIZE:
        run = _with_batch_size(run, loss)
    folder = create_folder(run) if run.resumed is None else run.resumed.path.parent.parent
    try:
        trainer = build_trainer(run, folder, callbacks=callbacks, loss=loss, plots=plots)
        try:
            trainer.fit()
            metrics = finish(run, folder, plots=plots)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_make_resumable(trainer, run, folder)) from None
    except torch.cuda.OutOfMemoryError:
        raise YolorepError(
            f"{run.device}: out of memory; lower --batch-size (it is {run.options.batch_size}) "
            f"or --imgsz (it is {run.options.imgsz})"
        ) from None
    return TrainResult(folder, metrics)


def new_run(options: TrainOptions, dataset: tuple[Dataset, Dataset] | None = None) -> Run:
    """Check and load the inputs of a new run.

    Args:
        options: What was asked for.
        dataset: What to train on and what to evaluate on, instead of the data YAML's.

    Raises:
        UserError: if one is wrong.
    """
    if options.exist_ok:
        refuse_unfinished(Path(options.project) / options.name)
    options = replace(options, data="" if dataset else _lasting_name(options.data))
    device = select_device(options.device)
    autocast_dtype(options.precision, device)  # refuses what the device does not offer
    make_loggers(options.log)  # refuses what is not installed
    if dataset:
        options, names = replace(options, imgsz=dataset[0].image_size), dataset[0].annotations.names
    else:
        names = load_data_config(options.data, download=options.download).names
    torch.manual_seed(options.seed)
    model = starting_model(
        options.cfg,
        options.weights,
        names=("item",) if options.single_cls and len(names) > 1 and not dataset else names,
        backbone_weights=options.backbone_weights,
        expand=options.expand,
    )
    recipe = options.hyp or HEADS[type(model.head)].recipe
    options = replace(
        options,
        imgsz=fit_image_size(options.imgsz, model.max_stride),
        hyp=recipe,
        epochs=options.epochs or EPOCHS,
    )
    model.geometry = Geometry(options.imgsz)
    hyp = load_hyp(recipe)
    if hyp.bn_momentum is not None:
        set_bn_momentum(model, hyp.bn_momentum)
    freeze_layers(model, options.freeze or [])
    if options.noautoanchor and model.head.needs_fitting:
        raise UserError(
            f"--noautoanchor: expected anchors in {options.cfg}, found only their number; write them there in pixels, "
            "or let them be fitted"
        )
    build_loss(model, hyp, options)  # refuses what the head's loss does not offer
    train_set, val_set = check_data(dataset or load_data(options), options)
    if not options.noautoanchor:
        _fit_head(model, train_set, hyp, options)
    return Run(options, hyp, device, model, train_set, val_set)


def resume_run(options: TrainOptions, dataset: tuple[Dataset, Dataset] | None = None) -> Run:
    """Load an interrupted run with the options it was started with; only ``--device`` may differ.

    Args:
        options: What was asked for: which run, and where.
        dataset: What it was started with, if that was no data YAML.

    Raises:
        UserError: if there is nothing to go on with, or the data set's classes are no longer the model's.
    """
    last = find_last(options.resume or "", project=options.project)
    folder = last.parent.parent
    stored = read_options(folder / "args.yaml")
    given = [
        f"--{entry.name.replace('_', '-')}"
        for entry in fields(options)
        if entry.name not in ("resume", "device", "project", "epochs") and getattr(options, entry.name) != entry.default
    ]
    if given:
        say(f"--resume takes the options the run was started with; without effect: {', '.join(given)}")
    checkpoint = load_checkpoint(last)
    if "progress" not in checkpoint.training:
        raise UserError(f"{last}: expected a last.pt with the state of a run, found weights only; use --weights")
    progress = checkpoint.training["progress"]
    before, asked = stored.epochs or EPOCHS, options.epochs
    epochs = epochs_to_do(asked, before=before, progress=progress, last=last)
    options = replace(stored, device=options.device or stored.device, epochs=epochs)
    planned = checkpoint.training.setdefault("epochs", before)  # fewer than before if no epoch followed an extension
    if progress["finished"] and (asked or epochs != planned):
        progress.update(finished=False, best_epoch=progress["epochs_done"] - 1)  # patience begins anew
    if progress["finished"] and (folder / "metrics.json").is_file():
        raise UserError(
            f"{last}: the run finished after {progress['epochs_done']} epochs; make it longer with --epochs, or start "
            f"a new one with --weights {last}"
        )
    device = select_device(options.device)
    make_loggers(options.log)
    model = checkpoint.build(use_ema=False)
    assert isinstance(model, Detector)
    freeze_layers(model, options.freeze or [])
    if bool(dataset) == bool(options.data):
        expected = f"the data of {options.data}" if options.data else "the dataset that it was started with"
        raise UserError(f"{last}: expected {expected}, found {'another' if dataset else 'none'}; pass dataset= as then")
    train_set, val_set = check_data(dataset or load_data(options), options)
    if train_set.annotations.names != model.names:
        raise UserError(
            f"{options.data}: expected the classes the run was started with ({', '.join(model.names)}), "
            f"found {', '.join(train_set.annotations.names)}; start a new run with --weights {last}"
        )
    hyp = load_hyp(folder / "hyp.yaml")
    remove_leftovers(folder)
    if asked:
        # The numbers of a finished run go first: without them it is finished again, should this be all that happens.
        (folder / "metrics.json").unlink(missing_ok=True)
        write_options(folder / "args.yaml", replace(stored, epochs=epochs))
    say(f"resuming {folder} after {progress['epochs_done']} of {epochs} epochs")
    return Run(options, hyp, device, model, train_set, val_set, checkpoint)


def check_data(sets: tuple[Dataset, Dataset], options: TrainOptions) -> tuple[Dataset, Dataset]:
    """``sets``, if they can be trained and evaluated on.

    Raises:
        UserError: if there is nothing to learn or to find, or the two differ in classes or size.
    """
    train_set, val_set = sets
    source = f"{options.data}: " if options.data else "dataset: "
    if not len(train_set.annotations.boxes):
        raise UserError(f"{source}train: expected objects to learn, found images without any; check the labels")
    if val_set.annotations.truth.crowd.all() and not options.noval:
        raise UserError(
            f"{source}val: expected objects to tell the best epoch by, found images without any; "
            "check the labels or pass --noval"
        )
    for what, one, other in (
        ("classes", train_set.annotations.names, val_set.annotations.names),
        ("image size", train_set.image_size, val_set.image_size),
        ("image size, a multiple of the model's stride", options.imgsz, train_set.image_size),
    ):
        if one != other:
            raise UserError(f"{source}expected the same {what} everywhere, found {one} and {other}")
    return sets


def load_data(options: TrainOptions) -> tuple[Dataset, Dataset]:
    """The images to train on and those to evaluate on, as the data YAML names them.

    Raises:
        UserError: if a split is missing, without images, or has a wrong label.
    """
    config = load_data_config(options.data)
    annotations = {
        split: load_annotations(config, split, single_class=options.single_cls) for split in ("train", "val")
    }
    train_set, val_set = (
        DetectionDataset(
            found,
            image_size=options.imgsz,
            cache=cast(Literal["ram", "disk"] | None, options.cache),
            training=split == "train",
        )
        for split, found in annotations.items()
    )
    return train_set, val_set


def _with_batch_size(run: Run, loss: MakeLoss | None) -> Run:
    """``run`` with the batch size found for its model on its device."""
    annotations = run.train_set.annotations
    found = choose_batch_size(
        run.model,
        loss or (lambda model: build_loss(model, run.hyp, run.options)),
        hyp=run.hyp,
        options=run.options,
        device=run.device,
        images=len(annotations),
        objects=len(annotations.boxes) / len(annotations),
    )
    return replace(run, options=replace(run.options, batch_size=found))


def create_folder(run: Run) -> Path:
    """Create the run's folder with what is known before training. With --exist-ok, the run before is removed."""
    folder = new_run_dir(run.options.project, run.options.name, exist_ok=run.options.exist_ok)
    (folder / "weights").mkdir(exist_ok=True)
    remove_run(folder)
    write_options(folder / "args.yaml", run.options)
    write_text(folder / "hyp.yaml", yaml.safe_dump(run.hyp.model_dump(), sort_keys=False))
    say(f"results go to {folder}")
    return folder


def build_trainer(
    run: Run,
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    loss: MakeLoss | None = None,
    plots: bool = True,
) -> Trainer:
    """Wire loop, loss, optimizer, data and callbacks together."""
    options, hyp, model = run.options, run.hyp, run.model
    if options.sync_bn:
        say("--sync-bn: there is one process, so there is nothing to synchronize")
    # Channels last: a fifth faster on CPUs, and what tensor cores want.
    model = model.to(memory_format=torch.channels_last).to(run.device).train()
    loader = train_loader(
        run.train_set,
        hyp,
        batch_size=options.batch_size,
        workers=options.workers,
        seed=options.seed,
        rect=options.rect,
        stride=model.max_stride,
        pin_memory=run.device.type == "cuda",
    )
    epochs = options.epochs or EPOCHS
    schedule = Schedule(hyp, epochs=epochs, batches=len(loader), batch_size=options.batch_size, cosine=options.cos_lr)
    judge = loss(model) if loss else build_loss(model, hyp, options)
    trainer = Trainer(
        model=model,
        loss=judge,
        optimizer=build_optimizer(
            options.optimizer or hyp.optimizer,
            model,
            lr=hyp.lr0,
            momentum=hyp.momentum,
            weight_decay=schedule.weight_decay,
        ),
        schedule=schedule,
        batches=lambda epoch: _epoch_of(loader, epoch, mosaic=epoch < mosaic_epochs(schedule)),
        ema=ModelEma.over(model, updates=window) if (window := ema_updates(schedule)) else ModelEma(model),
        device=run.device,
        evaluate=lambda ema: _score(ema, run, loss=judge),
        evaluate_every_epoch=not options.noval,
        autocast=autocast_dtype(options.precision, run.device),
        multi_scale=MultiScale(options.imgsz, model.max_stride, options.seed) if options.multi_scale else None,
        patience=options.patience,
    )
    if run.resumed is not None:
        assert run.resumed.ema is not None
        trainer.ema.model.load_state_dict(run.resumed.ema)
        restore_training_state(trainer, run.resumed.training)
        done, planned = trainer.progress.epochs_done, run.resumed.training["epochs"]
        if planned != epochs:
            say(
                f"extending from {planned} to {epochs} epochs: the learning rate follows the new schedule from "
                f"epoch {done + 1} at {schedule.lr_at(done * len(loader)):.4g}"
            )
    trainer.callbacks = [*_callbacks(run, folder, epochs_done=trainer.progress.epochs_done, plots=plots), *callbacks]
    say(f"{options.hyp}: {describe(schedule, optimizer=trainer.optimizer, autocast=trainer.autocast)}")
    return trainer


def build_loss(model: Detector, hyp: Hyp, options: TrainOptions) -> Callable[[Raw, Tensor], LossTerms]:
    """The loss of the model's head.

    Raises:
        UserError: for an option that this loss does not offer.
    """
    make = HEADS[type(model.head)].loss
    return make(model.head, hyp, image_size=options.imgsz, label_smoothing=options.label_smoothing)


def finish(run: Run, folder: Path, *, plots: bool = True) -> Mapping[str, float]:
    """Evaluate the best weights as they will be deployed, fused; write the numbers and draw the plots."""
    best = folder / "weights" / "best.pt"
    model = load_checkpoint(best).build()
    assert isinstance(model, Detector)
    evaluation = evaluate(
        TorchBackend(fuse(model.for_inference())[0], device=run.device),
        run.val_set,
        batch_size=run.options.batch_size,
        workers=run.options.workers,
        description="best.pt, fused",
    )
    say(table(evaluation, images=len(run.val_set.annotations)))
    write_text(folder / "metrics.json", json.dumps(metrics_dict(evaluation), indent=2))
    if plots:
        plot_evaluation(evaluation, run.val_set, folder)
    say(f"results in {folder}, weights in {best}")
    return evaluation.metrics


def read_options(path: Path) -> TrainOptions:
    """Options as a run's ``args.yaml`` holds them.

    Raises:
        UserError: if there is no such file or it holds something else, naming the key.
    """
    stored = load_yaml(path)
    if not isinstance(stored, dict):
        raise UserError(f"{path}: expected the options of a run, found {type(stored).__name__}")
    check_options(TrainOptions, stored, source=path)
    try:
        return TrainOptions(**stored)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write_options(path: Path, options: TrainOptions) -> None:
    """The inverse of :func:`read_options`."""
    write_text(path, yaml.safe_dump(asdict(options), sort_keys=False))


def _lasting_name(name: str) -> str:
    """A data YAML as it is found from anywhere: packaged ones by their name, others by their whole path."""
    data, resources = find_config(name, "data").resolve(), resources_dir().resolve()
    return data.relative_to(resources).as_posix() if data.is_relative_to(resources / "data") else str(data)


def _make_resumable(trainer: Trainer, run: Run, folder: Path) -> str:
    """See to it that an interrupted run can go on; returns how, in words.

    The exact state after the last finished epoch is kept where there is one. Otherwise the weights so far are saved,
    and the epoch they are in is repeated.
    """
    best, last = (folder / "weights" / f"{name}.pt" for name in ("best", "last"))
    if (folder / "metrics.json").is_file():
        return f"the run is finished, but for plots: results in {folder}, weights in {best}"
    if last.is_file():
        return f"go on with --resume {last}"
    if trainer.progress.epochs_done and not best.is_file():
        _save_best(trainer, run, best)
    _save_last(trainer, run, last)
    return f"the weights so far are saved; go on with --resume {last}"


def _save_last(trainer: Trainer, run: Run, path: Path) -> None:
    training = training_state(trainer)
    save_checkpoint(path, run.model, ema=trainer.ema.model, training=training, data=run.options.data)


def _save_best(trainer: Trainer, run: Run, path: Path) -> None:
    assert isinstance(trainer.ema.model, Detector)
    save_checkpoint(path, trainer.ema.model, data=run.options.data)


def _callbacks(run: Run, folder: Path, *, epochs_done: int, plots: bool) -> list[Callback]:
    options = run.options
    # A killed run may have rows of epochs that are not in its checkpoint: these are repeated.
    rows = read_rows(folder / "results.csv")[:epochs_done]
    loggers = make_loggers(options.log)
    for logger in loggers:
        logger.start(folder, options=asdict(options), hyp=run.hyp.model_dump(), rows=rows)
    checkpoints = Checkpoints(
        folder / "weights",
        save_last=lambda trainer, path: _save_last(trainer, run, path),
        save_best=lambda trainer, path: _save_best(trainer, run, path),
        period=options.save_period,
        final_only=options.nosave,
    )
    pictures = [Plots(folder, run.train_set.annotations)] if plots else []
    # The table comes before the checkpoint: every epoch in last.pt has its row.
    return [Announcer(), Logs(loggers), checkpoints, *pictures]


def _epoch_of(loader: TrainLoader, epoch: int, *, mosaic: bool) -> Iterable[Batch]:
    loader.set_epoch(epoch, mosaic=mosaic)
    return loader


def _score(model: nn.Module, run: Run, *, loss: Callable[[Raw, Tensor], LossTerms]) -> Scores:
    assert isinstance(model, Detector)
    # Twice the batch: there are no gradients to hold.
    batch_size, workers = 2 * run.options.batch_size, run.options.workers
    return validate(model, run.val_set, loss=loss, device=run.device, batch_size=batch_size, workers=workers)


def _fit_head(model: Detector, dataset: Dataset, hyp: Hyp, options: TrainOptions) -> None:
    """Fit to the data what the head takes from it, such as anchors."""
    head = model.head
    if (fit := HEADS[type(head)].fit) is None:
        return
    annotations = dataset.annotations
    image_of_box = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    sizes = object_sizes(annotations.boxes[:, 3:5], annotations.sizes[image_of_box], image_size=options.imgsz)
    fit(head, sizes, hyp=hyp, seed=options.seed, placeholder=head.needs_fitting)
