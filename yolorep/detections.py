"""The result of detecting objects in one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, validated and index-able like an array.

    Attributes:
        xyxy: (n, 4) float32 corners ``x1, y1, x2, y2`` in pixels.
        confidence: (n,) float32 in 0..1.
        class_id: (n,) int64 indices into the model's class names.
        tracker_id: (n,) int64 identities, or None where no tracker ran.

    Raises:
        ValueError: if lengths or shapes disagree.
    """

    xyxy: FloatArray
    confidence: FloatArray
    class_id: IntArray
    tracker_id: IntArray | None = field(default=None)

    def __post_init__(self) -> None:
        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4:
            raise ValueError(f"xyxy: expected shape (n, 4), got {self.xyxy.shape}")
        for name in ("confidence", "class_id", "tracker_id"):
            value = getattr(self, name)
            if value is not None and value.shape != (len(self.xyxy),):
                raise ValueError(f"{name}: expected shape ({len(self.xyxy)},), got {value.shape}")

    @classmethod
    def empty(cls) -> Detections:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: Any) -> Detections:
        """Selects detections by integer, slice, boolean mask or index array; always returns Detections."""
        if isinstance(index, int | np.integer):
            index = [index]
        tracker_id = None if self.tracker_id is None else self.tracker_id[index]
        return Detections(self.xyxy[index], self.confidence[index], self.class_id[index], tracker_id)

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))
