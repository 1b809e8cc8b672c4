"""What a run starts with: options checked, model and data loaded. Nothing is created or changed here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import yaml

from yolorep.config import Hyp, check_options, find_config, load_yaml, resources_dir
from yolorep.console import say
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import Dataset, DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.device import autocast_dtype, select_device
from yolorep.errors import UserError
from yolorep.files import write_text
from yolorep.models.detector import Detector
from yolorep.models.image_size import fit_image_size
from yolorep.ops.letterbox import Geometry
from yolorep.options import EPOCHS, TrainOptions, flag
from yolorep.training.autoanchor import object_sizes
from yolorep.training.loggers import make_loggers
from yolorep.training.recipe import load_hyp
from yolorep.training.resume import epochs_to_do, find_last, refuse_unfinished
from yolorep.training.start import freeze_layers, set_bn_momentum, starting_model
from yolorep.training.task import HEADS, Loss
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
        resumed: Where to go on, or None for a new run.
    """

    options: TrainOptions
    hyp: Hyp
    device: torch.device
    model: Detector
    train_set: Dataset
    val_set: Dataset
    resumed: Checkpoint | None = None


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
    """Load a run to go on with, with the options it was started with; only the device and more epochs may be given.

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
        flag(entry.name)
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
    say(f"resuming {folder} after {progress['epochs_done']} of {epochs} epochs")
    return Run(options, hyp, device, model, train_set, val_set, checkpoint)


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


def build_loss(model: Detector, hyp: Hyp, options: TrainOptions) -> Loss:
    """The loss of the model's head.

    Raises:
        UserError: for an option that this loss does not offer.
    """
    make = HEADS[type(model.head)].loss
    return make(model.head, hyp, image_size=options.imgsz, label_smoothing=options.label_smoothing)


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


def _fit_head(model: Detector, dataset: Dataset, hyp: Hyp, options: TrainOptions) -> None:
    """Fit to the data what the head takes from it, such as anchors."""
    head = model.head
    if (fit := HEADS[type(head)].fit) is None:
        return
    annotations = dataset.annotations
    image_of_box = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    sizes = object_sizes(annotations.boxes[:, 3:5], annotations.sizes[image_of_box], image_size=options.imgsz)
    fit(head, sizes, hyp=hyp, seed=options.seed, placeholder=head.needs_fitting)
