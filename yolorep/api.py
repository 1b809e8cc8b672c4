"""The Python front door: the commands as functions, their flags as keyword arguments, exceptions for exit codes.

A function takes the fields of its command's options (:mod:`yolorep.options`), with the same names, defaults and checks,
by keyword only. Wrong input raises :class:`yolorep.errors.UserError`, whose text is the command line's one line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from yolorep.commands.help_text import help_text
from yolorep.config import check_options
from yolorep.errors import opencv_wanted
from yolorep.options import DetectOptions, ExportOptions, Options, TrainOptions, ValOptions, option

if TYPE_CHECKING:
    from yolorep.data.dataset import Dataset
    from yolorep.evaluation.evaluator import Evaluation
    from yolorep.training.run import TrainResult
    from yolorep.training.task import MakeLoss
    from yolorep.training.trainer import Callback

P = ParamSpec("P")
R = TypeVar("R")
OptionsT = TypeVar("OptionsT", bound=Options)


def _by_keyword(
    options: Callable[P, OptionsT], *, flags: type[Options]
) -> Callable[[Callable[[OptionsT], R]], Callable[P, R]]:
    """Decorator: a function of a command's options becomes one of their fields, checked and documented as they are.

    Args:
        options: what the function takes: the flags, and perhaps more.
        flags: the command's own options, whose values are checked.
    """

    def decorate(function: Callable[[OptionsT], R]) -> Callable[P, R]:
        assert isinstance(options, type) and issubclass(options, Options)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            extra = {entry.name for entry in fields(options)} - {entry.name for entry in fields(flags)}
            given = {name: _plain(value) for name, value in kwargs.items() if name not in extra}
            check_options(flags, given, source=f"{function.__name__}()")
            with opencv_wanted():
                return function(options(*args, **{**kwargs, **given}))

        lines = [f"    {entry.name}: {help_text(entry)}." for entry in fields(options)]
        call.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Args:", *lines])
        call.__signature__ = inspect.signature(options).replace(  # type: ignore[attr-defined]
            return_annotation=function.__annotations__["return"]
        )
        return call

    return decorate


def _plain(value: object) -> object:
    """A value as the command line would give it: paths as text, tuples as lists."""
    if isinstance(value, PurePath):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class _TrainArguments(TrainOptions):
    """What Python can hand over besides the flags."""

    callbacks: Sequence[Callback] = option((), "objects called beside training, after the program's own")
    loss: MakeLoss | None = option(
        None, "model -> its loss, (raw maps, targets) -> LossTerms, instead of the loss of the model's head"
    )
    dataset: tuple[Dataset, Dataset] | None = option(
        None, "what to train on and what to evaluate on, such as two SequenceDatasets, instead of data"
    )


@_by_keyword(_TrainArguments, flags=TrainOptions)
def train(arguments: _TrainArguments) -> TrainResult:
    """Trains a detector, as ``train.py`` does.

    Returns:
        The run's folder, the weights' paths, the twelve numbers of the best weights and, when asked for, the model.

    Raises:
        UserError: if an input is wrong; nothing has been created then.
        NonFiniteLoss: if training diverges; checkpoints of finished epochs are kept.
        KeyboardInterrupt: on Ctrl-C, with a ``last.pt`` to go on from and saying so.
    """
    from yolorep.training.run import train as run

    options = TrainOptions(**{entry.name: getattr(arguments, entry.name) for entry in fields(TrainOptions)})
    return run(options, callbacks=arguments.callbacks, loss=arguments.loss, dataset=arguments.dataset)


@_by_keyword(ValOptions, flags=ValOptions)
def val(options: ValOptions) -> Evaluation:
    """Evaluates weights on a data set, as ``val.py`` does.

    Returns:
        pycocotools' numbers, every image's detections and the folder with what was written.

    Raises:
        UserError: if weights, data or both do not fit.
    """
    from yolorep.commands.val import run

    return run(options)


@_by_keyword(DetectOptions, flags=DetectOptions)
def detect(options: DetectOptions) -> Path | None:
    """Detects objects in everything a source names and writes what is asked for, as ``detect.py`` does.

    For the detections themselves use :class:`yolorep.Predictor`.

    Returns:
        The folder of the results; None if nothing was to be saved.

    Raises:
        UserError: if an option is wrong, or not one input could be read.
    """
    from yolorep.commands.detect import run

    return run(options)


@_by_keyword(ExportOptions, flags=ExportOptions)
def export(options: ExportOptions) -> list[Path]:
    """Exports the fused model to every format asked for, as ``export.py`` does, each file checked against the model.

    Returns:
        The files, in the order of ``include``.

    Raises:
        UserError: if the options, the weights or the data are wrong.
        ExportError: if a file differs from the model; that file is not kept.
    """
    from yolorep.commands.export import run

    return run(options)
