"""Space to depth and back: changes of size that throw nothing away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolorep.nn.registry import Plan, Scale, register


def quadruples(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """Arguments as they are, four times the channels."""
    (channels,) = in_channels
    return Plan(tuple(args), 4 * channels)


def contracts(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[gain=2]``: gain² times the channels."""
    (channels,) = in_channels
    return Plan(tuple(args), channels * _gain(args) ** 2)


def spreads(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[gain=2]``: one gain²th of the channels."""
    (channels,) = in_channels
    if channels % _gain(args) ** 2:
        raise ValueError(f"expected channels that {_gain(args)}² divides, found {channels}")
    return Plan(tuple(args), channels // _gain(args) ** 2)


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


@register(channels=contracts)
class Contract(nn.Module):
    """Moves each block of gain × gain pixels into channels, pixel by pixel of the block: ``[gain=2]``.

    Shape: (batch, channels, h, w), multiples of gain -> (batch, gain² · channels, h / gain, w / gain).
    """

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        # Unshuffled, the pixels of a block are side by side within each channel; here whole images are.
        return F.pixel_unshuffle(x, self.gain).unflatten(1, (x.shape[1], -1)).transpose(1, 2).flatten(1, 2)


@register(channels=spreads)
class Expand(nn.Module):
    """Moves channels into blocks of gain × gain pixels, the inverse of :class:`Contract`: ``[gain=2]``.

    Shape: (batch, channels, h, w), a multiple of gain² -> (batch, channels / gain², gain · h, gain · w).
    """

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x.unflatten(1, (self.gain**2, -1)).transpose(1, 2).flatten(1, 2), self.gain)


def _gain(args: Sequence[Any]) -> int:
    gain = args[0] if args else 2
    if not isinstance(gain, int) or isinstance(gain, bool) or gain < 1:
        raise ValueError(f"gain: expected a whole number of at least 1, found {gain!r}")
    return gain
