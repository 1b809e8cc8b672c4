"""Bottlenecks and cross-stage-partial rows (Wang et al. 2019, "CSPNet", arXiv:1911.11929)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolorep.nn.conv import BN_EPS, BN_MOMENTUM, Activation, Conv, CrossConv, as_conv, fold_norm_after_concat
from yolorep.nn.ghost import GhostBottleneck
from yolorep.nn.registry import register
from yolorep.nn.reparam import FoldRecord
from yolorep.nn.spp import SPP
from yolorep.nn.transformer import TransformerBlock


@register()
class Bottleneck(nn.Module):
    """1×1 then 3×3 Conv, the input added where channels allow: ``[c2, shortcut=True, g=1, e=0.5]``."""

    def __init__(
        self,
        c1: int,
        c2: int,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1, activation=activation)
        self.cv2 = Conv(hidden, c2, 3, 1, g=g, activation=activation)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register(repeats="inside")
class BottleneckCSP(nn.Module):
    """CSP block with plain 1×1 convolutions and one BatchNorm over both halves: ``[c2, shortcut=True, g=1, e=0.5]``.

    The BatchNorm follows a concatenation, so it folds channel by channel into the convolutions that make it.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.in_channels = c1
        self.cv1 = Conv(c1, hidden, 1, 1, activation=activation)
        self.cv2 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c2, 1, 1, activation=activation)
        self.bn: nn.Module = nn.BatchNorm2d(2 * hidden, BN_EPS, BN_MOMENTUM)
        self.act = nn.SiLU()
        self.m = nn.Sequential(
            *(Bottleneck(hidden, hidden, shortcut, g, e=1.0, activation=activation) for _ in range(n))
        )

    def forward(self, x: Tensor) -> Tensor:
        halves = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), dim=1)
        return self.cv4(self.act(self.bn(halves)))

    def fold_(self) -> list[FoldRecord]:
        if not isinstance(self.bn, nn.BatchNorm2d):
            return []
        self.cv3, self.cv2 = fold_norm_after_concat([as_conv(self.cv3), as_conv(self.cv2)], self.bn)
        self.bn = nn.Identity()
        return [FoldRecord("bn", ("cv3", "cv2"))]


@register(repeats="inside")
class C3(nn.Module):
    """CSP block of three Convs around n bottlenecks: ``[c2, shortcut=True, g=1, e=0.5]``."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1, activation=activation)
        self.cv2 = Conv(c1, hidden, 1, 1, activation=activation)
        self.cv3 = Conv(2 * hidden, c2, 1, activation=activation)
        self.m = self.middle(hidden, n, shortcut, g, activation)

    def middle(self, hidden: int, n: int, shortcut: bool, g: int, activation: Activation) -> nn.Module:
        """The n blocks of the first half; what C3's relatives replace."""
        return nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0, activation=activation) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


@register(repeats="inside")
class C3x(C3):
    """C3 with cross convolutions: ``[c2, shortcut=True, g=1, e=0.5]``."""

    def middle(self, hidden: int, n: int, shortcut: bool, g: int, activation: Activation) -> nn.Module:
        return nn.Sequential(
            *(CrossConv(hidden, hidden, 3, 1, g, 1.0, shortcut, activation=activation) for _ in range(n))
        )


@register(repeats="inside")
class C3Ghost(C3):
    """C3 with ghost bottlenecks: ``[c2, shortcut=True, g=1, e=0.5]``."""

    def middle(self, hidden: int, n: int, shortcut: bool, g: int, activation: Activation) -> nn.Module:
        return nn.Sequential(*(GhostBottleneck(hidden, hidden, activation=activation) for _ in range(n)))


@register(repeats="inside")
class C3TR(C3):
    """C3 with a transformer of n layers and 4 heads: ``[c2, shortcut=True, g=1, e=0.5]``."""

    def middle(self, hidden: int, n: int, shortcut: bool, g: int, activation: Activation) -> nn.Module:
        return TransformerBlock(hidden, hidden, 4, n, activation=activation)


@register()
class C3SPP(C3):
    """C3 with pyramid pooling instead of bottlenecks: ``[c2, k=[5, 9, 13], n=1, shortcut=True, g=1, e=0.5]``.

    ``n``, ``shortcut`` and ``g`` are C3's; the pooling has no use for them.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e, activation=activation)
        hidden = int(c2 * e)
        self.m = SPP(hidden, hidden, k, activation=activation)
