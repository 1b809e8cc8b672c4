"""Layers of ``torch.nn`` as rows: ``nn.Upsample``, ``nn.AvgPool2d``, ``nn.ConvTranspose2d`` and others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from yolorep.nn.conv import BN_EPS, BN_MOMENTUM
from yolorep.nn.registry import Plan, Scale, keeps, register

#: Layers that keep the channels of any feature: called with the row's arguments as they are. Layers that
#: leave no map of any size (adaptive pools, Flatten, LayerNorm) are none of them.
KEEPING: tuple[type[nn.Module], ...] = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d),
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm, nn.ChannelShuffle),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Mish, nn.ELU, nn.SELU, nn.CELU),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Softsign),
    *(nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Threshold, nn.Softmax2d, nn.Softmax),
)

for _layer in KEEPING:
    register(f"nn.{_layer.__name__}", channels=keeps)(_layer)


def norms(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[]``: of its input's channels, with YOLOv5's constants; a first argument is not looked at, as there."""
    (channels,) = in_channels
    if len(args) > 1:
        raise ValueError(f"expected [], for channels, eps and momentum are known; found {list(args)}")
    return Plan((channels, BN_EPS, BN_MOMENTUM), channels)


def as_written(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[c1, c2, k, …]`` as in PyTorch: nothing is scaled."""
    (channels,) = in_channels
    if len(args) < 2 or args[0] != channels:
        raise ValueError(f"expected input channels, which are {channels} here, and output channels, found {list(args)}")
    return Plan(tuple(args), args[1])


@register("nn.RReLU", channels=keeps)
class RReLU(nn.RReLU):
    """PyTorch's, written as the LeakyReLU that it is in eval mode, for exports."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if self.training else F.leaky_relu(input, (self.lower + self.upper) / 2)


register("nn.BatchNorm2d", channels=norms)(nn.BatchNorm2d)
register("nn.Conv2d", channels=as_written)(nn.Conv2d)
register("nn.ConvTranspose2d")(nn.ConvTranspose2d)


@register()
class DWConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution with gcd(c1, c2) groups: ``[c2, k=1, s=1, p=0, output_padding=0]``."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int = 0, output_padding: int = 0) -> None:
        super().__init__(c1, c2, k, s, p, output_padding, groups=math.gcd(c1, c2))
