"""What every deployment format provides: how a network is written in it, and how such a file runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from yolorep.errors import UserError
from yolorep.formats.metadata import Metadata
from yolorep.ops.decode import Decoded
from yolorep.ops.letterbox import Geometry

if TYPE_CHECKING:
    from yolorep.models.detector import Detector

INPUT = "images"
OUTPUTS = ("boxes", "scores")


class Backend(ABC):
    """Runs a detector: images in, candidate boxes out. A subclass says how in ``_run``.

    Attributes:
        names: class names by index.
        stride: what image sides must be multiples of.
        image_size: the only (height, width) in pixels accepted; None if any multiple of ``stride``.
        batch_size: the batch size the file was made for; None if any. Callers may pass any number of images all the
            same: they are cut into batches, and the last one is filled up.
        nms_free: there is one candidate an object, so that nothing has to be suppressed.
        geometry: of the images that the network was trained on.
    """

    names: tuple[str, ...]
    stride: int
    image_size: tuple[int, int] | None
    batch_size: int | None
    nms_free: bool = False
    geometry: Geometry = Geometry()

    def __call__(self, images: Tensor) -> Decoded:
        """Runs a batch.

        Args:
            images: (n, 3, height, width) uint8 RGB on the CPU.

        Returns:
            float32 CPU tensors: boxes (n, candidates, 4) xyxy in pixels of the images, scores (n, candidates, classes).

        Raises:
            ValueError: if ``images`` is no such tensor.
            UserError: if this backend does not take images of that size.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or len(images) == 0:
            raise ValueError(
                f"expected (n, 3, height, width) uint8 images with n >= 1, got {tuple(images.shape)} {images.dtype}"
            )
        self._check_size(int(images.shape[2]), int(images.shape[3]))
        if self.batch_size is None or len(images) == self.batch_size:
            return self._run(images)
        count = len(images)
        if missing := -count % self.batch_size:
            images = torch.cat((images, images.new_zeros((missing, *images.shape[1:]))))
        parts = [self._run(batch) for batch in images.split(self.batch_size)]
        boxes, scores = (torch.cat(tensors)[:count] for tensors in zip(*parts, strict=True))
        return Decoded(boxes, scores)

    @abstractmethod
    def _run(self, images: Tensor) -> Decoded:
        """Runs checked images of the right batch size."""

    def _check_size(self, height: int, width: int) -> None:
        if self.image_size is not None and (height, width) != self.image_size:
            raise UserError(
                f"this model was exported for {self.image_size[0]}x{self.image_size[1]} pixels (height x width), "
                f"found an image of {height}x{width}: use that size, or export with --dynamic"
            )
        if height % self.stride or width % self.stride:
            raise UserError(
                f"image height and width must be multiples of the stride {self.stride}, found {height}x{width}"
            )


class FileBackend(Backend):
    """Runs a file of some format; what it takes and gives is what its metadata say.

    Args:
        path: the file.
        metadata: read from it.
    """

    def __init__(self, path: Path, metadata: Metadata) -> None:
        self.path = path
        self.metadata = metadata
        self.names = metadata.names
        self.stride = metadata.stride
        self.image_size = metadata.image_size
        self.batch_size = metadata.batch_size
        self.nms_free = metadata.nms_free
        self.geometry = metadata.geometry

    def _checked(self, boxes: Tensor, scores: Tensor, *, batch: int) -> Decoded:
        """What the file computed for a batch, if its shapes are those its metadata promise.

        Raises:
            UserError: if they differ.
        """
        found = tuple(boxes.shape), tuple(scores.shape)
        candidates = boxes.shape[1] if boxes.ndim == 3 else "candidates"
        wanted = (batch, candidates, 4), (batch, candidates, len(self.names))
        if found != wanted:
            raise UserError(
                f"{self.path}: expected boxes {_shape(wanted[0])} and scores {_shape(wanted[1])} as its metadata says, "
                f"found {found[0]} and {found[1]}: export it again"
            )
        return Decoded(boxes, scores)


def _shape(sides: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, sides))})"


class Deployed(nn.Module):
    """A detector and its decoding, as one network with plain tensors on both sides."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the network and decodes its levels.

        Args:
            images: (batch, 3, height, width) float RGB in 0..1.

        Returns:
            boxes (batch, candidates, 4) xyxy in pixels of the input, scores (batch, candidates, classes) in 0..1.
        """
        decoded = self.detector.decode(self.detector(images))
        return decoded.boxes, decoded.scores


class Format(ABC):
    """A deployment format.

    Attributes:
        suffix: how the names of its files end: ``.onnx``, or ``_model`` for a folder ``best_model``.
        folder: what is written is a folder of several files.
        requires: packages that must be importable to write it.
        extra: of yolorep, which installs them.
        settings: options of the export command that :meth:`write` takes as keywords.
    """

    suffix: ClassVar[str]
    folder: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "export"
    settings: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def write(self, network: Deployed, path: Path, *, example: Tensor, metadata: Metadata, **settings: Any) -> None:
        """Writes ``network`` to ``path``.

        Args:
            network: in eval mode, on the CPU.
            path: the file to write, or an empty folder to fill.
            example: float images of the static shape; of any shape with batch, height and width all different from
                each other and from 1 where ``metadata`` says that the file is dynamic.
            metadata: stored in the file.
            settings: the format's own options.
        """

    @abstractmethod
    def open(self, path: Path, *, device: torch.device) -> Backend:
        """Opens a file for running.

        Raises:
            UserError: if what runs it is missing, or it is no such file.
        """
