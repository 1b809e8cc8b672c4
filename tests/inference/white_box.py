"""A network that finds the white rectangle in a picture: what it returns can be checked by eye and by geometry."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from yolorep.formats.base import Backend
from yolorep.formats.metadata import Metadata
from yolorep.formats.torchscript import METADATA_FILE
from yolorep.ops.decode import Decoded

NAMES = ("rectangle", "square")


class WhiteBox(nn.Module):
    """One candidate about the white pixels, with score 0.9 in class 1 and 0.4 in class 0; score 0 where there are none.

    A second candidate is the same box as class 0 only, so that class-agnostic suppression shows.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes = torch.zeros(images.shape[0], 2, 4)
        scores = torch.zeros(images.shape[0], 2, 2)
        for i in range(images.shape[0]):
            white = (images[i].amin(dim=0) > 0.7).nonzero()
            if white.shape[0] > 0:
                low, high = white.amin(dim=0), white.amax(dim=0) + 1
                boxes[i] = torch.stack([low[1], low[0], high[1], high[0]]).to(boxes.dtype)
                scores[i] = torch.tensor([[0.4, 0.9], [0.6, 0.0]])
        return boxes, scores


class WhiteBoxBackend(Backend):
    """Runs it, and remembers what it was shown."""

    def __init__(
        self, *, image_size: tuple[int, int] | None = None, batch_size: int | None = None, stride: int = 32
    ) -> None:
        self.names = NAMES
        self.stride = stride
        self.image_size = image_size
        self.batch_size = batch_size
        self.seen: list[tuple[int, ...]] = []
        self.pixels: list[Tensor] = []

    def _run(self, images: Tensor) -> Decoded:
        self.seen.append(tuple(images.shape))
        self.pixels.append(images[0, :, images.shape[2] // 2, images.shape[3] // 2])
        return Decoded(*WhiteBox()(images.float() / 255))


def write_white_box(path: Path) -> Path:
    """Writes it as a TorchScript file for images of any size, as ``yolorep export`` does."""
    metadata = Metadata(names=NAMES, stride=32, strides=(32,), image_size=None, batch_size=None, version="1")
    extra = {METADATA_FILE: json.dumps(metadata.to_strings())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(WhiteBox()), str(path), _extra_files=extra)
    return path
