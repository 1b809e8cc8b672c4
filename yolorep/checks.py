"""Checks of single arguments, whose errors say what was expected and what was found."""

from __future__ import annotations

import operator
from typing import Any

from yolorep.errors import UserError, shown
from yolorep.limits import LARGEST_NUMBER


def whole_number(name: str, value: Any, *, low: int = 1) -> int:
    """Returns ``value``, a whole number of any integer type, as an int.

    Raises:
        UserError: if it is none, below ``low``, or larger than any means.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is not None and number > LARGEST_NUMBER:
        raise UserError(f"{name}: expected a number of at most {LARGEST_NUMBER}, found a larger one")
    if number is None or isinstance(value, bool) or number < low:
        raise UserError(f"{name}: expected a whole number of at least {low}, found {shown(value)}")
    return number


def share(name: str, value: Any) -> float:
    """Returns ``value``, a number from 0 to 1, as a float.

    Raises:
        UserError: if it is none.
    """
    try:
        if not isinstance(value, str) and 0 <= (number := float(value)) <= 1:
            return number
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several numbers
        pass
    raise UserError(f"{name}: expected a number from 0 to 1, found {shown(value)}")
