"""From pictures to detections."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import PIL.Image
import torch
from torch import Tensor

from yolorep.checks import share, whole_number
from yolorep.console import plural
from yolorep.defaults import CONFIDENCE, IOU, MAX_DETECTIONS
from yolorep.detections import Detections, class_indices
from yolorep.device import select_device
from yolorep.errors import UserError
from yolorep.formats.base import Backend
from yolorep.formats.tta import TTA
from yolorep.images import as_png
from yolorep.inference.inputs import Array, Input, is_endless, is_single, open_input
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.urls import without_secrets
from yolorep.models.image_size import choose_size, size_text
from yolorep.ops.letterbox import LetterBox, Size, rect_shape
from yolorep.ops.nms import load_nms, nms
from yolorep.ops.prepare import letterboxed, undo_letterboxes

if TYPE_CHECKING:
    from yolorep.models.detector import Detector


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


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """What was found in one image or frame; notebooks show it drawn.

    Attributes:
        detections: in pixels of ``image``, best first.
        image: (height, width, 3) uint8 BGR.
        path: where it comes from: a file, URL (without passwords) or camera index, ``stdin`` or ``screen``; empty for
            what was in memory.
        index: number of the frame in its video, or position of the image in its folder or list, counted from 0.
        time: seconds since the video's first frame; 0 for images.
        timing: seconds it took.
        captured: of a live stream, when the frame arrived, in seconds since 1970; None for files.
    """

    detections: Detections
    image: Array
    path: str
    index: int
    time: float
    timing: Timing
    captured: float | None = None

    def plot(self) -> Array:
        """The image with the boxes drawn on it, (height, width, 3) uint8 BGR."""
        return self.detections.plot(self.image)

    def __repr__(self) -> str:
        return f"Prediction({self.path or 'image'}, {self.index}, {self.time:.2f} s, {self.detections})"

    def _repr_png_(self) -> bytes | None:
        return as_png(self.plot())


class Predictor:
    """Detects objects in images as ``detect.py`` does.

    An image is letterboxed so that its long side is ``image_size`` (smaller images are enlarged) and its short side
    the next multiple of the network's stride; a file exported for one size gets that size. Each box is kept for its
    best class.

    >>> predictor = Predictor("best.pt", confidence=0.4)
    >>> detections = predictor("street.jpg")
    >>> [(one.class_name, one.xyxy) for one in detections]
    >>> for found in predictor.stream("clip.mp4"):
    ...     print(found.time, found.detections)

    Args:
        weights: a checkpoint or exported file; a ``Detector`` in eval mode (run as it is: ``fuse()`` it first for
            speed); or a ``Backend``.
        device: ``"cpu"``, a CUDA index or a ``torch.device``; the first GPU if empty and there is one. Ignored for a
            ``Backend``.
        image_size: long side of the network input in pixels, or the (height, width) that images are fitted into,
            rounded up to a multiple of the stride; what the weights were trained at by default, or 640. One line says
            so where it is not the one asked for.
        confidence: boxes scoring below are dropped.
        iou: of two boxes of one class that overlap more than this, the lower one goes.
        max_detections: boxes kept an image.
        classes: keep these classes only, given by name, index or both mixed; all if None. Digits are an index, also
            where a class is called that.
        agnostic_nms: boxes of different classes suppress each other too.
        augment: test-time augmentation (three scales, one of them flipped).
        half: float16 inference on CUDA. Ignored for a ``Backend``.
        nms_free: run the one-to-one branch of the head, if it has one, whose boxes need no suppression: ``iou`` then
            means nothing. Ignored for a ``Backend``.
        batch_size: images looked at together, those of one shape in one pass of the network. Results do not depend on
            it but for the last digits of a float; a stream is that many frames behind.

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
        device: str | int | torch.device = "",
        image_size: Size | None = None,
        confidence: float = CONFIDENCE,
        iou: float = IOU,
        max_detections: int = MAX_DETECTIONS,
        classes: int | str | Iterable[int | str] | None = None,
        agnostic_nms: bool = False,
        augment: bool = False,
        half: bool = False,
        nms_free: bool = False,
        batch_size: int = 1,
    ) -> None:
        self._confidence = share("confidence", confidence)
        self._iou = share("iou", iou)
        self._max_detections = whole_number("max_detections", max_detections)
        self._batch_size = whole_number("batch_size", batch_size)
        size = None if image_size is None else _checked_size(image_size)
        backend = _open(weights, device=device, half=half, nms_free=nms_free)
        if agnostic_nms and backend.nms_free:
            raise UserError("--agnostic-nms: this model runs without NMS; leave it out")
        self._backend = TTA(backend) if augment else backend
        self._classes = None if classes is None else class_indices(classes, backend.names)
        self._agnostic_nms = agnostic_nms
        self.names = backend.names
        self.image_size = choose_size(
            size,
            geometry=backend.geometry,
            stride=backend.stride,
            fixed=backend.image_size,
            source=str(weights) if isinstance(weights, str | Path) else "the model",
        )
        self.timing = Timing()
        if not backend.nms_free:
            load_nms()  # now, not in the time of the first image

    def __repr__(self) -> str:
        return f"Predictor({plural('class', len(self.names))}, image size {size_text(self.image_size)})"

    @overload
    def __call__(  # type: ignore[overload-overlap]  # an array is one image
        self, source: Array | PIL.Image.Image, *, colour: str = "bgr"
    ) -> Detections: ...

    @overload
    def __call__(self, source: str | os.PathLike[str] | Tensor, *, colour: str = "bgr") -> Any: ...

    @overload
    def __call__(self, source: Iterable[Input], *, colour: str = "bgr") -> list[Detections]: ...

    def __call__(self, source: Input, *, colour: str = "bgr") -> Any:
        """Detects objects.

        Args:
            source: a path or URL, a numpy array in **BGR** order unless ``colour`` says otherwise, a Pillow image, an
                RGB tensor, or several images: a folder, pattern, list file or video, a batch of tensors, a list or
                generator of single images; see :func:`yolorep.inference.inputs.open_input`.
            colour: order of the channels of numpy arrays, ``"bgr"`` as OpenCV reads files, or ``"rgb"``.

        Returns:
            Detections in pixels of the image, best first, with class names; a list of them, in order and one an item,
            for all that can be several images. Use :meth:`stream` for long ones: a list holds every result at once.

        Raises:
            UserError: if it is nothing of that, one of the images cannot be read, an item of a list is no single
                image, or there is no end to them.
        """
        if is_endless(source):
            shown = without_secrets(str(source))
            raise UserError(f"source '{shown}' has no end, expected one that has: use stream({shown!r})")
        items = open_input(source, colour=colour, nested=False)
        results = [found.detections for found in self._stream(items, False, _hint(source))]
        return results[0] if is_single(source) else results

    def stream(
        self,
        source: Input,
        *,
        colour: str = "bgr",
        vid_stride: int = 1,
        reconnect_timeout: float | None = None,
        skip_unreadable: bool = False,
    ) -> Iterator[Prediction]:
        """Detects objects in one image after the other, when asked for the next.

        Args:
            source: as for a call; also a camera index, the URL of a live stream, ``"screen"``, ``"-"`` for what is
                piped into the program, or a list or generator of all of these. Live streams are read side by side if
                they are a list of nothing else, or the lines of a list file.
            colour: order of the channels of numpy arrays, ``"bgr"`` or ``"rgb"``.
            vid_stride: use every N-th frame of videos.
            reconnect_timeout: seconds without a frame after which a live stream is given up; by default it is waited
                for. One line tells of each change.
            skip_unreadable: warn of a file, or the rest of a video, that cannot be read, and go on.

        Returns:
            An iterator over results with their images, paths, frame numbers and times.

        Raises:
            UserError: at the call if ``source`` names nothing; at its turn for an image that cannot be read.
        """
        items = open_input(source, colour=colour, vid_stride=vid_stride, reconnect_timeout=reconnect_timeout)
        return self._stream(items, skip_unreadable, _hint(source))

    def _stream(self, items: Iterator[Frame | Unreadable], skip_unreadable: bool, hint: str) -> Iterator[Prediction]:
        frames: list[Frame] = []
        for item in items:
            if isinstance(item, Frame):
                frames.append(item)
                # A live frame would get old while others are waited for.
                if len(frames) < self._batch_size and item.captured is None:
                    continue
            yield from self._predict(frames)
            frames = []
            if isinstance(item, Unreadable):
                message = f"{item.path}: expected an image or video, cannot read it: {item.reason}"
                if not skip_unreadable:
                    raise UserError(message + hint)
                warnings.warn(message, stacklevel=2)
        yield from self._predict(frames)

    def _predict(self, frames: list[Frame]) -> Iterator[Prediction]:
        """Looks at frames together and yields them in their order."""
        groups: dict[tuple[int, int], list[int]] = {}
        for number, frame in enumerate(frames):
            source = frame.image.shape[0], frame.image.shape[1]
            target = self._backend.image_size or rect_shape(source, self.image_size, self._backend.stride, pad=0)
            groups.setdefault(target, []).append(number)
        found: dict[int, tuple[Detections, Timing]] = {}
        for target, numbers in groups.items():
            found |= zip(numbers, self._detect([frames[number].image for number in numbers], target), strict=True)
        for number, frame in enumerate(frames):
            detections, self.timing = found[number]
            yield Prediction(detections, frame.image, frame.path, frame.index, frame.time, self.timing, frame.captured)

    def _detect(self, images: list[Array], target: tuple[int, int]) -> list[tuple[Detections, Timing]]:
        """One pass of the network."""
        start = time.perf_counter()
        letterboxes = [LetterBox.plan((image.shape[0], image.shape[1]), target) for image in images]
        batch = letterboxed(images, letterboxes)
        prepared = time.perf_counter()
        decoded = self._backend(batch)
        inferred = time.perf_counter()
        found = nms(
            decoded,
            confidence=self._confidence,
            iou=None if self._backend.nms_free else self._iou,
            max_detections=self._max_detections,
            class_agnostic=self._agnostic_nms,
            classes=self._classes,
        )
        results = undo_letterboxes(found, letterboxes, names=self.names)
        seconds = prepared - start, inferred - prepared, time.perf_counter() - inferred
        timing = Timing(*(part / len(images) for part in seconds))
        return [(detections, timing) for detections in results]


def _checked_size(size: Any) -> Size:
    if isinstance(size, tuple | list) and len(size) == 2:
        return whole_number("image_size", size[0]), whole_number("image_size", size[1])
    return whole_number("image_size", size)


def _hint(source: Input) -> str:
    """What to do about an input that cannot be read."""
    return "" if is_single(source) else "; stream(…, skip_unreadable=True) goes on without it"


def _open(
    weights: str | Path | Detector | Backend, *, device: str | int | torch.device, half: bool, nms_free: bool
) -> Backend:
    if isinstance(weights, Backend):
        return weights
    # Late: they import every block there is.
    from yolorep.formats.pytorch import TorchBackend
    from yolorep.inference.open import load_backend
    from yolorep.models.detector import Detector

    if isinstance(weights, Detector):
        if weights.training:
            raise UserError("weights: expected a Detector in eval mode, found one in training mode; call its eval()")
        detector = weights.for_inference(nms_free=True) if nms_free else weights
        return TorchBackend(detector, device=select_device(device), half=half)
    if isinstance(weights, str | Path):
        return load_backend(weights, device=select_device(device), half=half, nms_free=nms_free)
    raise UserError(f"weights: expected a path, a Detector or a Backend, got {type(weights).__name__}")
