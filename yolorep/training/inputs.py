"""What a run starts with: options checked, model and data loaded. Nothing is created or changed here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import yaml

from yolorep.config import Hyp, check_options, lasting_name, load_yaml
from yolorep.console import plural, say
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import Dataset, DetectionDataset
from yolorep.data.loader import square_side
from yolorep.data.scan import count_linked, load_annotations
from yolorep.device import autocast_dtype, select_device
from yolorep.errors import UserError
from yolorep.files import write_text
from yolorep.image_headers import limit_pixels
from yolorep.models.detector import Detector
from yolorep.models.image_size import fit_image_size
from yolorep.ops.letterbox import Geometry
from yolorep.options import TrainOptions, flag
from yolorep.training.autoanchor import object_sizes
from yolorep.training.given import check_beside_data, check_beside_loss, check_loss, check_pair
from yolorep.training.loggers import make_loggers
from yolorep.training.loggers.table import rows_of_epochs
from yolorep.training.recipe import load_hyp
from yolorep.training.resume import check_best, check_run, epochs_to_do, find_last, refuse_unfinished
from yolorep.training.start import freeze_layers, set_bn_momentum, starting_model
from yolorep.training.task import Loss, MakeLoss, training_of
from yolorep.weights.checkpoint import Checkpoint
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
        own_loss: Makes the loss of the model; None for that of its head.
        resumed: Where to go on, or None for a new run.
        workers: Data loading processes in training, as many as there is shared memory for.
        val_workers: Those in the evaluations between.
    """

    options: TrainOptions
    hyp: Hyp
    device: torch.device
    model: Detector
    train_set: Dataset
    val_set: Dataset
    own_loss: MakeLoss | None = None
    resumed: Checkpoint | None = None
    workers: int = 0
    val_workers: int = 0

    def make_loss(self, model: Detector) -> Loss:
        """The loss of the model, or of a copy of it.

        Raises:
            UserError: for an option that the loss of its head does not offer, or if one's own is none.
        """
        options = self.options
        if self.own_loss is None:
            make = training_of(model.head).loss
            return make(model.head, self.hyp, image_size=options.imgsz, label_smoothing=options.label_smoothing)
        loss = self.own_loss(model, self.hyp)
        if not callable(loss):
            raise UserError(f"loss: expected to make a loss, called with (raw, targets), found {type(loss).__name__}")
        return loss


