"""Layer scale, a learned gain a channel (Touvron et al. 2021, "CaiT", arXiv:2103.17239).

The block that holds one folds it into the linear layer or convolution before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiplies each channel by its gain.

    Shape: (…, channels), kept.

    Args:
        channels: of the last dimension.
        initial: every gain's value before training.
    """

    def __init__(self, channels: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class LayerScale2d(LayerScale):
    """The same for feature maps: (batch, channels, h, w), kept; ``gamma`` is (channels, 1, 1)."""

    def __init__(self, channels: int, initial: float = 1e-5) -> None:
        super().__init__(channels, initial)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), initial))
