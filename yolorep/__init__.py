"""yolorep: YOLO-style detectors whose every block is structurally reparameterizable.

>>> from yolorep import Predictor, fuse, load_model
>>> model = load_model("best.pt")
>>> fused, report = fuse(model)
>>> detections = Predictor(fused)("street.jpg")

The commands are functions too: :func:`train`, :func:`val`, :func:`detect`, :func:`export`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from yolorep.errors import opencv_wanted
from yolorep.version import __version__ as __version__

if TYPE_CHECKING:
    from yolorep.api import detect as detect
    from yolorep.api import export as export
    from yolorep.api import train as train
    from yolorep.api import val as val
    from yolorep.data.dataset import Dataset as Dataset
    from yolorep.data.dataset import SequenceDataset as SequenceDataset
    from yolorep.detections import Detection as Detection
    from yolorep.detections import Detections as Detections
    from yolorep.errors import UserError as UserError
    from yolorep.errors import YolorepError as YolorepError
    from yolorep.evaluation.evaluator import Evaluation as Evaluation
    from yolorep.inference.open import load_model as load_model
    from yolorep.inference.predictor import Prediction as Prediction
    from yolorep.inference.predictor import Predictor as Predictor
    from yolorep.losses.terms import LossTerms as LossTerms
    from yolorep.models.detector import build_model as build_model
    from yolorep.models.user_blocks import import_blocks as import_blocks
    from yolorep.nn.expand import expand as expand
    from yolorep.nn.registry import register as register
    from yolorep.nn.reparam import fuse as fuse
    from yolorep.training.run import TrainResult as TrainResult
    from yolorep.training.trainer import Callback as Callback
    from yolorep.training.trainer import EpochResult as EpochResult
    from yolorep.training.trainer import NonFiniteLoss as NonFiniteLoss
    from yolorep.training.trainer import Trainer as Trainer

# Imported on first use, so that `import yolorep` and `yolorep --help` do not wait for torch.
_PUBLIC = {
    "Callback": "yolorep.training.trainer",
    "Dataset": "yolorep.data.dataset",
    "Detection": "yolorep.detections",
    "Detections": "yolorep.detections",
    "EpochResult": "yolorep.training.trainer",
    "Evaluation": "yolorep.evaluation.evaluator",
    "LossTerms": "yolorep.losses.terms",
    "NonFiniteLoss": "yolorep.training.trainer",
    "Prediction": "yolorep.inference.predictor",
    "Predictor": "yolorep.inference.predictor",
    "SequenceDataset": "yolorep.data.dataset",
    "TrainResult": "yolorep.training.run",
    "Trainer": "yolorep.training.trainer",
    "UserError": "yolorep.errors",
    "YolorepError": "yolorep.errors",
    "build_model": "yolorep.models.detector",
    "detect": "yolorep.api",
    "expand": "yolorep.nn.expand",
    "export": "yolorep.api",
    "fuse": "yolorep.nn.reparam",
    "import_blocks": "yolorep.models.user_blocks",
    "load_model": "yolorep.inference.open",
    "register": "yolorep.nn.registry",
    "train": "yolorep.api",
    "val": "yolorep.api",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        with opencv_wanted():
            return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'yolorep' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
