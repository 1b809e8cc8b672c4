"""MobileOne (Vasu et al. 2022, "An Improved One millisecond Mobile Backbone", arXiv:2206.04040)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from torch import Tensor, nn

from yolorep.nn.branches import BranchSum
from yolorep.nn.conv import ConvBN
from yolorep.nn.registry import converts_exactly, register

#: BatchNorm constants of the published backbones.
BN_EPS, BN_MOMENTUM = 1e-5, 0.1


class MobileOneConv(BranchSum):
    """Sum of k conv-BN branches, a 1×1 conv-BN "scale" branch and a BN identity: one convolution once fused.

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, h / stride, w / stride).

    Args:
        in_channels, out_channels, kernel_size, stride, groups, dilation: of the convolution; the kernel is odd, and
            padded to keep the size at stride 1.
        branches: number of k×k branches, may be 0.
        scale: add a 1×1 branch (kernels larger than 1 only).
        skip: add the identity where channels and stride allow.
        eps, momentum: of every BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        branches: int = 1,
        scale: bool = True,
        skip: bool = True,
        padding_mode: str = "zeros",
        eps: float = BN_EPS,
        momentum: float = BN_MOMENTUM,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel size, found {kernel_size}")
        if branches < 0 or stride < 1:
            raise ValueError(f"expected k of at least 0 and a stride of at least 1, found {branches} and {stride}")
        padding = dilation * (kernel_size - 1) // 2

        def branch(size: int, pad: int) -> ConvBN:
            return ConvBN(
                in_channels,
                out_channels,
                size,
                stride,
                pad,
                groups=groups,
                dilation=dilation if size > 1 else 1,
                padding_mode=padding_mode,
                eps=eps,
                momentum=momentum,
            )

        self.conv_kxk = nn.ModuleList(branch(kernel_size, padding) for _ in range(branches))
        self.conv_scale = branch(1, 0) if scale and kernel_size > 1 else None
        can_skip = skip and in_channels == out_channels and stride == 1
        self.identity = nn.BatchNorm2d(in_channels, eps, momentum) if can_skip else None
        if not branches and self.conv_scale is None and self.identity is None:
            raise ValueError("expected at least one branch: k×k branches, scale or identity")
        self.groups = groups

    def parts(self) -> list[nn.Module]:
        parts: list[nn.Module | None] = [*self.conv_kxk, self.conv_scale, self.identity]
        return [part for part in parts if part is not None]


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2017, arXiv:1709.01507): pool, 1×1 to channels // ratio, ReLU, 1×1, sigmoid.

    Raises:
        ValueError: if fewer than ``ratio`` channels leave nothing to squeeze into.
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        if channels < ratio:
            raise ValueError(f"squeeze-and-excite with ratio {ratio} needs at least {ratio} channels, found {channels}")
        self.reduce = nn.Conv2d(channels, channels // ratio, 1)
        self.expand = nn.Conv2d(channels // ratio, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.reduce(x.mean((2, 3), keepdim=True)).relu()
        return x * self.expand(weight).sigmoid()


class MobileOneBlock(nn.Module):
    """``act(se(conv(x)))`` with a reparameterizable ``conv``; the arguments are MobileOneConv's.

    Args:
        se: squeeze-and-excite between convolution and activation.
        activation: builds the activation, by default a ReLU that writes where it read; ``nn.Identity`` for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        branches: int = 1,
        se: bool = False,
        activation: Callable[[], nn.Module] = partial(nn.ReLU, inplace=True),  # noqa: B008  (makes nothing yet)
    ) -> None:
        super().__init__()
        self.conv: nn.Module = MobileOneConv(
            in_channels, out_channels, kernel_size, stride, groups=groups, branches=branches
        )
        self.se = SqueezeExcite(out_channels) if se else nn.Identity()
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.se(self.conv(x)))


class MobileOneUnit(nn.Module):
    """A depth-wise 3×3 block, which carries the stride, and a point-wise 1×1 block."""

    def __init__(
        self, in_channels: int, out_channels: int, branches: int, stride: int = 1, *, se: bool = False
    ) -> None:
        super().__init__()
        self.dw = MobileOneBlock(in_channels, in_channels, 3, stride, groups=in_channels, branches=branches, se=se)
        self.pw = MobileOneBlock(in_channels, out_channels, 1, branches=branches, se=se)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))


@register(repeats="inside", channels=converts_exactly)
class MobileOne(nn.Sequential):
    """n MobileOne units, the first c1 -> c2 with the stride, the rest c2 -> c2: ``[c2, k, s, se=False]``.

    Args:
        k: branches of every block.
        s: stride of the first unit.
        se: squeeze-and-excite in every block.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, k: int = 1, s: int = 1, se: bool = False) -> None:
        super().__init__(MobileOneUnit(c1, c2, k, s, se=se), *(MobileOneUnit(c2, c2, k, se=se) for _ in range(n - 1)))

    def forward(self, x: Tensor) -> Tensor:
        for unit in cast(
            Iterable[MobileOneUnit], self
        ):  # block by block: a unit's input is given back before its second block runs
            x = unit.dw(x)
            x = unit.pw(x)
        return x


@register(channels=converts_exactly)
class MobileOneStem(MobileOneBlock):
    """The first block: dense 3×3 with stride 2 and one branch, whatever the k of the stages: ``[c2]``."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__(c1, c2, 3, 2)
