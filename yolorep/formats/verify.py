"""Comparing an exported file with the model it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolorep.errors import ExportError
from yolorep.formats.base import Backend

#: Largest allowed difference of any class score, and of any box edge in pixels.
SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.1


@dataclass(frozen=True)
class Comparison:
    """How far a file is from its model, over every candidate of every image.

    Attributes:
        score: largest difference of a class score.
        box: largest difference of a box edge in pixels.
        candidates: boxes compared.
        shapes: (batch, height, width) of the batches run.
    """

    score: float
    box: float
    candidates: int
    shapes: tuple[tuple[int, int, int], ...]

    def __str__(self) -> str:
        sizes = ", ".join(f"{batch}x3x{height}x{width}" for batch, height, width in self.shapes)
        return (
            f"max difference to PyTorch {self.score:.1e} in scores, {self.box:.1e} px in boxes "
            f"({self.candidates} candidates, input {sizes})"
        )

    def require_equal(self) -> None:
        """Raises ExportError if a difference is above its tolerance or is not a number."""
        if not (self.score <= SCORE_TOLERANCE and self.box <= BOX_TOLERANCE):
            raise ExportError(
                f"the file does not compute what the model computes: {self}; "
                f"at most {SCORE_TOLERANCE:g} in scores and {BOX_TOLERANCE:g} px are allowed"
            )


def compare(file: Backend, model: Backend, batches: Sequence[Tensor]) -> Comparison:
    """Runs both on the same images.

    Args:
        file: the exported file.
        model: what it was exported from.
        batches: (n, 3, height, width) uint8 RGB images.
    """
    score = box = torch.zeros(())
    candidates = 0
    for images in batches:
        ours, theirs = model(images), file(images)
        if ours.boxes.shape != theirs.boxes.shape:
            raise ExportError(
                f"the file returns boxes {tuple(theirs.boxes.shape)} where the model returns {tuple(ours.boxes.shape)}"
            )
        # torch.maximum, unlike Python's max, never loses a NaN.
        score = torch.maximum(score, (ours.scores - theirs.scores).abs().max())
        box = torch.maximum(box, (ours.boxes - theirs.boxes).abs().max())
        candidates += ours.boxes.shape[0] * ours.boxes.shape[1]
    shapes = tuple((len(images), int(images.shape[2]), int(images.shape[3])) for images in batches)
    return Comparison(float(score), float(box), candidates, shapes)
