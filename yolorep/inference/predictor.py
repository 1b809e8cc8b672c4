"""From pictures to detections."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from yolorep.detections import Detections, class_indices
from yolorep.device import select_device
from yolorep.errors import UserError
from yolorep.formats.base import Backend
from yolorep.formats.pytorch import TorchBackend
from yolorep.formats.tta import TTA
from yolorep.images import as_image
from yolorep.inference.open import load_backend
from yolorep.models.detector import Detector
from yolorep.ops.letterbox import LetterBox, rect_shape, round_up
from yolorep.ops.prepare import letterboxed, to_detections

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Timing:
    """Seconds spent on one image, reading the file not included.

    Attributes:
        preprocess: letterbox and layout.
        inference: network and decoding.
        nms: suppression and mapping the boxes back.
    """

    preprocess: float = 0.0
    inference: float = 0.0
    nms: float = 0.0

    @property
    def total(self) -> float:
        """Their sum."""
        return self.preprocess + self.inference + self.nms

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.preprocess + other.preprocess, self.inference + other.inference, self.nms + other.nms)


class Predictor:
    """Detects objects in images as ``detect.py`` does.

    An image is letterboxed so that its long side is ``image_size`` (smaller images are enlarged) and its short side
    the next multiple of the network's stride; a file exported for one size gets that size. Each box is kept for its
    best class.

    >>> predictor = Predictor("best.pt", confidence=0.4)
    >>> detections = predictor("street.jpg")
    >>> [(one.class_name, one.xyxy) for one in detections]

    Args:
        weights: a checkpoint or exported file; a ``Detector`` in eval mode (run as it is: ``fuse()`` it first for
            speed); or a ``Backend``.
        device: ``"cpu"`` or a CUDA index; the first GPU if empty and there is one. Ignored for a ``Backend``.
        image_size: long side of the network input in pixels, rounded up to a multiple of the stride; what the weights
            were trained at by default, or 640.
        confidence: boxes scoring below are dropped.
        iou: of two boxes of one class that overlap more than this, the lower one goes.
        max_detections: boxes kept an image.
        classes: keep these classes only, given by name, index or both mixed; all if None.
        agnostic_nms: boxes of different classes suppress each other too.
        augment: test-time augmentation (three scales, one of them flipped).
        half: float16 inference on CUDA. Ignored for a ``Backend``.
        nms_free: run the one-to-one branch of the head, if it has one, whose boxes need no suppression: ``iou`` then
            means nothing. Ignored for a ``Backend``.

    Attributes:
        names: class names by index.
        image_size: the long side in use, after rounding.
        timing: seconds spent on the latest image.

    Raises:
        UserError: for weights, a device or classes that do not work.
    """

    def __init__(
        self,
        weights: str | Path | Detector | Backend,
        *,
        device: str = "",
        image_size: int | None = None,
        confidence: float = 0.25,
        iou: float = 0.45,
        max_detections: int = 1000,
        classes: int | str | Iterable[int | str] | None = None,
        agnostic_nms: bool = False,
        augment: bool = False,
        half: bool = False,
        nms_free: bool = False,
    ) -> None:
        if isinstance(weights, Backend):
            backend = weights
        elif isinstance(weights, Detector):
            detector = weights.for_inference(nms_free=True) if nms_free else weights
            backend = TorchBackend(detector, device=select_device(device), half=half)
        else:
            backend = load_backend(weights, device=select_device(device), half=half, nms_free=nms_free)
        if image_size is not None and image_size < 1:
            raise UserError(f"image size: expected a positive number of pixels, got {image_size}")
        for name, value in (("confidence", confidence), ("IoU", iou)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} threshold: expected 0 to 1, got {value}")
        if max_detections < 1:
            raise UserError(f"max_detections: expected 1 or more, got {max_detections}")
        if agnostic_nms and backend.nms_free:
            raise UserError("--agnostic-nms: this model runs without NMS; leave it out")
        self._backend = TTA(backend) if augment else backend
        self._confidence = confidence
        self._iou = iou
        self._max_detections = max_detections
        self._classes = None if classes is None else class_indices(classes, backend.names)
        self._agnostic_nms = agnostic_nms
        self.names = backend.names
        wanted = backend.geometry.size(image_size)
        self.image_size = max(backend.image_size) if backend.image_size else round_up(wanted, backend.stride)
        #: Says what fixed the size, to people.
        self.why_image_size = f"a multiple of the stride {backend.stride}"
        if backend.image_size:
            self.why_image_size = "which it was exported for"
        elif image_size is None and backend.geometry.image_size == self.image_size:
            self.why_image_size = "which it was trained at"
        self.timing = Timing()

    @overload
    def __call__(self, images: Image | str | Path) -> Detections: ...  # type: ignore[overload-overlap]  # a str is one path

    @overload
    def __call__(self, images: Sequence[Image | str | Path]) -> list[Detections]: ...

    def __call__(self, images: Image | str | Path | Sequence[Image | str | Path]) -> Detections | list[Detections]:
        """Detects objects.

        Args:
            images: an image file, or a (height, width, 3) uint8 array in **BGR** order, as OpenCV reads files (for
                an RGB array pass ``array[..., ::-1]``); or a sequence of these. They run one by one: a result does
                not depend on its neighbours.

        Returns:
            Detections in pixels of the image, best first, with class names; a list of them for a sequence.

        Raises:
            UserError: if a file is no readable image.
            ValueError: if an array is no such image.
        """
        if isinstance(images, str | Path | np.ndarray):
            return self._detect(as_image(images))
        return [self(image) for image in images]

    def _detect(self, image: Image) -> Detections:
        start = time.perf_counter()
        source = image.shape[0], image.shape[1]
        target = self._backend.image_size or rect_shape(source, self.image_size, self._backend.stride, pad=0)
        letterbox = LetterBox.plan(source, target)
        batch = letterboxed([image], [letterbox])
        prepared = time.perf_counter()
        decoded = self._backend(batch)
        inferred = time.perf_counter()
        (detections,) = to_detections(
            decoded,
            [letterbox],
            confidence=self._confidence,
            iou=None if self._backend.nms_free else self._iou,
            max_detections=self._max_detections,
            class_agnostic=self._agnostic_nms,
            classes=self._classes,
        )
        self.timing = Timing(prepared - start, inferred - prepared, time.perf_counter() - inferred)
        return replace(detections, names=self.names)
