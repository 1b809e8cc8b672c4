"""Weights of detectors and classifiers from whatever file they are in."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch

from yolorep.errors import UserError
from yolorep.weights.checkpoint import Checkpoint, parse_checkpoint
from yolorep.weights.pickles import DAMAGE
from yolorep.weights.yolov5 import load_yolov5


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads our checkpoints and YOLOv5's; nothing in the file is run.

    Raises:
        UserError: one line, if the file is missing, damaged, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights (.pt)")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: expected a checkpoint (a zip file), found something else or a damaged one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused below anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, OSError):
        return load_yolov5(path)
    return parse_checkpoint(content, path)
