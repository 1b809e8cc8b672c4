"""Convolution rows: Conv, DWConv, Focus, CrossConv, MixConv2d, and what stands between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolorep.nn.registry import concatenates, keeps, register
from yolorep.nn.reparam import ConvKernel, FoldRecord, Reparameterizable, trainable_like
from yolorep.nn.space_to_depth import space_to_depth

Activation = Callable[[], nn.Module]

#: BatchNorm constants of YOLOv5's rows.
BN_EPS, BN_MOMENTUM = 1e-3, 0.03


class StridedPointwise(nn.Conv2d):
    """An unpadded 1×1 convolution with a stride that picks its pixels first.

    The same function as ``nn.Conv2d``. With few input channels in channels_last, oneDNN's weight gradient of the
    strided form writes past its buffer on CPUs (uxlfoundation/oneDNN#6035): wrong gradients or a crash.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # A pooling window of one pixel: unlike a slice's, its gradient stays in channels_last.
        picked = F.avg_pool2d(input, 1, self.stride)
        return F.conv2d(picked, weight, bias, groups=self.groups)


class ConvBN(Reparameterizable):
    """A convolution, bias-free as a rule, and its BatchNorm: the unit that fuses into one convolution.

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, h', w').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        *,
        groups: int = 1,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        eps: float = BN_EPS,
        momentum: float = BN_MOMENTUM,
    ) -> None:
        super().__init__()
        strided_pointwise = kernel_size in (1, (1, 1)) and stride not in (1, (1, 1)) and padding in (0, (0, 0))
        self.conv = (StridedPointwise if strided_pointwise else nn.Conv2d)(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias=False,
            padding_mode=cast(Any, padding_mode),
        )
        self.bn = nn.BatchNorm2d(out_channels, eps, momentum)

    @classmethod
    def of(cls, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> ConvBN:
        """The unit that a convolution and a BatchNorm are, made elsewhere; in the BatchNorm's mode."""
        unit = cls.__new__(cls)
        nn.Module.__init__(unit)
        unit.conv, unit.bn, unit.training = conv, bn, bn.training
        return unit

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def kernel(self) -> ConvKernel:
        return ConvKernel.of(self.conv).then_bn(self.bn)


def same_padding(kernel_size: int | tuple[int, int], dilation: int = 1) -> int | tuple[int, int]:
    """Padding that keeps the size of an odd kernel at stride 1."""
    if isinstance(kernel_size, int):
        return dilation * (kernel_size - 1) // 2 if kernel_size % 2 else dilation * kernel_size // 2
    height, width = (same_padding(side, dilation) for side in kernel_size)
    assert isinstance(height, int) and isinstance(width, int)
    return height, width


@register(channels=keeps)
class Normalize(nn.Module):
    """Standardizes RGB in 0..1, as ImageNet's published networks expect it: ``[mean, std]``, by default ImageNet's."""

    def __init__(
        self, mean: Sequence[float] = (0.485, 0.456, 0.406), std: Sequence[float] = (0.229, 0.224, 0.225)
    ) -> None:
        super().__init__()
        if any(side <= 0 for side in std):
            raise ValueError(f"expected deviations above 0, found {list(std)}")
        # Numbers, no buffers: casting a model to another precision and back must not round them.
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (x - mean).div_(std)  # of the difference only one copy is needed


@register()
class Conv(nn.Module):
    """Convolution, BatchNorm, activation: ``[c2, k=1, s=1, p=None, g=1, d=1, act=True]``.

    Args:
        p: padding; by default k // 2 (times the dilation).
        act: whether the activation follows.
        activation: builds the activation, SiLU unless the model file names another.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int | tuple[int, int] = 1,
        s: int | tuple[int, int] = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: bool = True,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        padding = same_padding(k, d) if p is None else p
        self.conv: nn.Module = ConvBN(c1, c2, k, s, padding, groups=g, dilation=d)
        self.act = activation() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


@register()
class DWConv(Conv):
    """Depth-wise Conv, with gcd(c1, c2) groups: ``[c2, k=1, s=1, d=1, act=True]``."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        d: int = 1,
        act: bool = True,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__(c1, c2, k, s, None, math.gcd(c1, c2), d, act, activation=activation)


@register()
class Focus(nn.Module):
    """Moves each 2×2 block of pixels into channels, then a Conv: ``[c2, k=1, s=1, p=None, g=1, act=True]``.

    Shape: (batch, c1, h, w) with even h, w -> (batch, c2, h / 2, w / 2).
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: bool = True,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, 1, act, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(space_to_depth(x))


@register()
class CrossConv(nn.Module):
    """A 1×k and a k×1 Conv: ``[c2, k=3, s=1, g=1, e=1.0, shortcut=False]``."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        g: int = 1,
        e: float = 1.0,
        shortcut: bool = False,
        *,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s), activation=activation)
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g, activation=activation)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register()
class MixConv2d(nn.Module):
    """Convolutions of several sizes side by side (Tan & Le 2019, arXiv:1907.09595): ``[c2, k=[1, 3], s=1]``.

    Their outputs share one BatchNorm after the concatenation, which folds into them channel by channel. The input is
    added where shapes allow.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1) -> None:
        super().__init__()
        self.in_channels = c1
        widths = [c2 // len(k) + (i < c2 % len(k)) for i in range(len(k))]
        self.m = nn.ModuleList(
            nn.Conv2d(c1, width, size, s, same_padding(size), bias=False) for width, size in zip(widths, k, strict=True)
        )
        self.bn: nn.Module = nn.BatchNorm2d(c2, BN_EPS, BN_MOMENTUM)
        self.act = nn.SiLU()
        self.add = c1 == c2 and s == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(torch.cat([conv(x) for conv in self.m], dim=1)))
        return x + y if self.add else y

    def fold_(self) -> list[FoldRecord]:
        if not isinstance(self.bn, nn.BatchNorm2d):
            return []
        folded = fold_norm_after_concat([as_conv(conv) for conv in self.m], self.bn)
        self.m, self.bn = nn.ModuleList(folded), nn.Identity()
        return [FoldRecord("bn", tuple(f"m.{i}" for i in range(len(folded))))]


def fold_norm_after_concat(convs: Sequence[nn.Conv2d], bn: nn.BatchNorm2d) -> list[nn.Conv2d]:
    """New convolutions that include their slice of a BatchNorm over the concatenation of their outputs."""
    folded, start = [], 0
    for conv in convs:
        kernel = ConvKernel.of(conv).then_bn(bn, channels=slice(start, start + conv.out_channels))
        folded.append(trainable_like(kernel.to_conv(), conv, bn))
        start += conv.out_channels
    return folded


def as_conv(module: nn.Module) -> nn.Conv2d:
    """``module`` as the plain convolution it is known to be."""
    assert isinstance(module, nn.Conv2d), type(module)
    return module


@register(channels=concatenates)
class Concat(nn.Module):
    """Concatenates feature maps: ``[dimension=1]``."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, features: list[Tensor]) -> Tensor:
        return torch.cat(features, dim=self.d)
