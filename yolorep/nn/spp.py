"""Spatial pyramid pooling rows (He et al. 2014, arXiv:1406.4729)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolorep.nn.conv import Activation, Conv
from yolorep.nn.registry import register


@register()
class SPP(nn.Module):
    """Max-pools of several sizes side by side between two 1×1 Convs: ``[c2, k=[5, 9, 13]]``."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13), *, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1, activation=activation)
        self.cv2 = Conv(hidden * (len(k) + 1), c2, 1, 1, activation=activation)
        self.m = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


@register()
class SPPF(nn.Module):
    """SPP with one pool applied three times, equal to sizes k, 2k - 1 and 3k - 2: ``[c2, k=5]``."""

    def __init__(self, c1: int, c2: int, k: int = 5, *, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1, activation=activation)
        self.cv2 = Conv(hidden * 4, c2, 1, 1, activation=activation)
        self.m = nn.MaxPool2d(k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        pools = [self.cv1(x)]
        for _ in range(3):
            pools.append(self.m(pools[-1]))
        return self.cv2(torch.cat(pools, dim=1))