def new_run(
    options: TrainOptions, *, loss: MakeLoss | None = None, dataset: tuple[Dataset, Dataset] | None = None
) -> Run:
    """Check and load the inputs of a new run.

    Args:
        options: What was asked for.
        loss: Makes the loss of the model, instead of that of its head.
        dataset: What to train on and what to evaluate on, instead of the data YAML's.

    Raises:
        UserError: if one is wrong.
    """
    if options.exist_ok:
        refuse_unfinished(Path(options.project) / options.name)
    if loss is not None:
        check_loss(loss)
        check_beside_loss(options)
    if dataset is None:
        options = replace(options, data=lasting_name(options.data, "data"))
    else:
        check_pair(dataset)
        check_beside_data(options, image_size=square_side(dataset[0]))
        options = replace(options, data="", imgsz=square_side(dataset[0]))
    device = select_device(options.device)
    autocast_dtype(options.precision, device)  # refuses what the device does not offer
    make_loggers(options.log)  # refuses what is not installed
    if dataset is None:
        names = load_data_config(options.data, download=options.download).names
    else:
        names = dataset[0].annotations.names
    torch.manual_seed(options.seed)
    model = starting_model(
        options.cfg,
        options.weights,
        names=("item",) if options.single_cls and len(names) > 1 else names,
        backbone_weights=options.backbone_weights,
        expand=options.expand,
    )
    recipe = options.hyp or training_of(model.head).recipe
    options = replace(
        options,
        imgsz=fit_image_size(options.imgsz, model.max_stride),
        hyp=recipe,
        epochs=options.planned_epochs,
        workers=options.planned_workers,
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
    train_set, val_set = check_data(load_data(options) if dataset is None else dataset, options)
    if not options.noautoanchor:
        _fit_head(model, train_set, hyp, options)
    return Run(options, hyp, device, model, train_set, val_set, loss)


def resume_run(
    options: TrainOptions, *, loss: MakeLoss | None = None, dataset: tuple[Dataset, Dataset] | None = None
) -> Run:
    """Load a run to go on with, with the options it was started with; only device, workers and epochs may be given.

    Args:
        options: What was asked for: which run, and where.
        loss: Makes the loss of the model, if one did when it was started.
        dataset: What it was started with, if that was no data YAML.

    Raises:
        UserError: if there is nothing to go on with, the data set's classes are no longer the model's, or what Python
            handed over then is not handed over again.
    """
    if loss is not None:
        check_loss(loss)
    if dataset is not None:
        check_pair(dataset)
    last = find_last(options.resume or "", project=options.project)
    folder = last.parent.parent
    stored = read_options(folder / "args.yaml")
    heeded = ("resume", "device", "workers", "project", "epochs")
    given = [
        flag(entry.name)
        for entry in fields(options)
        if entry.name not in heeded and getattr(options, entry.name) != entry.default
    ]
    if given:
        say(f"--resume takes the options the run was started with; without effect: {', '.join(given)}")
    checkpoint = load_checkpoint(last)
    check_run(checkpoint)
    progress = dict(checkpoint.training["progress"])
    before, asked = stored.planned_epochs, options.epochs
    epochs = epochs_to_do(asked, before=before, progress=progress, last=last)
    workers = stored.planned_workers if options.workers is None else options.workers
    options = replace(stored, device=options.device or stored.device, workers=workers, epochs=epochs)
    planned = checkpoint.training.get("epochs", before)  # fewer than before if no epoch followed an extension
    if progress["finished"] and (asked or epochs != planned):
        progress.update(finished=False, best_epoch=progress["epochs_done"] - 1)  # patience begins anew
    checkpoint = replace(checkpoint, training={**checkpoint.training, "epochs": planned, "progress": progress})
    if progress["finished"] and (folder / "metrics.json").is_file():
        raise UserError(
            f"{last}: the run finished after {progress['epochs_done']} epochs; make it longer with --epochs, or start "
            f"a new one with --weights {last}"
        )
    if not progress["finished"] and progress["epochs_done"] >= epochs:
        raise UserError(
            f"{last}: expected epochs left to do, found {progress['epochs_done']} of {epochs} done; --epochs"
        )
    checkpoint = check_best(checkpoint)
    rows_of_epochs(folder / "results.csv", epochs=progress["epochs_done"])  # refuses a damaged table
    device = select_device(options.device)
    make_loggers(options.log)
    model = checkpoint.build(use_ema=False)
    if not isinstance(model, Detector):
        raise UserError(f"{last}: expected a detector's run, found a classifier")
    freeze_layers(model, options.freeze or [])
    own_loss = checkpoint.training.get("own_loss", loss is not None)  # older files do not say
    _check_again("loss", given=loss is not None, before=own_loss, last=last)
    _check_again("dataset", given=dataset is not None, before=not options.data, last=last)
    train_set, val_set = check_data(load_data(options) if dataset is None else dataset, options)
    if train_set.annotations.names != model.names:
        raise UserError(
            f"{options.data}: expected the classes the run was started with ({', '.join(model.names)}), "
            f"found {', '.join(train_set.annotations.names)}; start a new run with --weights {last}"
        )
    hyp = load_hyp(folder / "hyp.yaml")
    say(f"resuming {folder} after {progress['epochs_done']} of {epochs} epochs")
    return Run(options, hyp, device, model, train_set, val_set, loss, checkpoint)


def load_data(options: TrainOptions) -> tuple[Dataset, Dataset]:
    """The images to train on and those to evaluate on, as the data YAML names them.

    Raises:
        UserError: if a split is missing, without images, or has a wrong label.
    """
    limit_pixels(options.max_pixels)
    config = load_data_config(options.data, quiet=True)  # a run's inputs were told when they were checked
    annotations = {
        split: load_annotations(config, split, single_class=options.single_cls) for split in ("train", "val")
    }
    if linked := count_linked(annotations["train"], annotations["val"]):
        say(f"{options.data}: {plural('image', linked)} of val can be reached from train through links: AP is too high")
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
        options = TrainOptions(**stored)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if "data" not in stored:
        raise UserError(f"{path}: expected the options of a run, found none of data")
    return options


def write_options(path: Path, options: TrainOptions) -> None:
    """The inverse of :func:`read_options`."""
    write_text(path, yaml.safe_dump(asdict(options), sort_keys=False))


def _check_again(name: str, *, given: bool, before: bool, last: Path) -> None:
    """Make sure that what Python hands over is handed over again, and only then."""
    if before and not given:
        raise UserError(
            f"{last}: expected the {name} that it was started with, found none; resume it from Python with {name}="
        )
    if given and not before:
        raise UserError(f"{last}: expected no {name}=, as the run was started without one; leave it out")


def _fit_head(model: Detector, dataset: Dataset, hyp: Hyp, options: TrainOptions) -> None:
    """Fit to the data what the head takes from it, such as anchors."""
    head = model.head
    if (fit := training_of(head).fit) is None:
        return
    annotations = dataset.annotations
    image_of_box = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    sizes = object_sizes(annotations.boxes[:, 3:5], annotations.sizes[image_of_box], image_size=options.imgsz)
    fit(head, sizes, hyp=hyp, seed=options.seed, placeholder=head.needs_fitting)
