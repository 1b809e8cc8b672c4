"""Test-time augmentation: the same images at three scales, one of them mirrored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from yolorep.errors import UserError
from yolorep.formats.base import Backend
from yolorep.ops.decode import Decoded
from yolorep.ops.letterbox import BORDER, round_up

#: YOLOv5's passes: (scale, mirrored left to right).
PASSES = ((1.0, False), (0.83, True), (0.67, False))


class TTA(Backend):
    """Runs another backend once for every entry of ``PASSES`` and returns the candidates of all of them.

    Shrunken images get a grey border right and below, up to the next multiple of the stride. NMS then merges what the
    passes agree on.

    Raises:
        UserError: if the backend takes one image size only, or its candidates are not for NMS.
    """

    def __init__(self, backend: Backend) -> None:
        if backend.image_size is not None:
            height, width = backend.image_size
            raise UserError(
                f"--augment runs the model at several sizes, but it was exported for {height}x{width} only: "
                "export it with --dynamic, or leave --augment out"
            )
        if backend.nms_free:
            raise UserError(
                "--augment: expected a model with NMS, which merges the passes, found one that runs without; "
                "leave --augment out"
            )
        self._backend = backend
        self.names = backend.names
        self.stride = backend.stride
        self.image_size = None
        self.batch_size = None
        self.geometry = backend.geometry

    def _run(self, images: Tensor) -> Decoded:
        width = images.shape[3]
        boxes, scores = [], []
        for scale, mirrored in PASSES:
            inputs, gain = _shrink(images.flip(3) if mirrored else images, scale, stride=self.stride)
            decoded = self._backend(inputs)
            original = decoded.boxes / gain
            if mirrored:
                x1, y1, x2, y2 = original.unbind(-1)
                original = torch.stack((width - x2, y1, width - x1, y2), dim=-1)
            boxes.append(original)
            scores.append(decoded.scores)
        return Decoded(torch.cat(boxes, dim=1), torch.cat(scores, dim=1))


def _shrink(images: Tensor, scale: float, *, stride: int) -> tuple[Tensor, Tensor]:
    """Scales and pads uint8 images; also returns the (4,) factors from old to new xyxy coordinates."""
    if scale == 1:
        return images, torch.ones(4)
    height, width = images.shape[2:]
    new = max(int(height * scale), 1), max(int(width * scale), 1)
    small = functional.interpolate(images.float(), size=new, mode="bilinear", align_corners=False)
    border = 0, round_up(new[1], stride) - new[1], 0, round_up(new[0], stride) - new[0]
    padded = functional.pad(small.round().to(torch.uint8), border, value=BORDER)
    return padded, torch.tensor([new[1] / width, new[0] / height] * 2)
