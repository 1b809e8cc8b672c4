"""Efficient layer aggregation (Wang et al. 2022, "Designing Network Design Strategies", arXiv:2211.04800)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolorep.nn.conv import Activation, Conv
from yolorep.nn.registry import register
from yolorep.nn.repconv import RepConv


@register(repeats="inside")
class RepELAN(nn.Module):
    """n RepConvs in a chain, every link of which reaches the output: ``[c2, e=0.5]``.

    Args:
        e: channels of the chain, as a share of c2.
        activation: builds the activation, SiLU unless the model file names another.
        branches: of every RepConv.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, e: float = 0.5, *, activation: Activation = nn.SiLU, branches: int = 1
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, 2 * hidden, activation=activation)
        self.m = nn.ModuleList(
            RepConv(hidden, hidden, identity=True, activation=activation, branches=branches) for _ in range(n)
        )
        self.cv2 = Conv((2 + n) * hidden, c2, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        links = list(self.cv1(x).chunk(2, dim=1))
        if self.training:
            links[-1] = links[-1].clone()  # BatchNorm's kernels are several times slower on a part of a tensor
        for block in self.m:
            links.append(block(links[-1]))
        return self.cv2(torch.cat(links, dim=1))
