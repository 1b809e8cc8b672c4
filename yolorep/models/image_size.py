"""Image sizes that a network can take."""

from __future__ import annotations

from yolorep.console import say
from yolorep.ops.letterbox import round_up


def fit_image_size(size: int, stride: int) -> int:
    """``--imgsz`` rounded up to a multiple of the largest stride; says so if that changed it."""
    fitted = round_up(size, stride)
    if fitted != size:
        say(f"--imgsz {size}: rounded up to {fitted}, a multiple of the largest stride {stride}")
    return fitted
