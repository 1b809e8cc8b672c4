"""Weights of detectors and classifiers from whatever file they are in."""

from __future__ import annotations

from pathlib import Path

from yolorep.errors import UserError
from yolorep.models.model_file import ModelConfig
from yolorep.weights.bare import bare_tensors, checkpoint_of, kind_of_content
from yolorep.weights.checkpoint import Checkpoint, is_ours, parse_checkpoint
from yolorep.weights.kinds import is_safetensors, kind_of_file
from yolorep.weights.pickles import read_content, reading
from yolorep.weights.yolov5 import is_yolov5, load_yolov5


def load_checkpoint(path: str | Path, *, config: ModelConfig | None = None) -> Checkpoint:
    """Reads our checkpoints and YOLOv5's; nothing in the file is run.

    Args:
        path: the file.
        config: the model whose tensors it holds, should it hold nothing else: a plain ``state_dict``.

    Raises:
        UserError: one line, if the file is missing, damaged, or of another kind, which is named.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: expected weights (.pt), found a folder; name the file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights (.pt)")
    with reading(path, "checkpoint"):
        content = read_content(path)
        if is_ours(content):
            return parse_checkpoint(content, path)
        if is_yolov5(content):
            try:
                return load_yolov5(content, path)
            except UserError:
                if not kind_of_file(path):  # else another program's, whose classes have YOLOv5's names
                    raise
        tensors = bare_tensors(content)
        if config is not None and tensors:
            return checkpoint_of(tensors, config, path)
        layout = "a safetensors file: " if is_safetensors(path) else ""
        found = kind_of_file(path) or f"{layout}{kind_of_content(content, path)}"
    raise UserError(f"{path}: expected a checkpoint, found {found}")
