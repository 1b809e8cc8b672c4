"""Image sizes that a network can take."""

from __future__ import annotations

from yolorep.console import say
from yolorep.models.detector import Detector
from yolorep.models.network import Network
from yolorep.ops.letterbox import DEFAULT_SIZE, Geometry, round_up


def fit_image_size(size: int, stride: int) -> int:
    """``--imgsz`` rounded up to a multiple of the largest stride; says so if that changed it."""
    fitted = round_up(size, stride)
    if fitted != size:
        say(f"--imgsz {size}: rounded up to {fitted}, a multiple of the largest stride {stride}")
    return fitted


def remembered_size(asked: int | None, geometry: Geometry, weights: str) -> int:
    """``--imgsz``, or without it the size that the weights were trained at, which is said."""
    if asked is None and geometry.image_size is not None:
        say(f"imgsz {geometry.image_size}, which {weights} was trained at; --imgsz takes another")
    return geometry.size(asked)


def counted_size(model: Network, size: int | None, *, quiet: bool = False) -> int:
    """The image size that a model's operations are counted at: ``size``, or what is usual for its kind.

    Args:
        model: the model.
        size: ``--imgsz``, rounded up to a multiple of the largest stride; None for 640, and 224 for a classifier.
        quiet: do not say that it was rounded.
    """
    size = size or (DEFAULT_SIZE if isinstance(model, Detector) else 224)
    return round_up(size, model.max_stride) if quiet else fit_image_size(size, model.max_stride)
