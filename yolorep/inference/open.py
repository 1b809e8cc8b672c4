"""From a path to something that runs: checkpoints and files of every format."""

from __future__ import annotations

from pathlib import Path

import torch

from yolorep.errors import UserError, suggest
from yolorep.formats import format_of, suffixes
from yolorep.formats.base import Backend
from yolorep.formats.pytorch import TorchBackend
from yolorep.models.classifier import Classifier
from yolorep.models.detector import Detector, build_network
from yolorep.nn.reparam import fuse
from yolorep.weights.load import load_checkpoint


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
    weights: str | Path,
    *,
    device: torch.device | None = None,
    half: bool = False,
    fused: bool = True,
    nms_free: bool = False,
) -> Backend:
    """Makes a checkpoint or an exported file runnable.

    Args:
        weights: a checkpoint (``.pt``), or a file of one of the formats.
        device: where to run it; the CPU by default.
        half: float16.
        fused: fuse a checkpoint first.
        nms_free: run its one-to-one branch, which needs no NMS. An exported file has the branch it was exported with.

    Raises:
        UserError: if the file is missing, of an unknown kind, without that branch, or cannot be run here.
    """
    path = Path(weights)
    device = device or torch.device("cpu")
    endings = [".pt", *suffixes()]
    if not str(weights):
        raise UserError(f"--weights: missing; expected a file ending in {', '.join(endings)}")
    made = format_of(path)
    if made is None and path.suffix.lower() != ".pt":
        if path.exists():
            load_model(path)  # says what it is
        raise UserError(
            f"{path}: expected weights ending in {', '.join(endings)}, found {path.suffix or 'no ending'!r}"
            f"{suggest(path.suffix, endings)}"
        )
    if not path.exists():
        raise UserError(f"{path}: no such file; expected weights ({', '.join(endings)})")
    if made is None:
        model = load_model(path).for_inference(nms_free=nms_free)
        return TorchBackend(fuse(model, image_size=None)[0] if fused else model, device=device, half=half)
    if half:
        raise UserError(f"--half: {path} computes in the precision it was exported in; leave --half out")
    exported = made.open(path, device=device)
    if nms_free and not exported.nms_free:
        raise UserError(f"--nms-free: expected a file exported with --nms-free, found {path}, which needs NMS")
    return exported


def load_network(weights: str | None, cfg: str | None) -> tuple[Detector | Classifier, str]:
    """The model in a checkpoint or of a model file, and the data set it was trained on if that is known.

    Raises:
        UserError: if both are given or neither is, or it cannot be had.
    """
    if bool(weights) == bool(cfg):
        raise UserError("expected either --weights or --cfg" + (", found both" if weights else ", found neither"))
    if weights:
        checkpoint = load_checkpoint(weights)
        return checkpoint.build(), checkpoint.data
    return build_network(cfg or "").eval(), ""
