"""RepVGG (Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", arXiv:2101.03697)."""

from __future__ import annotations

from torch import Tensor, nn

from yolorep.nn.branches import BranchSum
from yolorep.nn.conv import ConvBN
from yolorep.nn.mobileone import BN_EPS, BN_MOMENTUM, SqueezeExcite
from yolorep.nn.registry import converts_exactly, register


class RepVGGConv(BranchSum):
    """Sum of a k×k conv-BN, a 1×1 conv-BN and, where channels and stride allow, a BN identity: one k×k convolution.

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, ceil(h / stride), ceil(w / stride)).

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution; the kernel is odd, and padded to
            keep the size at stride 1. Both convolutions are grouped.

    Raises:
        ValueError: for an even kernel, or groups that do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
    ) -> None:
        super().__init__()
        check_geometry(in_channels, out_channels, kernel_size, stride, groups=groups)

        def branch(size: int) -> ConvBN:
            return ConvBN(
                in_channels, out_channels, size, stride, size // 2, groups=groups, eps=BN_EPS, momentum=BN_MOMENTUM
            )

        self.conv_kxk = branch(kernel_size)
        self.conv_1x1 = branch(1)
        can_skip = in_channels == out_channels and stride == 1
        self.identity = nn.BatchNorm2d(in_channels, BN_EPS, BN_MOMENTUM) if can_skip else None
        self.groups = groups

    def parts(self) -> list[nn.Module]:
        convs: list[nn.Module] = [self.conv_kxk, self.conv_1x1]
        return convs if self.identity is None else [*convs, self.identity]


def check_geometry(in_channels: int, out_channels: int, kernel_size: int, stride: int, *, groups: int) -> None:
    """Refuses what has no identity or cannot be grouped.

    Raises:
        ValueError: for an even kernel, a stride or groups below 1, or groups that do not divide the channels.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"expected an odd kernel size, found {kernel_size}")
    if stride < 1 or groups < 1:
        raise ValueError(f"expected stride and groups of at least 1, found {stride} and {groups}")
    for which, channels in (("input", in_channels), ("output", out_channels)):
        if channels % groups:
            raise ValueError(
                f"expected groups that divide the channels, found {groups} for {channels} {which} channels"
            )


class RepVGGBlock(nn.Module):
    """``act(se(conv(x)))`` with a reparameterizable 3×3 ``conv``.

    Args:
        in_channels, out_channels, stride, groups: of the convolution.
        se: squeeze-and-excite, with ratio 16, between convolution and ReLU.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, groups: int = 1, se: bool = False
    ) -> None:
        super().__init__()
        self.conv: nn.Module = RepVGGConv(in_channels, out_channels, 3, stride, groups=groups)
        self.se = SqueezeExcite(out_channels) if se else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.se(self.conv(x)))


@register(repeats="inside", channels=converts_exactly)
class RepVGG(nn.Sequential):
    """n RepVGG blocks, the first c1 -> c2 with the stride, the rest c2 -> c2: ``[c2, s=1, g=1, se=False]``.

    The published stem is a row of one block. Their g2 and g4 networks group every second block, counted over the whole
    network from the stem; their stages of 4, 6, 16 and 1 blocks all start with a dense one, so here every row does.

    Args:
        s: stride of the first block.
        g: groups of the blocks at odd places, counted from 0.
        se: squeeze-and-excite in every block.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, s: int = 1, g: int = 1, se: bool = False) -> None:
        check_geometry(c2, c2, 3, s, groups=g)  # a single block is dense, but the row says what it cannot do
        super().__init__(
            *(RepVGGBlock(c2 if i else c1, c2, 1 if i else s, groups=g if i % 2 else 1, se=se) for i in range(n))
        )
