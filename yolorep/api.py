"""The Python front door: the commands as functions, their flags as keyword arguments, exceptions for exit codes.

A function takes the fields of its command's options (:mod:`yolorep.options`), with the same names, defaults and checks,
by keyword only; ``help(train)`` explains each. Wrong input raises :class:`yolorep.errors.UserError`, whose text is the
command line's one line.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from yolorep.commands.help_text import help_text
from yolorep.config import check_options
from yolorep.errors import opencv_wanted
from yolorep.options import DetectOptions, ExportOptions, Options, TrainOptions, ValOptions

if TYPE_CHECKING:
    from yolorep.data.dataset import Dataset
    from yolorep.evaluation.evaluator import Evaluation
    from yolorep.training.run import TrainResult
    from yolorep.training.task import MakeLoss
    from yolorep.training.trainer import Callback

#: A file, or whatever else a flag names.
Name = str | os.PathLike[str]
OptionsT = TypeVar("OptionsT", bound=Options)
Function = TypeVar("Function", bound=Callable[..., Any])


def _explained(options: type[Options]) -> Callable[[Function], Function]:
    """Decorator: adds the flags' help to the function's documentation."""

    def explain(function: Function) -> Function:
        lines = [f"    {entry.name}: {help_text(entry)}." for entry in fields(options)]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "The flags:", *lines])
        return function

    return explain


def _options(kind: type[OptionsT], arguments: Mapping[str, Any], *, caller: str) -> OptionsT:
    """A command's options from a function's arguments.

    Raises:
        UserError: if one is of a wrong type or value.
    """
    hints = get_type_hints(kind)
    given = {entry.name: _as_flag(arguments[entry.name], hints[entry.name]) for entry in fields(kind)}
    check_options(kind, given, source=f"{caller}()")
    return kind(**given)


def _as_flag(value: Any, hint: Any) -> Any:
    """A value as the command line would give it: paths as text, and a list where a flag takes several values."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a CUDA index
    kinds = {get_origin(kind) for kind in (hint, *get_args(hint))}
    if tuple in kinds and isinstance(value, list):
        return tuple(value)  # height and width
    if value is None or list not in kinds:
        return value
    return [value] if isinstance(value, str | int) else list(value)


@_explained(TrainOptions)
def train(
    *,
    weights: Name | None = None,
    cfg: Name | None = None,
    backbone_weights: Name | None = None,
    expand: str | None = None,
    data: Name = "data/shapes.yaml",
    download: bool = False,
    hyp: Name | None = None,
    epochs: int | None = None,
    batch_size: int = 16,
    imgsz: int = 640,
    rect: bool = False,
    resume: Name | None = None,
    nosave: bool = False,
    noval: bool = False,
    noautoanchor: bool = False,
    cache: str | None = None,
    device: str | int = "",
    multi_scale: bool = False,
    single_cls: bool = False,
    optimizer: str | None = None,
    sync_bn: bool = False,
    max_pixels: int | None = None,
    workers: int | None = None,
    project: Name = "runs/train",
    name: str = "exp",
    exist_ok: bool = False,
    cos_lr: bool = False,
    label_smoothing: float = 0.0,
    patience: int = 100,
    freeze: Sequence[int] | None = None,
    save_period: int = -1,
    log: str | Sequence[str] | None = None,
    seed: int = 0,
    precision: str = "auto",
    callbacks: Sequence[Callback] = (),
    loss: MakeLoss | None = None,
    dataset: tuple[Dataset, Dataset] | None = None,
) -> TrainResult:
    """Trains a detector, as ``train.py`` does.

    Args:
        callbacks: objects called beside training, after the program's own.
        loss: (model, recipe) -> its loss, (raw maps, targets) -> LossTerms, instead of the loss of its head.
        dataset: what to train on and what to evaluate on, such as two ``SequenceDataset``, instead of ``data``.

    Returns:
        The run's folder, the weights' paths, the twelve numbers of the best weights and, when asked for, the model.

    Raises:
        UserError: if an input is wrong; nothing has been created then.
        NonFiniteLoss: if training diverges; checkpoints of finished epochs are kept.
        KeyboardInterrupt: on Ctrl-C, with a ``last.pt`` to go on from and saying so.
    """
    options = _options(TrainOptions, locals(), caller="train")
    with opencv_wanted():
        from yolorep.training.run import train as run

        return run(options, callbacks=callbacks, loss=loss, dataset=dataset)


