"""What the benchmark asks of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from yolorep.data.annotations import Annotations
from yolorep.detections import Detections
from yolorep.evaluation.metrics import CocoMetric

from .store import Key

#: Equal for all. The IoU is that of the peer's NMS by default.
CONFIDENCE, IOU, MAX_DETECTIONS = 0.001, 0.7, 300


@dataclass(frozen=True)
class Trained:
    """A training that has ended.

    Attributes:
        weights: the best checkpoint.
        wall_seconds: of the whole process.
    """

    weights: Path
    wall_seconds: float


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint's scores: see ``store.Record``."""

    scores: dict[str, dict[str, Any]]
    params: int
    params_deployed: int
    scores_nms_free: dict[str, dict[str, Any]] = field(default_factory=dict)
    own: dict[str, dict[str, float]] = field(default_factory=dict)


class Program(ABC):
    """Trains, evaluates and exports, each in a process of its own.

    Attributes:
        name: as in ``Key.program``.
    """

    name: str

    @abstractmethod
    def train(self, key: Key, folder: Path) -> Trained:
        """Trains from scratch; everything goes into ``folder``, which is new.

        Raises:
            ProgramFailed: if it fails.
        """

    @abstractmethod
    def evaluate(self, key: Key, weights: Path, folder: Path, splits: Mapping[str, Annotations]) -> Evaluated:
        """Scores a checkpoint on these splits.

        Raises:
            ProgramFailed: if it fails.
        """

    @abstractmethod
    def export(self, model: str, weights: Path | None, *, imgsz: int, folder: Path, name: str) -> dict[str, Path]:
        """Writes the deployed form, without NMS, as ONNX for one image of ``imgsz`` x ``imgsz``.

        Args:
            model: model YAML.
            weights: a checkpoint; without, the weights are random and the classes those of the YAML.
            imgsz: pixels.
            folder: where to.
            name: of the file, without its ending.

        Returns:
            "" -> the file, and "NMS-free" -> a second one if the model has such a branch beside the other.

        Raises:
            ProgramFailed: if it fails.
        """


def score(annotations: Annotations, detections: Sequence[Detections]) -> dict[str, Any]:
    """COCO numbers of detections, by the evaluator that yolorep's own evaluation uses.

    Args:
        annotations: of the split.
        detections: of each of its images, boxes in its own pixels.
    """
    metric = CocoMetric(annotations.ground_truth(), names=annotations.names, category_ids=annotations.category_ids)
    for index, found in enumerate(detections):
        metric.update(annotations.image_id(index), found)
    result = metric.compute()
    return {**result.metrics, "per_class": [asdict(entry) for entry in result.per_class]}
