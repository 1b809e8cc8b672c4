"""The values a model file's keys may have: each check returns the value or raises ValueError with what it expected."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import nn

from yolorep.errors import suggest
from yolorep.limits import MOST_CLASSES
from yolorep.models import limits

#: What a model file may name as ``activation``.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    f"nn.{cls.__name__}": cls
    for cls in (
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU, nn.SELU, nn.CELU),
        *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Softplus, nn.Identity),
    )
}

#: Letters of an activation.
LONGEST_ACTIVATION = 100


def parse_activation(text: str) -> Callable[[], nn.Module]:
    """Turns ``nn.LeakyReLU(0.1)`` or ``nn.ReLU`` into a factory, without running it.

    Raises:
        ValueError: for anything but a known name with plain values as arguments.
    """
    try:
        if len(text) > LONGEST_ACTIVATION:
            raise ValueError
        node: ast.expr = ast.parse(text.strip(), mode="eval").body
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if isinstance(node, ast.Call):
            args = [ast.literal_eval(arg) for arg in node.args]
            kwargs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
            node = node.func
        name = ast.unparse(node).removeprefix("torch.")
        cls = ACTIVATIONS[name]
        bound = inspect.signature(cls).bind(*args, **kwargs)
        bound.arguments.pop("inplace", None)  # in place or not is the builder's business: the value is the same
        if not all(math.isfinite(number) for number in bound.arguments.values() if isinstance(number, int | float)):
            raise ValueError
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"expected an activation such as nn.LeakyReLU(0.1), found {text[:LONGEST_ACTIVATION]!r}"
        ) from error
    except KeyError:
        raise ValueError(
            f"unknown activation {text!r}{suggest(name, ACTIVATIONS)}; known: {', '.join(ACTIVATIONS)}"
        ) from None
    return lambda: cls(*bound.args, **bound.kwargs)


def positive(value: Any) -> float:
    """A number above 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"expected a number above 0, found {value!r}")
    return float(value)


def multiple(value: Any) -> float:
    """A number above 0 that channels or repeats are multiplied by."""
    if positive(value) > limits.LARGEST_MULTIPLE:
        raise ValueError(f"expected a number of at most {limits.LARGEST_MULTIPLE:,}, found {value!r}")
    return float(value)


def classes(value: Any) -> int:
    """How many classes there are."""
    if positive_int(value) > MOST_CLASSES:
        raise ValueError(f"expected at most {MOST_CLASSES:,} classes, found {value!r}")
    return int(value)


def positive_int(value: Any) -> int:
    """A whole number of at least 1."""
    return _whole(value, low=1)


def count(value: Any) -> int:
    """A whole number of at least 0."""
    return _whole(value, low=0)


def rgb(value: Any) -> int:
    """3, the channels of an image."""
    if value != 3:
        raise ValueError(f"expected 3: images are RGB; found {value!r}")
    return 3


def anchors(value: Any) -> list[list[float]] | int:
    """Widths and heights in pixels for every level, or their number."""
    if isinstance(value, list):
        if not all(isinstance(level, list) and level and len(level) % 2 == 0 for level in value):
            raise ValueError("expected a list of widths and heights w1, h1, w2, h2, … for every level")
        return [[positive(side) for side in level] for level in value]
    if positive_int(value) > limits.LARGEST_MULTIPLE:
        raise ValueError(f"expected at most {limits.LARGEST_MULTIPLE:,} anchors a level, found {value!r}")
    return int(value)


def rate(value: Any) -> float:
    """A number from 0 to less than 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"expected a rate from 0 to less than 1, found {value!r}")
    return float(value)


def activation_text(value: Any) -> str:
    """An activation as :func:`parse_activation` reads it."""
    if not isinstance(value, str):
        raise ValueError(f"expected an activation such as nn.LeakyReLU(0.1), found {value!r}")
    parse_activation(value)
    return value


def _whole(value: Any, *, low: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"expected a whole number of at least {low}, found {value!r}")
    return value
