"""yolorep: YOLO-style detectors whose every block is structurally reparameterizable.

>>> from yolorep import load_model, fuse, Predictor
>>> model = load_model("best.pt")
>>> fused, report = fuse(model)
>>> detections = Predictor(fused)("street.jpg")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolorep.detections import Detections as Detections
    from yolorep.inference.open import load_model as load_model
    from yolorep.inference.predictor import Predictor as Predictor
    from yolorep.models.detector import build_model as build_model
    from yolorep.nn.reparam import fuse as fuse

__version__ = "0.1.0"

# Imported on first use, so that `import yolorep` and `yolorep --help` do not wait for torch.
_PUBLIC = {
    "Detections": "yolorep.detections",
    "Predictor": "yolorep.inference.predictor",
    "build_model": "yolorep.models.detector",
    "fuse": "yolorep.nn.reparam",
    "load_model": "yolorep.inference.open",
}
__all__ = ["Detections", "Predictor", "build_model", "fuse", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'yolorep' has no attribute '{name}'")
