"""The ``classify`` command: the likeliest classes of every image of a source."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.v2.functional as transforms
from torch import Tensor
from torchvision.transforms import InterpolationMode

from yolorep.device import select_device
from yolorep.errors import UserError
from yolorep.formats import format_of
from yolorep.image_headers import limit_pixels
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.sources import open_source
from yolorep.models.classifier import Classifier
from yolorep.models.detector import Detector
from yolorep.nn.reparam import fuse
from yolorep.ops.prepare import to_tensor
from yolorep.options import ClassifyOptions
from yolorep.weights.checkpoint import is_checkpoint
from yolorep.weights.load import load_checkpoint
from yolorep.weights.published import build_published

#: Classes named for every image.
TOP = 5


@dataclass(frozen=True)
class Preprocessing:
    """How an evaluation makes a network's input of an image.

    Attributes:
        size: side of the square input in pixels.
        crop: share of the resized image's short side that the input shows.
        interpolation: of the resizing.
    """

    size: int
    crop: float
    interpolation: InterpolationMode

    def __call__(self, image: Tensor) -> Tensor:
        """Resizes the short side and cuts out the centre: (3, h, w) uint8 to (3, size, size)."""
        height, width = image.shape[1:]
        most = 2 * min(height, width)  # what lies further out is not seen, but would be resized
        image = transforms.center_crop(image, [min(height, most), min(width, most)])
        resized = transforms.resize(image, [int(self.size / self.crop)], self.interpolation, antialias=True)
        cut: Tensor = transforms.center_crop(resized, [self.size, self.size])
        return cut


#: As MobileOne and RepVGG were evaluated, and as FastViT was.
DEFAULT = Preprocessing(224, 0.875, InterpolationMode.BILINEAR)
FASTVIT = Preprocessing(256, 0.9, InterpolationMode.BICUBIC)


def run(options: ClassifyOptions) -> int:
    """Prints the five likeliest classes of everything the source names; the network runs fused.

    With ``--json`` a line is an object: the image's ``path``, ``frame`` number and ``top``, pairs of name and
    probability, likeliest first. An input that cannot be read is reported on stderr and the rest goes on.

    Returns:
        How many images and frames were read.

    Raises:
        UserError: if an option is wrong, the weights are no classifier, or not one input could be read.
    """
    if not options.source:
        raise UserError("--source is missing: expected an image, folder, glob pattern, list file, video or URL")
    limit_pixels(options.max_pixels)
    frames = open_source(options.source, vid_stride=options.vid_stride, note=_tell)
    device = select_device(options.device)
    model = fuse(load_classifier(options.weights))[0].to(device)
    prepare = preprocessing(model, size=options.imgsz)
    count = 0
    for frame in frames:
        if isinstance(frame, Unreadable):
            print(f"skipped {frame.path}: {frame.reason}", file=sys.stderr)
            continue
        result = _classify(model, frame, prepare, device=device)
        print(json.dumps(result) if options.json else _line(result, frame), flush=True)
        count += 1
    if not count:
        raise UserError(f"--source {options.source}: not one image could be read")
    return count


def _tell(line: str) -> None:
    print(line, file=sys.stderr)  # what is on stdout is read by programs


def load_classifier(weights: str) -> Classifier:
    """A classifier in eval mode: from our checkpoint, or from a published file, whose variant is recognized.

    Raises:
        UserError: if the file is missing, damaged, refused, or no classifier.
    """
    if not weights:
        raise UserError("--weights: missing; expected a classifier's checkpoint or a published backbone file")
    if format_of(Path(weights)) is not None:
        raise UserError(f"{weights}: expected a classifier, found an exported detector; it runs with 'yolorep detect'")
    own = Path(weights).is_file() and is_checkpoint(weights)  # opening a pipe would wait for its writer
    network = load_checkpoint(weights).build() if own else _published_or_yolov5(weights)
    if not isinstance(network, Classifier):
        raise UserError(f"{weights}: expected a classifier, found a detector; it runs with 'yolorep detect'")
    return network


def _published_or_yolov5(weights: str) -> Detector | Classifier:
    """Not ours; YOLOv5's are read in order to say that they are detectors."""
    try:
        return build_published(weights)
    except UserError as error:
        try:
            return load_checkpoint(weights).build()
        except UserError:
            raise error from None


def preprocessing(model: Classifier, *, size: int | None = None) -> Preprocessing:
    """How the model's family was evaluated, at another size if one is given."""
    is_fastvit = any(row[2] == "FastViTStem" for rows in model.config.sections.values() for row in rows)
    published = FASTVIT if is_fastvit else DEFAULT
    return Preprocessing(size or published.size, published.crop, published.interpolation)


@torch.inference_mode()
def _classify(model: Classifier, frame: Frame, prepare: Preprocessing, *, device: torch.device) -> dict[str, Any]:
    logits = model(prepare(to_tensor([frame.image])[0])[None].to(device).float() / 255)[0]
    values, indices = logits.softmax(0).topk(min(TOP, len(model.names)))
    top = [[model.names[i], round(p, 4)] for p, i in zip(values.tolist(), indices.tolist(), strict=True)]
    return {"path": frame.path, "frame": frame.index if frame.is_video else 0, "top": top}


def _line(result: dict[str, Any], frame: Frame) -> str:
    where = f"{result['path']} frame {result['frame']}" if frame.is_video else result["path"]
    return f"{where}: " + ", ".join(f"{name} {probability:.2f}" for name, probability in result["top"])
