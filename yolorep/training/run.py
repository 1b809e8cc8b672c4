"""The ``train`` command: from options to a finished run. Inputs are checked first; only then is anything created."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import nn

from yolorep.console import say
from yolorep.data.dataset import Dataset
from yolorep.data.loader import Batch, TrainLoader, eval_loader, train_loader
from yolorep.data.workers import WorkerLost
from yolorep.device import autocast_dtype, refuse_launcher
from yolorep.errors import YolorepError
from yolorep.evaluation.evaluator import evaluate
from yolorep.evaluation.pictures import plot_evaluation
from yolorep.evaluation.report import metrics_dict, table
from yolorep.files import new_run_dir, write_text
from yolorep.formats.pytorch import TorchBackend
from yolorep.models.detector import Detector
from yolorep.nn.reparam import fuse
from yolorep.options import FIND_BATCH_SIZE, TrainOptions
from yolorep.training.batch_size import choose_batch_size
from yolorep.training.callbacks import Announcer, Checkpoints, Plots
from yolorep.training.ema import ModelEma
from yolorep.training.given import check_callbacks
from yolorep.training.inputs import Run, new_run, read_options, resume_run, write_options
from yolorep.training.loggers import Logs, make_loggers
from yolorep.training.loggers.table import rows_of_epochs
from yolorep.training.memory import keep_freed_memory
from yolorep.training.optim import Schedule, build_optimizer
from yolorep.training.recipe import describe, ema_updates, mosaic_epochs
from yolorep.training.resume import remove_leftovers, remove_run, restore_training_state, training_state
from yolorep.training.task import Loss, MakeLoss
from yolorep.training.trainer import Callback, MultiScale, Scores, Trainer
from yolorep.training.validation import validate
from yolorep.weights.checkpoint import Checkpoint, save_checkpoint
from yolorep.weights.load import load_checkpoint

#: Batches in one of validation: there are no gradients to hold.
VAL_BATCHES = 2


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
        loss: Makes the loss of the model, instead of that of its head; when resuming, the same again.
        dataset: What to train on and what to evaluate on, instead of the data YAML's; when resuming, the same again.
        plots: Draw pictures.

    Returns:
        The run's folder and what came out.

    Raises:
        UserError: if an input is wrong; nothing has been created then.
        NonFiniteLoss: if training diverges; checkpoints of finished epochs are kept.
        YolorepError: if the GPU has too little memory.
        WorkerLost: if a data loading process is gone, with a ``last.pt`` to go on from and saying so.
        KeyboardInterrupt: on Ctrl-C, likewise.
    """
    check_callbacks(callbacks)
    refuse_launcher()
    keep_freed_memory()
    run = (new_run if options.resume is None else resume_run)(options, loss=loss, dataset=dataset)
    try:
        if run.options.batch_size == FIND_BATCH_SIZE:
            run = replace(run, options=replace(run.options, batch_size=choose_batch_size(run)))
        run = with_workers(run)
        trainer = build_trainer(run)
        folder = create_folder(run) if run.resumed is None else reopen_folder(run, run.resumed)
        epochs_done = trainer.progress.epochs_done
        try:
            if run.resumed is None:
                say(f"results go to {folder}")
            trainer.callbacks = [*_callbacks(run, folder, epochs_done=epochs_done, plots=plots), *callbacks]
            trainer.fit()
            metrics = finish(run, folder, plots=plots)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_make_resumable(trainer, run, folder)) from None
        except WorkerLost as error:
            how = _make_resumable(trainer, run, folder)
            fewer = f" --workers {run.workers // 2}" if "--resume" in how else ""
            raise WorkerLost(f"{error}; {how}{fewer}") from None
        except OSError as error:
            if not (last := folder / "weights" / "last.pt").is_file():
                raise
            reason = f"{error.strerror or error}; when that is mended, go on with --resume {last}"
            raise OSError(error.errno, reason, error.filename) from error
    except torch.cuda.OutOfMemoryError:
        raise YolorepError(
            f"{run.device}: out of memory; lower --batch-size (it is {run.options.batch_size}) "
            f"or --imgsz (it is {run.options.imgsz})"
        ) from None
    return TrainResult(folder, metrics)


def create_folder(run: Run) -> Path:
    """Create the run's folder with what is known before training. With --exist-ok, the run before is removed."""
    folder = new_run_dir(run.options.project, run.options.name, exist_ok=run.options.exist_ok)
    (folder / "weights").mkdir(exist_ok=True)
    remove_run(folder)
    write_options(folder / "args.yaml", run.options)
    write_text(folder / "hyp.yaml", yaml.safe_dump(run.hyp.model_dump(), sort_keys=False))
    return folder


