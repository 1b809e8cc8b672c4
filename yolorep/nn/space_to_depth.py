"""Space to depth: down-sampling that throws nothing away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolorep.nn.registry import Plan, Scale, register


def quadruples(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """Arguments as they are, four times the channels."""
    (channels,) = in_channels
    return Plan(tuple(args), 4 * channels)


@register("space_to_depth", channels=quadruples)
class SpaceToDepth(nn.Module):
    """Moves each 2×2 block of pixels into channels (Sunkara & Luo 2022, arXiv:2208.03641): ``[dimension=1]``.

    The order is that of Focus: all channels of pixel (0, 0), of (1, 0), of (0, 1), of (1, 1), as (row, column).

    Shape: (batch, channels, h, w) with even h, w -> (batch, 4 · channels, h / 2, w / 2).

    Raises:
        ValueError: for another dimension than 1; in ``forward``, for an odd height or width.
    """

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        if dimension != 1:
            raise ValueError(f"space_to_depth moves pixels into dimension 1, the channels; found {dimension}")

    def forward(self, x: Tensor) -> Tensor:
        return space_to_depth(x)


def space_to_depth(x: Tensor) -> Tensor:
    """(batch, channels, h, w) with even h, w to (batch, 4 · channels, h / 2, w / 2), in Focus' order.

    Raises:
        ValueError: for an odd height or width.
    """
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        raise ValueError(f"pixels move into channels at an even height and width, found {height}×{width}")
    return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), dim=1)
