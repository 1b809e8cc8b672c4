"""What every export format provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from yolorep.models.detector import Detector
from yolorep.runtime.base import Backend
from yolorep.runtime.metadata import Metadata

INPUT = "images"
OUTPUTS = ("boxes", "scores")


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


class Exporter(ABC):
    """Writes one format.

    Attributes:
        suffix: of the files, with its dot.
        requires: packages that must be importable; the extra ``export`` installs them.
    """

    suffix: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def write(self, network: Deployed, path: Path, *, example: Tensor, metadata: Metadata) -> None:
        """Writes ``network`` to ``path``.

        Args:
            network: in eval mode, on the CPU.
            path: the file to write.
            example: float images of the static shape; of any shape with batch, height and width all different from
                each other and from 1 where ``metadata`` says that the file is dynamic.
            metadata: stored in the file.
        """

    @abstractmethod
    def open(self, path: Path, *, device: torch.device) -> Backend:
        """Opens a written file for running."""