def reopen_folder(run: Run, resumed: Checkpoint) -> Path:
    """The folder of a run that goes on, told of its number of epochs, and without what stands for a finished run."""
    folder = resumed.path.parent.parent
    remove_leftovers(folder)
    if not resumed.training["progress"]["finished"]:
        # The numbers go first: a run without them is finished again, should this be all that happens.
        (folder / "metrics.json").unlink(missing_ok=True)
        stored = read_options(folder / "args.yaml")
        if stored.epochs != run.options.epochs:
            write_options(folder / "args.yaml", replace(stored, epochs=run.options.epochs))
    return folder


def build_trainer(run: Run) -> Trainer:
    """Wire model, loss, optimizer and data together, without callbacks yet; nothing is created for it.

    Raises:
        UserError: if there is no loss as the options say.
    """
    options, hyp, model = run.options, run.hyp, run.model
    if options.sync_bn:
        say("--sync-bn: there is one process, so there is nothing to synchronize")
    # Channels last: a fifth faster on CPUs, and what tensor cores want.
    model = model.to(memory_format=torch.channels_last).to(run.device).train()
    loader = _train_loader(run)
    epochs = options.planned_epochs
    schedule = Schedule(hyp, epochs=epochs, batches=len(loader), batch_size=options.batch_size, cosine=options.cos_lr)
    loss = run.make_loss(model)
    trainer = Trainer(
        model=model,
        loss=loss,
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
        evaluate=lambda ema: _score(ema, run, loss=loss),
        evaluate_every_epoch=not options.noval,
        autocast=autocast_dtype(options.precision, run.device),
        multi_scale=MultiScale(options.imgsz, model.max_stride, options.seed) if options.multi_scale else None,
        patience=options.patience,
    )
    if run.resumed is not None:
        restore_training_state(trainer, run.resumed)
        done, planned = trainer.progress.epochs_done, run.resumed.training["epochs"]
        if planned != epochs:
            say(
                f"extending from {planned} to {epochs} epochs: the learning rate follows the new schedule from "
                f"epoch {done + 1} at {schedule.lr_at(done * len(loader)):.4g}"
            )
    say(f"{options.hyp}: {describe(schedule, optimizer=trainer.optimizer, autocast=trainer.autocast)}")
    return trainer


def finish(run: Run, folder: Path, *, plots: bool = True) -> Mapping[str, float]:
    """Evaluate the best weights as they will be deployed, fused; write the numbers and draw the plots."""
    best = folder / "weights" / "best.pt"
    model = load_checkpoint(best).build()
    assert isinstance(model, Detector)
    evaluation = evaluate(
        TorchBackend(fuse(model.for_inference())[0], device=run.device),
        run.val_set,
        batch_size=run.options.batch_size,
        workers=run.val_workers,
        pictures=plots,
        description="best.pt, fused",
    )
    say(table(evaluation, images=len(run.val_set.annotations)))
    write_text(folder / "metrics.json", json.dumps(metrics_dict(evaluation), indent=2))
    if plots:
        plot_evaluation(evaluation, run.val_set, folder)
    say(f"results in {folder}, weights in {best}")
    return evaluation.metrics


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
    training = {**training_state(trainer), "own_loss": run.own_loss is not None}
    save_checkpoint(path, run.model, ema=trainer.ema.model, training=training, data=run.options.data)


def _save_best(trainer: Trainer, run: Run, path: Path) -> None:
    assert isinstance(trainer.ema.model, Detector)
    save_checkpoint(path, trainer.ema.model, data=run.options.data)


def _callbacks(run: Run, folder: Path, *, epochs_done: int, plots: bool) -> list[Callback]:
    options = run.options
    # A killed run may have rows of epochs that are not in its checkpoint: these are repeated.
    rows = rows_of_epochs(folder / "results.csv", epochs=epochs_done)
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


def _score(model: nn.Module, run: Run, *, loss: Loss) -> Scores:
    assert isinstance(model, Detector)
    batch_size = VAL_BATCHES * run.options.batch_size
    return validate(model, run.val_set, loss=loss, device=run.device, batch_size=batch_size, workers=run.val_workers)


def _train_loader(run: Run) -> TrainLoader:
    options = run.options
    return train_loader(
        run.train_set,
        run.hyp,
        batch_size=options.batch_size,
        workers=run.workers,
        seed=options.seed,
        rect=options.rect,
        stride=run.model.max_stride,
        pin_memory=run.device.type == "cuda",
    )


def with_workers(run: Run) -> Run:
    """With as many processes as there is shared memory for, in training and in the evaluations between."""
    run = replace(run, workers=run.options.planned_workers)
    training = _train_loader(run)
    evaluation = eval_loader(
        run.val_set,
        batch_size=VAL_BATCHES * run.options.batch_size,
        stride=run.model.max_stride,
        pad=run.model.geometry.pad,
        workers=training.workers if training.short_of_memory else run.workers,
    )
    return replace(run, workers=training.workers, val_workers=evaluation.workers)
