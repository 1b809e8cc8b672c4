"""Where names become objects: weights to models, files to backends, heads to losses."""

from __future__ import annotations

from pathlib import Path

import torch

from yolorep.engine.checkpoint import load_checkpoint
from yolorep.errors import UserError, suggest
from yolorep.models.detector import Detector
from yolorep.nn.reparam import fuse
from yolorep.runtime.base import Backend

#: Endings of files that can be run, and what they are.
RUNNABLE = {".pt": "checkpoint", ".onnx": "ONNX", ".torchscript": "TorchScript"}


def load_model(weights: str | Path, *, device: torch.device | str = "cpu") -> Detector:
    """Loads a detector from our checkpoint or from a YOLOv5 ``.pt``, whose pickle is not run.

    Args:
        weights: the file.
        device: where to put it.

    Returns:
        A float32 model in eval mode with the averaged weights, in training form unless the file is marked fused.

    Raises:
        UserError: if the file is missing, damaged, refused or does not fit.
    """
    network = load_checkpoint(weights).build()
    if not isinstance(network, Detector):
        raise UserError(f"{weights}: expected a detector, found a classifier; it runs with 'yolorep classify'")
    return network.to(device)


def load_backend(
    weights: str | Path, *, device: torch.device | None = None, half: bool = False, fused: bool = True
) -> Backend:
    """Makes a checkpoint or an exported file runnable.

    Args:
        weights: ``.pt``, ``.onnx`` or ``.torchscript``.
        device: where to run it; the CPU by default.
        half: float16.
        fused: fuse a checkpoint first.

    Raises:
        UserError: if the file is missing, of an unknown kind, or cannot be run here.
    """
    path = Path(weights)
    device = device or torch.device("cpu")
    if not str(weights):
        raise UserError(f"--weights: missing; expected a file ending in {', '.join(RUNNABLE)}")
    if path.suffix not in RUNNABLE:
        raise UserError(
            f"{path}: expected weights ending in {', '.join(RUNNABLE)}, found {path.suffix or 'no ending'!r}"
            f"{suggest(path.suffix, RUNNABLE)}"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights ({', '.join(RUNNABLE)})")
    if half and path.suffix != ".pt":
        raise UserError(f"--half: {path} computes in the precision it was exported in; leave --half out")
    if path.suffix == ".onnx":
        from yolorep.runtime.onnx import OnnxBackend

        return OnnxBackend(path, device=device)
    if path.suffix == ".torchscript":
        from yolorep.runtime.torchscript import TorchScriptBackend

        return TorchScriptBackend(path, device=device)
    from yolorep.runtime.pytorch import TorchBackend

    model = load_model(path)
    if fused:
        model = fuse(model)[0]
    return TorchBackend(model, device=device, half=half)
