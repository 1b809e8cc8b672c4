"""How large a model file may make a network: small text from anywhere must not cost all memory or hours.

Counted while it is built, before memory is touched.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from yolorep.errors import UserError
from yolorep.limits import MOST_LAYERS

Built = TypeVar("Built")

#: Parameters of a network: 2 GB in single precision. The largest one shipped has 141 million.
MOST_PARAMETERS = 500_000_000
#: Channels of a feature.
MOST_CHANNELS = 100_000
#: Values of a feature of a 256-pixel image. The largest one of the networks shipped has 2 million.
MOST_VALUES = 100_000_000
#: Of any number, either sign.
LARGEST_NUMBER = 10**12
#: Of a multiple, and of the anchors a level has.
LARGEST_MULTIPLE = 1_000
#: Levels of lists in a row.
DEEPEST = 8
#: Letters of a word in a row.
LONGEST_WORD = 1_000
#: Values of a model file, in rows, words and numbers.
MOST_ENTRIES = 500_000
#: Of more faults than this only the first are told.
MOST_FAULTS = 10
#: Letters of what is told about them.
LONGEST_ERROR = 2_000
#: What is built without counting on the meta device first.
_CHEAP = 50_000_000


class TooLarge(ValueError):
    """A network that is beyond a limit."""


class TooManyLayers(TooLarge):
    """The limit that does not depend on what is built: no second look is needed."""


def check_plain(value: Any) -> None:
    """Raises ValueError for what no model file needs: endless numbers, deep lists, words of thousands of letters.

    What has passed can be shown in messages.
    """
    left = MOST_ENTRIES
    stack = [(value, 0)]
    while stack:
        entry, depth = stack.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"expected at most {MOST_ENTRIES:,} values, found more")
        if isinstance(entry, list | tuple | dict):
            if depth >= DEEPEST:
                raise ValueError(f"expected lists inside each other {DEEPEST} times at most, found more")
            parts = [*entry, *entry.values()] if isinstance(entry, dict) else entry
            if len(parts) > left:
                raise ValueError(f"expected at most {MOST_ENTRIES:,} values, found more")
            stack.extend((part, depth + 1) for part in parts)
        elif isinstance(entry, str):
            if len(entry) > LONGEST_WORD:
                raise ValueError(f"expected words of at most {LONGEST_WORD:,} letters, found {len(entry):,}")
        elif isinstance(entry, int | float) and not abs(entry) <= LARGEST_NUMBER:
            kind = f"{entry:g}" if isinstance(entry, float) else f"one of {entry.bit_length()} bits"
            raise ValueError(f"expected numbers up to {LARGEST_NUMBER:.0e}, found {kind}")


def told(faults: Sequence[str]) -> str:
    """The first faults in one line, and that there are more."""
    more = ["and more"] if len(faults) > MOST_FAULTS else []
    return short("; ".join([*faults[:MOST_FAULTS], *more]), LONGEST_ERROR)


def row_text(row: Any) -> str:
    """A row as it is shown in messages."""
    return short(str(row).replace("'", ""))


def short(text: str, length: int = 80) -> str:
    """A text cut to a length, with a question mark for what cannot be shown."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: length + 1])
    return text if len(text) <= length else f"{text[: length - 3]}..."


def check_channels(channels: int) -> None:
    """Raises TooLarge for more channels of a feature than a network may have."""
    if channels > MOST_CHANNELS:
        raise TooLarge(f"expected at most {MOST_CHANNELS:,} channels, found {channels:,}")


def check_parameters(parameters: int) -> None:
    """Raises TooLarge for more parameters than a network may have."""
    if parameters > MOST_PARAMETERS:
        raise TooLarge(f"expected at most {MOST_PARAMETERS:,} parameters, found about {parameters:,}")


def check_feature(values: int) -> None:
    """Raises TooLarge for a feature of more values, for a 256-pixel image, than a network may have."""
    if values > MOST_VALUES:
        raise TooLarge(f"expected at most {MOST_VALUES:,} values of a feature of a 256-pixel image, found {values:,}")


def build_within(make: Callable[[], Built]) -> Built:
    """``make()``, a network, unless it has too many layers or parameters.

    Raises:
        TooLarge: before memory is taken.
    """
    state = torch.get_rng_state()
    try:
        with _counting(parameters=_CHEAP):
            return make()
    except TooManyLayers:
        raise
    except (TooLarge, UserError) as error:  # of a wrong row, or of memory that is not there
        fault = error if isinstance(error, UserError) else None
    torch.set_rng_state(state)
    try:
        with torch.device("meta"), _counting(parameters=MOST_PARAMETERS):
            make()
    except UserError as error:
        raise fault or error from error
    if fault is not None:
        raise fault
    return make()


@contextmanager
def _counting(*, parameters: int) -> Iterator[None]:
    """Raises TooLarge where modules of this thread are given too many modules or parameters.

    A parameter is counted when it becomes its module's: PyTorch's layers fill it with numbers after that.
    """
    thread = threading.get_ident()
    layers = values = 0

    def add_layer(_module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal layers
        layers += threading.get_ident() == thread
        if layers > MOST_LAYERS:
            raise TooManyLayers(f"expected at most {MOST_LAYERS:,} layers, those inside blocks counted, found more")

    def add_values(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal values
        if parameter is not None and threading.get_ident() == thread:
            values += math.prod(parameter.shape)
        if values > parameters:
            raise TooLarge(f"expected at most {parameters:,} parameters, found more")

    hooks = [
        torch_module.register_module_module_registration_hook(add_layer),
        torch_module.register_module_parameter_registration_hook(add_values),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
