"""Reparameterizable convolution rows of later YOLOs: RepConv, and QARepVGG, which survives quantization."""

from __future__ import annotations

from torch import Tensor, nn

from yolorep.nn import conv
from yolorep.nn.conv import Activation, ConvBN, StridedPointwise
from yolorep.nn.kernels import merged
from yolorep.nn.mobileone import BN_EPS, BN_MOMENTUM, MobileOneConv
from yolorep.nn.registry import converts_exactly, register
from yolorep.nn.reparam import ConvKernel, Reparameterizable
from yolorep.nn.repvgg import check_geometry


@register()
class RepConv(nn.Module):
    """MobileOne's branches with YOLO's BatchNorm and activation: ``[c2, k=3, s=1, g=1, identity=False]``.

    With one branch these are RepVGG's. As in YOLOv6 and YOLOv7 (Wang et al. 2022, arXiv:2207.02696), with the identity,
    and as in YOLOv9 (Wang et al. 2024, arXiv:2402.13616), without.

    Args:
        k: odd.
        identity: add the BN identity where channels and stride allow.
        activation: builds the activation, SiLU unless the model file names another.
        branches: number of k×k branches, 1 unless the model file names another; beside them is a 1×1. With 0 there is
            one plain convolution to train, too.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        g: int = 1,
        identity: bool = False,
        *,
        activation: Activation = nn.SiLU,
        branches: int = 1,
    ) -> None:
        super().__init__()
        check_geometry(c1, c2, k, s, groups=g)
        self.conv: nn.Module = (
            MobileOneConv(
                c1, c2, k, s, groups=g, branches=branches, skip=identity, eps=conv.BN_EPS, momentum=conv.BN_MOMENTUM
            )
            if branches
            else ConvBN(c1, c2, k, s, k // 2, groups=g)
        )
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class QARepVGGConv(Reparameterizable):
    """One BatchNorm over the sum of a k×k conv-BN, a bare 1×1 convolution and the input itself.

    With no norm of their own the small branches cannot blow up single weights, which is what ruins RepVGG in int8.

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, ceil(h / stride), ceil(w / stride)).

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution; the kernel is odd. The input is
            added where channels and stride allow.

    Raises:
        ValueError: for an even kernel, or groups that do not divide the channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, *, groups: int = 1
    ) -> None:
        super().__init__()
        check_geometry(in_channels, out_channels, kernel_size, stride, groups=groups)
        self.conv_kxk = ConvBN(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            groups=groups,
            eps=BN_EPS,
            momentum=BN_MOMENTUM,
        )
        pointwise = StridedPointwise if stride > 1 else nn.Conv2d
        self.conv_1x1 = pointwise(in_channels, out_channels, 1, stride, groups=groups, bias=False)
        self.add = in_channels == out_channels and stride == 1
        self.bn = nn.BatchNorm2d(out_channels, BN_EPS, BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_kxk(x) + self.conv_1x1(x)
        return self.bn(y + x if self.add else y)

    def kernel(self) -> ConvKernel:
        conv_1x1 = self.conv_1x1
        kernels = [self.conv_kxk.kernel(), ConvKernel.of(conv_1x1)]
        if self.add:
            kernels.append(ConvKernel.identity(conv_1x1.in_channels, groups=conv_1x1.groups, like=conv_1x1.weight))
        return merged(kernels).then_bn(self.bn)


@register(channels=converts_exactly)
class QARepVGG(nn.Module):
    """RepVGG made for int8 (Chu et al. 2022, "Make RepVGG Greater Again", arXiv:2212.01593): ``[c2, s=1, g=1]``.

    The 3×3 branch keeps its BatchNorm, the 1×1 branch and the identity have none, one follows their sum; then ReLU.
    """

    def __init__(self, c1: int, c2: int, s: int = 1, g: int = 1) -> None:
        super().__init__()
        self.conv: nn.Module = QARepVGGConv(c1, c2, 3, s, groups=g)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))
