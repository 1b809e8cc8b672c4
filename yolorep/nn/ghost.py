"""Ghost rows: half of the channels are cheap depth-wise copies (Han et al. 2019, "GhostNet", arXiv:1911.11907)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolorep.nn.conv import Activation, Conv, DWConv
from yolorep.nn.registry import register


@register()
class GhostConv(nn.Module):
    """A Conv of half the channels, and a 5×5 depth-wise Conv of it: ``[c2, k=1, s=1, g=1, act=True]``."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        g: int = 1,
        act: bool = True,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = c2 // 2
        self.cv1 = Conv(c1, hidden, k, s, None, g, 1, act, activation=activation)
        self.cv2 = Conv(hidden, hidden, 5, 1, None, hidden, 1, act, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), dim=1)


@register()
class GhostBottleneck(nn.Module):
    """Two ghost convolutions with a depth-wise one between them at stride 2: ``[c2, k=3, s=1]``."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, *, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        hidden = c2 // 2
        strided = s == 2
        self.conv = nn.Sequential(
            GhostConv(c1, hidden, 1, 1, activation=activation),
            DWConv(hidden, hidden, k, s, act=False, activation=activation) if strided else nn.Identity(),
            GhostConv(hidden, c2, 1, 1, act=False, activation=activation),
        )
        self.shortcut: nn.Module = (
            nn.Sequential(
                DWConv(c1, c1, k, s, act=False, activation=activation),
                Conv(c1, c2, 1, 1, act=False, activation=activation),
            )
            if strided
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)
