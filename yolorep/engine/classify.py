"""The ``classify`` command: the likeliest classes of every image of a source."""

from __future__ import annotations

import json
from typing import Any

import torch
import torchvision.transforms.v2.functional as transforms
from torch import Tensor
from torchvision.transforms import InterpolationMode

from yolorep.console import say
from yolorep.engine.backbone_weights import build_published
from yolorep.engine.checkpoint import is_checkpoint, load_checkpoint
from yolorep.engine.device import select_device
from yolorep.errors import UserError
from yolorep.io.sources import Frame, Unreadable, open_source
from yolorep.models.classifier import Classifier
from yolorep.nn.reparam import fuse
from yolorep.options import ClassifyOptions

#: Classes named for every image.
TOP = 5
#: Share of the resized image's short side that the crop keeps, as in the published evaluations.
CROP = 0.875


def classify(options: ClassifyOptions) -> list[dict[str, Any]]:
    """Prints the five likeliest classes of everything the source names; the network runs fused.

    Returns:
        Per image or frame its ``path``, ``frame`` number and ``top``: pairs of name and probability, likeliest first.

    Raises:
        UserError: if an option is wrong, the weights are no classifier, or not one input could be read.
    """
    if not options.source:
        raise UserError("--source is missing: expected an image, folder, glob pattern, list file, video or URL")
    frames = open_source(options.source, vid_stride=options.vid_stride)
    device = select_device(options.device)
    model = fuse(load_classifier(options.weights))[0].to(device)
    results = []
    for frame in frames:
        if isinstance(frame, Unreadable):
            if not options.json:
                say(f"skipped {frame.path}: {frame.reason}")
            continue
        results.append(_classify(model, frame, side=options.imgsz, device=device))
        print(json.dumps(results[-1]) if options.json else _line(results[-1], frame), flush=True)
    if not results:
        raise UserError(f"--source {options.source}: not one image could be read")
    return results


def load_classifier(weights: str) -> Classifier:
    """A classifier in eval mode: from our checkpoint, or from a published file, whose variant is recognized.

    Raises:
        UserError: if the file is missing, damaged, refused, or no classifier.
    """
    if not weights:
        raise UserError("--weights: missing; expected a classifier's checkpoint or a published backbone file")
    network = load_checkpoint(weights).build() if is_checkpoint(weights) else build_published(weights)
    if not isinstance(network, Classifier):
        raise UserError(f"{weights}: expected a classifier, found a detector; it runs with 'yolorep detect'")
    return network


def crop(image: Tensor, side: int) -> Tensor:
    """Resizes the short side and cuts out the centre, as published ImageNet evaluations do.

    Args:
        image: (3, h, w) uint8.
        side: pixels of the result.

    Returns:
        (3, side, side) uint8.
    """
    resized = transforms.resize(image, [round(side / CROP)], InterpolationMode.BICUBIC, antialias=True)
    return transforms.center_crop(resized, [side, side])


@torch.inference_mode()
def _classify(model: Classifier, frame: Frame, *, side: int, device: torch.device) -> dict[str, Any]:
    image = torch.from_numpy(frame.image[..., ::-1].copy()).permute(2, 0, 1)  # BGR to RGB
    logits = model(crop(image, side)[None].to(device).float() / 255)[0]
    values, indices = logits.softmax(0).topk(min(TOP, len(model.names)))
    top = [[model.names[i], round(p, 4)] for p, i in zip(values.tolist(), indices.tolist(), strict=True)]
    return {"path": frame.path, "frame": frame.index, "top": top}


def _line(result: dict[str, Any], frame: Frame) -> str:
    where = f"{result['path']} frame {result['frame']}" if frame.is_video else result["path"]
    return f"{where}: " + ", ".join(f"{name} {probability:.2f}" for name, probability in result["top"])
