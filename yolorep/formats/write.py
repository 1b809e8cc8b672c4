"""Writing a file of some format, and keeping it only if it computes what its model computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolorep.errors import ExportError, UserError
from yolorep.files import atomic_folder, atomic_write
from yolorep.formats.base import Deployed, Format
from yolorep.formats.metadata import Metadata
from yolorep.formats.pytorch import TorchBackend
from yolorep.formats.verify import compare
from yolorep.models.detector import Detector
from yolorep.ops.letterbox import Size, bounds, round_up


def input_shapes(size: Size, *, stride: int, batch_size: int, dynamic: bool) -> list[tuple[int, int, int]]:
    """The (batch, height, width) a file is checked at: its only shape, or two of different batch, size and aspect."""
    if not dynamic:
        return [(batch_size, *bounds(size))]
    height, width = bounds(size)
    short = round_up(height * 3 // 4, stride)
    return [(1, height, width), (2, short if short < height else height + stride, width)]


def write_checked(
    fused: Detector,
    target: Path,
    *,
    made: Format,
    metadata: Metadata,
    batches: Sequence[Tensor],
    device: torch.device,
    **settings: Any,
) -> str:
    """Writes one file, runs it, and keeps it only if it computes what the model computes.

    Args:
        fused: the model, in eval mode on the CPU.
        target: the file to write; replaced in one step once the new one is proved.
        made: the format.
        metadata: goes into the file, and says whether it takes one input shape or any.
        batches: (n, 3, height, width) uint8 RGB images to compare on.
        device: where to compare.
        settings: options of the format's own.

    Returns:
        A line for people: what was written and how far it is from the model.

    Raises:
        ExportError: if the file cannot be run, or differs from the model.
        UserError: if it cannot be written.
    """
    if metadata.image_size is None or metadata.batch_size is None:
        # All different, and none of them 1: torch.export would take those for constants.
        example, form = torch.zeros(2, 3, 3 * fused.max_stride, 4 * fused.max_stride), "any batch, height and width"
    else:
        example = torch.zeros(metadata.batch_size, 3, *metadata.image_size)
        form = f"input {'x'.join(map(str, example.shape))}"
    with (atomic_folder if made.folder else atomic_write)(target) as temporary:
        try:
            made.write(Deployed(fused).eval(), temporary, example=example, metadata=metadata, **settings)
        except (RuntimeError, ValueError, TypeError) as error:  # how torch says that the format cannot express a model
            raise ExportError(f"{target}: could not be exported: {str(error).strip().splitlines()[0]}") from error
        try:
            comparison = compare(made.open(temporary, device=device), TorchBackend(fused, device=device), batches)
            comparison.require_equal()
        except (UserError, ExportError) as error:
            raise ExportError(f"{target}: not written: {str(error).replace(str(temporary), 'the file')}") from error
        files = temporary.rglob("*") if made.folder else [temporary]
        size = sum(file.stat().st_size for file in files)
    if metadata.nms_free:
        form += ", needs no NMS"
    return f"{target}: {size / 1e6:.1f} MB, {form}; {comparison}"
