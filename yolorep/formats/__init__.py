"""Deployment formats: one a file, which writes and runs it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolorep.formats.base import Format

#: Every format as ``module:class``, imported when it is used: their names alone are listed without waiting for torch.
FORMATS = {
    "onnx": "yolorep.formats.onnx:Onnx",
    "torchscript": "yolorep.formats.torchscript:TorchScript",
}


def load_format(name: str) -> Format:
    """The format of that name, a key of :data:`FORMATS`."""
    module, _, kind = FORMATS[name].partition(":")
    made: Format = getattr(import_module(module), kind)()
    return made


def suffixes() -> list[str]:
    """How the files of every format end."""
    return [load_format(name).suffix for name in FORMATS]


def format_of(path: Path) -> Format | None:
    """The format whose files end as this one does; None if there is none."""
    return next((made for made in map(load_format, FORMATS) if path.name.lower().endswith(made.suffix)), None)
