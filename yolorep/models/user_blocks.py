"""Blocks from files of the user's own: run because the user names the file, never because another file does."""

from __future__ import annotations

import hashlib
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import yolorep.models.detector  # noqa: F401  (registers the program's own rows: their names are taken)
from yolorep.errors import UserError
from yolorep.nn.registry import ROW_TYPES


def import_blocks(path: str | Path) -> None:
    """Runs a Python file, which registers its rows with ``@register()``.

    A file is run once, however often and by whatever path it is named. Its own folder is not searched for modules.

    Raises:
        UserError: if there is no such file, it is no Python, or it fails: then none of its rows is registered.
    """
    file = Path(path).resolve()
    if file.suffix != ".py":
        raise UserError(f"--import {path}: expected a Python file ending in .py")
    if not file.is_file():
        raise UserError(f"--import {path}: no such file")
    name = f"yolorep_blocks_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # .py files have both
    rows = dict(ROW_TYPES)
    sys.modules[name] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[name]
        ROW_TYPES.clear()
        ROW_TYPES.update(rows)
        reason = " ".join(str(error).split())
        raise UserError(
            f"--import {path}: line {_line(error, str(file))}: {type(error).__name__}{': ' if reason else ''}{reason}"
        ) from error


def _line(error: BaseException, file: str) -> int | None:
    """The line of the file that was running when the error came, or that is no Python."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else getattr(error, "lineno", None)
