"""Running a detector with PyTorch itself."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from yolorep.errors import UserError
from yolorep.formats.base import Backend
from yolorep.models.detector import Detector
from yolorep.models.heads.raw import Raw
from yolorep.ops.decode import Decoded


class TorchBackend(Backend):
    """A ``Detector`` in eval mode, fused or not.

    It runs a copy with its weights in channels-last order, which convolutions are faster with; the given model is left
    as it is.

    Args:
        model: in eval mode.
        device: where to run it; where it is by default.
        half: in float16.
        observe: called with the raw maps of every batch, before they are decoded.

    Raises:
        ValueError: if the model is in training mode.
        UserError: for half precision on a CPU.
    """

    def __init__(
        self,
        model: Detector,
        *,
        device: torch.device | None = None,
        half: bool = False,
        observe: Callable[[Raw], None] | None = None,
    ) -> None:
        like = next(model.parameters())
        device = like.device if device is None else device
        if model.training:
            raise ValueError("a backend runs a model in eval mode: call model.eval() first")
        if half and device.type == "cpu":
            raise UserError("--half: float16 inference needs a CUDA device, found 'cpu': leave --half out")
        self._device, self._observe = device, observe
        self._dtype = torch.float16 if half else like.dtype
        moved = copy.deepcopy(model).to(device=device, dtype=self._dtype)
        self._model = moved.to(memory_format=torch.channels_last)
        self.names = model.names
        self.stride = model.max_stride
        self.image_size = None
        self.batch_size = None
        self.nms_free = model.nms_free
        self.geometry = model.geometry

    @torch.inference_mode()
    def _run(self, images: Tensor) -> Decoded:
        inputs = images.to(self._device, non_blocking=True).to(self._dtype) / 255
        raw = self._model(inputs)
        if self._dtype == torch.float16:  # whose spacing at 640 pixels is half a pixel
            raw = raw._replace(levels=[level.float() for level in raw.levels])
        if self._observe is not None:
            self._observe(raw)
        boxes, scores = self._model.decode(raw)
        return Decoded(boxes.to("cpu", torch.float32), scores.to("cpu", torch.float32))
