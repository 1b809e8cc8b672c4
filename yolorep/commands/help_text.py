"""What is said of an option, on the command line and in Python."""

from __future__ import annotations

from dataclasses import Field
from typing import Any

from yolorep.formats import FORMATS


def help_text(entry: Field[Any]) -> str:
    """An option's line, with the deployment formats there are filled in."""
    text: str = entry.metadata["help"]
    return text.format(formats=", ".join(FORMATS))


def default_text(entry: Field[Any]) -> str:
    """`` (default: 16)``; nothing where the default is to do nothing."""
    value = ", ".join(entry.default) if isinstance(entry.default, tuple) else entry.default
    return "" if value is None or value is False or value == "" else f" (default: {value})"
