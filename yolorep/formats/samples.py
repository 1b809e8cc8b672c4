"""Real images to compare an exported file with its model on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from yolorep.data.catalog import load_data_config
from yolorep.data.shapes import render_image
from yolorep.errors import UserError
from yolorep.images import ImageError, read_image
from yolorep.ops.letterbox import LetterBox
from yolorep.ops.prepare import letterboxed

#: Small, and rendered where needed: an export can be checked without any data set.
DEFAULT_DATA = "data/shapes.yaml"


def sample_batches(shapes: Sequence[tuple[int, int, int]], *, data: str | None = None) -> list[Tensor]:
    """Letterboxes images of a data set, its first validation images, into batches.

    Args:
        shapes: (batch, height, width) of each batch wanted; the images are used again where there are too few.
        data: data YAML; rendered shapes if None.

    Returns:
        (batch, 3, height, width) uint8 RGB tensors.

    Raises:
        UserError: if the data set has no image that can be read.
    """
    wanted = sum(batch for batch, _, _ in shapes)
    found = list(itertools.islice(_images(data or DEFAULT_DATA), wanted))
    if not found:
        raise UserError(f"{data}: expected images to check the export on, found none that can be read")
    images = itertools.cycle(found)
    batches = []
    for batch, height, width in shapes:
        chosen = list(itertools.islice(images, batch))
        batches.append(letterboxed(chosen, [LetterBox.plan(image.shape[:2], (height, width)) for image in chosen]))
    return batches


def _images(data: str) -> Iterator[NDArray[np.uint8]]:
    """Yields BGR images of the val split, or of the first split there is."""
    config = load_data_config(data)
    split = "val" if "val" in config.splits else next(iter(config.splits))
    if config.shapes is not None:
        # A few are drawn here: the whole data set would take seconds.
        yield from (render_image(config.shapes, split, number)[0] for number in range(getattr(config.shapes, split)))
        return
    for path in config.images(split):
        try:
            yield read_image(path)
        except ImageError:
            continue
