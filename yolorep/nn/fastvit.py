"""FastViT (Vasu et al. 2023, "A Fast Hybrid Vision Transformer using Structural Reparameterization", arXiv:2303.14189).

The convolutional rows; the attention of the last stage is in :mod:`yolorep.nn.fastvit_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from yolorep.nn.branches import BranchSum
from yolorep.nn.conv import ConvBN, as_conv
from yolorep.nn.layer_scale import LayerScale2d
from yolorep.nn.mobileone import BN_EPS, BN_MOMENTUM, MobileOneBlock, MobileOneConv
from yolorep.nn.registry import Plan, Scale, check_kept, converts_exactly, register, stays
from yolorep.nn.reparam import ConvKernel, FoldRecord, Reparameterizable, trainable_like
from yolorep.nn.stochastic_depth import StochasticDepth


def converts_to_multiple(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[c2, …]`` of a row with as many groups as input channels: c2 at width 1, else the next multiple of those."""
    plan = converts_exactly(in_channels, args, scale)
    if scale.width == 1:
        return plan
    c1 = in_channels[0]
    c2 = math.ceil(args[0] * scale.width / c1) * c1
    return Plan((c1, c2, *args[1:]), c2)


@register(channels=converts_exactly)
class FastViTStem(nn.Sequential):
    """Dense 3×3 with stride 2, depth-wise 3×3 with stride 2, 1×1: ``[c2]``.

    Shape: (batch, c1, h, w) -> (batch, c2, h / 4, w / 4), rounded up.
    """

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__(
            MobileOneBlock(c1, c2, 3, 2, activation=nn.GELU),
            MobileOneBlock(c2, c2, 3, 2, groups=c2, activation=nn.GELU),
            MobileOneBlock(c2, c2, 1, activation=nn.GELU),
        )


class LargeKernelConv(BranchSum):
    """Sum of a 7×7 and a 3×3 conv-BN with stride 2 and one group an input channel: one 7×7 convolution once fused.

    Shape: (batch, in_channels, h, w) -> (batch, out_channels, h / 2, w / 2), rounded up.

    Raises:
        ValueError: if ``in_channels`` does not divide ``out_channels``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        _check_multiple(in_channels, out_channels)
        self.large_conv = _conv_bn(in_channels, out_channels, 7, stride=2)
        self.small_conv = _conv_bn(in_channels, out_channels, 3, stride=2)

    def parts(self) -> list[nn.Module]:
        return [self.large_conv, self.small_conv]


@register(channels=converts_to_multiple)
class PatchEmbed(nn.Sequential):
    """Halves the image between two stages: large-kernel convolution without activation, 1×1 block: ``[c2]``.

    Shape: (batch, c1, h, w) -> (batch, c2, h / 2, w / 2), rounded up; c2 is a multiple of c1.
    """

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__(LargeKernelConv(c1, c2), MobileOneBlock(c2, c2, 1, activation=nn.GELU))


class RepMixerConv(Reparameterizable):
    """``x + layer_scale(mixer(x) - norm(x))``: one depth-wise 3×3 convolution once fused.

    Shape: (batch, channels, h, w), kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = MobileOneConv(channels, channels, groups=channels, branches=0, scale=False)
        self.mixer = MobileOneConv(channels, channels, groups=channels)
        self.layer_scale = LayerScale2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale(self.mixer(x) - self.norm(x))

    def kernel(self) -> ConvKernel:
        mixer = self.mixer.kernel()
        difference = mixer - self.norm.kernel().pad_to(mixer)
        channels = self.mixer.groups
        identity = ConvKernel.identity(channels, 3, groups=channels, like=mixer.weight)
        return identity + difference.scaled(self.layer_scale.gamma.flatten())


