"""The errors that reach users, and the closest-name hint they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong. Shown as one line without a traceback; the process exits with code 2.

    The message says what was expected, what was found, where, and what to do.
    """


class FuseError(RuntimeError):
    """A fold is not exact or not possible: a defect of the block or of how it is used, never of the user's data."""


class ExportError(RuntimeError):
    """A file could not be written, or does not compute what the model computes. Nothing is left behind."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """Returns ``" (did you mean 'X'?)"`` for the closest of ``choices``, or an empty string."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f" (did you mean '{by_lower[close[0]]}'?)" if close else ""
