"""Image sizes that a network can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolorep.console import say
from yolorep.defaults import IMAGE_SIZE
from yolorep.errors import UserError
from yolorep.limits import LARGEST_IMAGE_SIZE
from yolorep.ops.letterbox import Geometry, Shape, Size, bounds, round_up

if TYPE_CHECKING:
    from yolorep.models.network import Network


def fit_image_size(size: int, stride: int) -> int:
    """``--imgsz`` rounded up to a multiple of the largest stride; says so if that changed it.

    Raises:
        UserError: if it is larger than any network input can be.
    """
    return bounds(_fit(size, stride))[0]


def check_image_size(size: Size, source: str) -> None:
    """Makes sure that a network input of this size is possible.

    Args:
        size: in pixels.
        source: the flag or file that says so.

    Raises:
        UserError: if it is not.
    """
    if not 1 <= min(bounds(size)) <= max(bounds(size)) <= LARGEST_IMAGE_SIZE:
        found = size_text(size)
        raise UserError(f"{source}: expected an image size from 1 to {LARGEST_IMAGE_SIZE} pixels, found {found}")


def size_text(size: Size) -> str:
    """A size as people write it: ``640``, or height and width, ``480x640``."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def choose_size(
    asked: Size | None, *, geometry: Geometry, stride: int, fixed: Shape | None = None, source: str
) -> Size:
    """The size that weights are run at, one number if it is square; says so where it is not what was asked for.

    Args:
        asked: what was asked for, a long side or (height, width); None for the size that the weights were trained at,
            or 640.
        geometry: what the weights remember.
        stride: what the size is rounded up to a multiple of.
        fixed: the only (height, width) that an exported file takes.
        source: what to call the weights.

    Raises:
        UserError: if it is larger than any network input can be.
    """
    if fixed is not None:
        check_image_size(fixed, source)
        if asked not in (None, max(fixed), fixed):
            say(f"{source}: imgsz {size_text(fixed)}, which it was exported for, instead of {size_text(asked)}")
        return _one_number(fixed)
    if asked is None and geometry.image_size is not None:
        say(f"{source}: imgsz {geometry.image_size}, which it was trained at")
    return _fit(geometry.size(asked), stride)


def counted_size(model: Network, size: int | None, *, quiet: bool = False) -> int:
    """The image size that a model's operations are counted at: ``size``, or what is usual for its kind.

    Args:
        model: the model.
        size: ``--imgsz``, rounded up to a multiple of the largest stride; None for 640, and 224 for a classifier.
        quiet: do not say that it was rounded.
    """
    from yolorep.models.detector import Detector  # late: it imports every block there is

    size = size or (IMAGE_SIZE if isinstance(model, Detector) else 224)
    check_image_size(size, "--imgsz")
    return round_up(size, model.max_stride) if quiet else fit_image_size(size, model.max_stride)


def _fit(size: Size, stride: int) -> Size:
    check_image_size(size, "--imgsz")
    height, width = bounds(size)
    fitted = _one_number((round_up(height, stride), round_up(width, stride)))
    if bounds(fitted) != (height, width):
        found = size_text(size)
        say(f"--imgsz {found}: rounded up to {size_text(fitted)}, a multiple of the largest stride {stride}")
    return fitted


def _one_number(shape: Shape) -> Size:
    """A square as its side."""
    return shape[0] if shape[0] == shape[1] else shape