class ConvFFN(nn.Module):
    """Depth-wise 7×7 conv-BN, 1×1, GELU, 1×1.

    Shape: (batch, channels, h, w), kept.

    Args:
        channels: of input and output.
        ratio: channels between the two 1×1 convolutions, relative to ``channels``.

    Raises:
        ValueError: if ``ratio`` leaves no channel in between.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        if hidden < 1:
            raise ValueError(f"expected a ratio that leaves at least 1 of {channels} channels, found {ratio}")
        self.conv: nn.Module = _conv_bn(channels, channels, 7)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = nn.GELU()
        self.fc2: nn.Module = nn.Conv2d(hidden, channels, 1)
        initialize_linear_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.conv(x))))

    def fold_scale_(self, scale: LayerScale2d) -> None:
        """Lets the last 1×1 convolution take up the layer scale that follows this module."""
        fc2 = as_conv(self.fc2)
        self.fc2 = trainable_like(ConvKernel.of(fc2).scaled(scale.gamma.flatten()).to_conv(), fc2, scale)


class RepMixerBlock(nn.Module):
    """``x = token_mixer(x)``, then ``x + drop_path(layer_scale(mlp(x)))``.

    Shape: (batch, channels, h, w), kept.

    Args:
        channels: of input and output.
        ratio: of the ConvFFN.
        drop_path: probability that an image skips the ConvFFN in training.
    """

    def __init__(self, channels: int, ratio: float, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.in_channels = channels
        self.token_mixer: nn.Module = RepMixerConv(channels)
        self.mlp = ConvFFN(channels, ratio)
        self.layer_scale: nn.Module = LayerScale2d(channels)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_mixer(x)
        return x + self.drop_path(self.layer_scale(self.mlp(x)))

    def fold_(self) -> list[FoldRecord]:
        if not isinstance(self.layer_scale, LayerScale2d):
            return []
        self.mlp.fold_scale_(self.layer_scale)
        self.layer_scale = nn.Identity()
        return [FoldRecord("layer_scale", ("mlp.fc2",))]


@register(repeats="inside", channels=stays)
class RepMixer(nn.Sequential):
    """A stage of n RepMixer blocks: ``[ratio=3]``.

    Args:
        ratio: of every ConvFFN.
        drop_path: one rate a block, 0 by default.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, ratio: float = 3.0, *, drop_path: Sequence[float] | None = None
    ) -> None:
        check_kept(c1, c2)
        super().__init__(*(RepMixerBlock(c1, ratio, drop_path=rate) for rate in drop_rates(n, drop_path)))


@register(channels=stays)
class RepCPE(Reparameterizable):
    """Conditional position encoding (Chu et al. 2021, arXiv:2102.10882), a depth-wise 7×7 plus its input: ``[]``."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        check_kept(c1, c2)
        self.pos_enc = nn.Conv2d(c1, c1, 7, padding=3, groups=c1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_enc(x)

    def kernel(self) -> ConvKernel:
        conv = ConvKernel.of(self.pos_enc)
        return conv + ConvKernel.identity(conv.groups, 7, groups=conv.groups, like=conv.weight)


@register(channels=converts_to_multiple)
class FastViTTail(MobileOneBlock):
    """The classifier's last block, a depth-wise 3×3 with squeeze-and-excite (ratio 16) and GELU: ``[c2]``.

    Raises:
        ValueError: if ``c1`` does not divide ``c2``, or c2 has fewer than 16 channels.
    """

    def __init__(self, c1: int, c2: int) -> None:
        _check_multiple(c1, c2)
        super().__init__(c1, c2, 3, groups=c1, se=True, activation=nn.GELU)


def drop_rates(n: int, drop_path: Sequence[float] | None) -> Sequence[float]:
    """The drop path rates of n blocks, zeros by default.

    Raises:
        ValueError: unless there are n of them, each in [0, 1).
    """
    rates = [0.0] * n if drop_path is None else list(drop_path)
    if len(rates) != n or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"expected {n} drop path rates in [0, 1), one a block, found {rates}")
    return rates


def initialize_linear_(module: nn.Module) -> None:
    """Truncated-normal weights (0.02) and zero biases for the linear and plain 1×1 layers of a block, as published."""
    for layer in module.children():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> ConvBN:
    """A conv-BN with one group an input channel and the published norm constants."""
    return ConvBN(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        kernel_size // 2,
        groups=in_channels,
        eps=BN_EPS,
        momentum=BN_MOMENTUM,
    )


def _check_multiple(c1: int, c2: int) -> None:
    if c2 % c1:
        raise ValueError(f"expected output channels that are a multiple of the {c1} input channels, found {c2}")
