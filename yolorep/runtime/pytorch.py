"""Running a detector with PyTorch itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from yolorep.errors import UserError
from yolorep.models.detector import Detector
from yolorep.ops.decode import Decoded
from yolorep.runtime.base import Backend


class TorchBackend(Backend):
    """A ``Detector`` in eval mode, fused or not.

    The given model is used as it is where that is possible and copied where it would change: for half precision, or
    when it is on another device.

    Raises:
        ValueError: if the model is in training mode.
        UserError: for half precision on a CPU.
    """

    def __init__(self, model: Detector, *, device: torch.device | None = None, half: bool = False) -> None:
        current = next(model.parameters()).device
        device = current if device is None else device
        if model.training:
            raise ValueError("a backend runs a model in eval mode: call model.eval() first")
        if half and device.type == "cpu":
            raise UserError("--half: float16 inference needs a CUDA device, found 'cpu': leave --half out")
        self._device = device
        self._dtype = torch.float16 if half else next(model.parameters()).dtype
        if half or device != current:
            model = copy.deepcopy(model).to(device=device, dtype=self._dtype)
        self._model = model
        self.names = model.names
        self.stride = model.max_stride
        self.image_size = None
        self.batch_size = None

    @torch.inference_mode()
    def _run(self, images: Tensor) -> Decoded:
        inputs = images.to(self._device, non_blocking=True).to(self._dtype) / 255
        raw = self._model(inputs)
        if self._dtype == torch.float16:  # whose spacing at 640 pixels is half a pixel
            raw = raw._replace(levels=[level.float() for level in raw.levels])
        boxes, scores = self._model.decode(raw)
        return Decoded(boxes.to("cpu", torch.float32), scores.to("cpu", torch.float32))