@_explained(ValOptions)
def val(
    *,
    data: Name | None = None,
    download: bool = False,
    batch_size: int = 16,
    imgsz: int | Sequence[int] | None = None,
    conf_thres: float = 0.001,
    iou_thres: float = 0.6,
    max_det: int = 300,
    nms_free: bool = False,
    task: str = "val",
    device: str | int = "",
    max_pixels: int | None = None,
    workers: int = 2,
    single_cls: bool = False,
    augment: bool = False,
    half: bool = False,
    no_fuse: bool = False,
    no_rect: bool = False,
    name: str = "exp",
    exist_ok: bool = False,
    weights: Name = "",
    verbose: bool = False,
    save_txt: bool = False,
    save_conf: bool = False,
    save_json: bool = False,
    project: Name = "runs/val",
    dataset: Dataset | None = None,
) -> Evaluation:
    """Evaluates weights on a data set, as ``val.py`` does.

    Args:
        dataset: what to evaluate on, such as a ``SequenceDataset``, instead of ``data``.

    Returns:
        pycocotools' numbers, every image's detections and the folder with what was written.

    Raises:
        UserError: if weights, data or both do not fit.
    """
    options = _options(ValOptions, locals(), caller="val")
    with opencv_wanted():
        from yolorep.commands.val import run

        return run(options, dataset)


@_explained(DetectOptions)
def detect(
    *,
    weights: Name = "",
    source: Name = "",
    data: Name | None = None,
    imgsz: int | Sequence[int] | None = None,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 1000,
    nms_free: bool = False,
    device: str | int = "",
    view_img: bool = False,
    save_txt: bool = False,
    save_csv: bool = False,
    save_json: bool = False,
    save_conf: bool = False,
    save_crop: bool = False,
    nosave: bool = False,
    classes: int | str | Sequence[int | str] | None = None,
    agnostic_nms: bool = False,
    augment: bool = False,
    project: Name = "runs/detect",
    name: str = "exp",
    exist_ok: bool = False,
    line_thickness: int | None = None,
    hide_labels: bool = False,
    hide_conf: bool = False,
    half: bool = False,
    max_pixels: int | None = None,
    vid_stride: int = 1,
    reconnect_timeout: float | None = None,
) -> Path | None:
    """Detects objects in everything a source names and writes what is asked for, as ``detect.py`` does.

    For the detections themselves use :class:`yolorep.Predictor`.

    Returns:
        The folder of the results; None if nothing was to be saved.

    Raises:
        UserError: if an option is wrong, or not one input could be read.
    """
    options = _options(DetectOptions, locals(), caller="detect")
    with opencv_wanted():
        from yolorep.commands.detect import run

        return run(options)


@_explained(ExportOptions)
def export(
    *,
    weights: Name = "",
    include: str | Sequence[str] = ("onnx",),
    imgsz: int | Sequence[int] | None = None,
    batch_size: int = 1,
    dynamic: bool = False,
    nms_free: bool = False,
    data: Name | None = None,
    device: str | int = "cpu",
    opset: int = 18,
) -> list[Path]:
    """Exports the fused model to every format asked for, as ``export.py`` does, each file checked against the model.

    Returns:
        The files, in the order of ``include``.

    Raises:
        UserError: if the options, the weights or the data are wrong.
        ExportError: if a file differs from the model; that file is not kept.
    """
    options = _options(ExportOptions, locals(), caller="export")
    with opencv_wanted():
        from yolorep.commands.export import run

        return run(options)
