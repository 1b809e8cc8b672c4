"""What Python hands over besides the flags, checked before anything else: callbacks, a loss, data sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from yolorep.data.annotations import Annotations
from yolorep.data.dataset import Dataset
from yolorep.errors import UserError
from yolorep.options import TrainOptions
from yolorep.training.task import MakeLoss
from yolorep.training.trainer import Callback

#: Options that say what a data set brings itself.
_BROUGHT_BY_DATA = ("data", "single_cls", "cache", "download")
#: What a data set has, and how to tell.
_MEMBERS: dict[str, Callable[[Any], bool]] = {
    "annotations": lambda value: isinstance(value, Annotations),
    "image_size": lambda value: isinstance(value, int) and value >= 1,
    "in_memory": lambda value: isinstance(value, bool),
    "load_image": lambda value: callable(value),
}


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Makes sure that these are callbacks.

    Raises:
        UserError: if they are no list or one of them is something else.
    """
    if not isinstance(callbacks, list | tuple):
        raise UserError(f"callbacks: expected a list of Callback objects, found {_named(callbacks)}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            hint = f"; write {callback.__name__}()" if isinstance(callback, type) else ""
            raise UserError(f"callbacks: expected a list of Callback objects, found {_named(callback)} in it{hint}")


def check_loss(loss: MakeLoss) -> None:
    """Makes sure that this can be called as what makes a loss is.

    Raises:
        UserError: if not.
    """
    wanted = "loss: expected a class or function that makes the loss of (model, recipe), found"
    if not callable(loss):
        raise UserError(f"{wanted} {_named(loss)}")
    try:
        signature = inspect.signature(loss)
    except ValueError:  # not known of everything written in C
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise UserError(f"{wanted} {_named(loss)}, which takes {signature}") from error


def check_beside_loss(options: TrainOptions) -> None:
    """Makes sure that no option is meant for the loss that another is used instead of.

    Raises:
        UserError: naming the option.
    """
    if smoothing := options.label_smoothing:
        raise UserError(f"--label-smoothing {smoothing:g}: belongs to the head's loss, not to loss=; leave it out")


def check_pair(dataset: tuple[Dataset, Dataset]) -> None:
    """Makes sure that these are two data sets.

    Raises:
        UserError: naming what one lacks.
    """
    wanted = "dataset: expected a pair of data sets, what to train on and what to evaluate on, found"
    if not isinstance(dataset, list | tuple):
        raise UserError(f"{wanted} {_named(dataset)}")
    if len(dataset) != 2:
        raise UserError(f"{wanted} {len(dataset)} in a {type(dataset).__name__}")
    for which, one in zip(("first", "second"), dataset, strict=True):
        if lacking := [name for name, fits in _MEMBERS.items() if not fits(getattr(one, name, None))]:
            raise UserError(
                f"dataset: the {which}: expected a data set as yolorep.Dataset describes it, found {_named(one)}, "
                f"whose {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing or of another type"
            )


def check_beside_data(options: TrainOptions, *, image_size: int) -> None:
    """Makes sure that no option says otherwise than a data set of ``image_size`` that is used instead of a YAML's.

    Raises:
        UserError: naming the options.
    """
    if given := [name for name in _BROUGHT_BY_DATA if getattr(options, name) != getattr(TrainOptions, name)]:
        them = "it" if len(given) == 1 else "them"
        raise UserError(f"without effect beside dataset=: {', '.join(given)}; leave {them} out")
    if options.imgsz not in (TrainOptions.imgsz, image_size):
        raise UserError(f"imgsz: expected the dataset's image_size, {image_size}, found {options.imgsz}; leave it out")


def _named(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
