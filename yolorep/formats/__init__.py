"""Deployment formats: one a file, which writes and runs it."""

from __future__ import annotations

from importlib import import_module
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


def formats_by_suffix() -> dict[str, Format]:
    """Every format by the suffix of its files."""
    return {made.suffix: made for made in map(load_format, FORMATS)}
