"""The kernel algebra: convolutions and linear layers as values that add, scale, compose and absorb norms.

Every rule is exact in real arithmetic. Do it in float64 and cast once: see ``yolorep.nn.reparam.fuse``.
Papers: Ding et al. 2021, "Diverse Branch Block" (arXiv:2103.13425) and "RepVGG" (arXiv:2101.03697).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolorep.errors import FuseError

Pair = tuple[int, int]


def bn_gain_shift(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The affine map ``y = gain * x + shift`` that a BatchNorm is in eval mode.

    Returns:
        Two (channels,) tensors, differentiable in the norm's weight and bias.

    Raises:
        FuseError: if the norm keeps no running statistics, for then its output depends on the batch.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise FuseError(
            "a BatchNorm without running statistics (track_running_stats=False) cannot be folded: its output depends "
            "on the batch; build it with track_running_stats=True"
        )
    gain = (bn.running_var + bn.eps).rsqrt()
    if bn.weight is not None:
        gain = gain * bn.weight
    shift = -bn.running_mean * gain
    if bn.bias is not None:
        shift = shift + bn.bias
    return gain, shift


@dataclass(frozen=True)
class ConvKernel:
    """A 2-d convolution with bias, as a value.

    Attributes:
        weight: (out, in / groups, height, width).
        bias: (out,).
        stride, padding, dilation: (height, width) pairs.
        groups: channel groups.
        padding_mode: as in ``nn.Conv2d``; of no consequence without padding.
    """

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvKernel:
        """The kernel of a convolution, sharing its tensors.

        Raises:
            FuseError: for transposed convolutions and for ``padding="same"`` that is not symmetric.
        """
        if not isinstance(conv, nn.Conv2d):
            raise FuseError(f"expected nn.Conv2d, found {type(conv).__name__}")
        size, dilation = _pair(conv.kernel_size), _pair(conv.dilation)
        if conv.padding == "valid":
            padding = (0, 0)
        elif conv.padding == "same":
            total = tuple(d * (k - 1) for k, d in zip(size, dilation, strict=True))
            if any(side % 2 for side in total):
                raise FuseError(f"padding='same' of an even kernel {size} is asymmetric and cannot be a plain padding")
            padding = (total[0] // 2, total[1] // 2)
        else:
            padding = _pair(conv.padding)
        bias = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
        return cls(conv.weight, bias, _pair(conv.stride), padding, dilation, conv.groups, conv.padding_mode)

    @classmethod
    def identity(
        cls, channels: int, kernel_size: int = 1, groups: int = 1, *, like: Tensor | None = None
    ) -> ConvKernel:
        """The convolution that returns its input: ones at the centre tap of channel i of group i.

        Args:
            channels: input and output channels.
            kernel_size: odd.
            groups: channel groups.
            like: gives dtype and device.

        Raises:
            FuseError: if the kernel is even, or ``groups`` does not divide ``channels``.
        """
        if kernel_size % 2 == 0:
            raise FuseError(f"an identity has no centre tap in an even kernel of size {kernel_size}")
        if channels % groups:
            raise FuseError(f"{groups} groups do not divide {channels} channels")
        like = torch.empty(0) if like is None else like
        weight = like.new_zeros(channels, channels // groups, kernel_size, kernel_size)
        index = torch.arange(channels, device=like.device)
        weight[index, index % (channels // groups), kernel_size // 2, kernel_size // 2] = 1
        half = kernel_size // 2
        return cls(weight, like.new_zeros(channels), padding=(half, half), groups=groups)

    @classmethod
    def of_bn(cls, bn: _BatchNorm, groups: int = 1) -> ConvKernel:
        """An eval-mode BatchNorm as a 1×1 convolution of ``groups`` groups: the identity branch of most blocks."""
        gain, _ = bn_gain_shift(bn)
        return cls.identity(bn.num_features, groups=groups, like=gain).then_bn(bn)

    @property
    def kernel_size(self) -> Pair:
        """(height, width) of the window."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def in_channels(self) -> int:
        """Input channels over all groups."""
        return self.weight.shape[1] * self.groups

    def __add__(self, other: ConvKernel) -> ConvKernel:
        """The convolution whose output is the sum of both outputs.

        Raises:
            FuseError: if stride, padding, dilation, groups, padding mode or shape differ.
        """
        mine, theirs = self._geometry(), other._geometry()
        if mine != theirs:
            differing = ", ".join(f"{key} {mine[key]} and {theirs[key]}" for key in mine if mine[key] != theirs[key])
            raise FuseError(f"kernels of different geometry cannot be added: {differing}")
        return replace(self, weight=self.weight + other.weight, bias=self.bias + other.bias)

    def __sub__(self, other: ConvKernel) -> ConvKernel:
        """The convolution whose output is the difference of both outputs; raises like ``+``."""
        return self + other.scaled(-1.0)

    def scaled(self, gain: Tensor | float) -> ConvKernel:
        """Multiplies the output by a number or by a (out,) tensor."""
        if isinstance(gain, Tensor) and gain.numel() > 1:
            gain = gain.reshape(-1)
            return replace(self, weight=self.weight * gain.reshape(-1, 1, 1, 1), bias=self.bias * gain)
        return replace(self, weight=self.weight * gain, bias=self.bias * gain)

    def pad_to(self, like: ConvKernel) -> ConvKernel:
        """The same function written in the larger window of ``like``.

        The window's first tap moves from ``-padding`` to ``-like.padding``, so tap ``t`` becomes tap
        ``t + (like.padding - padding) / dilation``. A 1×1 kernel has one tap and so takes any dilation.

        Raises:
            FuseError: if a tap would not fall on a tap of ``like``, or padding that is read differs in mode.
        """
        if self.padding != (0, 0) and like.padding_mode != self.padding_mode:
            raise FuseError(f"padding mode {self.padding_mode!r} cannot become {like.padding_mode!r}")
        margins: list[int] = []
        for axis in (1, 0):  # F.pad counts from the last axis
            size, target = self.kernel_size[axis], like.kernel_size[axis]
            if size > 1 and self.dilation[axis] != like.dilation[axis]:
                raise FuseError(f"dilation {self.dilation} cannot become {like.dilation} in a kernel larger than 1")
            before, rest = divmod(like.padding[axis] - self.padding[axis], like.dilation[axis])
            if rest or not 0 <= before <= target - size:
                raise FuseError(
                    f"a {self.kernel_size} kernel with padding {self.padding} does not fall on the taps of a "
                    f"{like.kernel_size} kernel with padding {like.padding} and dilation {like.dilation}"
                )
            margins += [before, target - size - before]
        return replace(
            self,
            weight=F.pad(self.weight, margins),
            padding=like.padding,
            dilation=like.dilation,
            padding_mode=like.padding_mode,
        )

    def then_bn(self, bn: _BatchNorm, *, channels: slice = slice(None)) -> ConvKernel:
        """This convolution followed by an eval-mode BatchNorm: exact for any geometry.

        Args:
            bn: the norm.
            channels: which of the norm's channels this convolution makes, where it norms a concatenation.
        """
        gain, shift = (values[channels] for values in bn_gain_shift(bn))
        _same_channels(gain, len(self.bias), "output")
        scaled = self.scaled(gain)
        return replace(scaled, bias=scaled.bias + shift)

    def after_bn(self, bn: _BatchNorm) -> ConvKernel:
        """An eval-mode BatchNorm followed by this convolution.

        Raises:
            FuseError: unless the convolution is unpadded: the norm's shift does not reach zeros padded after it.
        """
        if self.padding != (0, 0):
            raise FuseError("a BatchNorm before a padded convolution cannot be folded: padding is added after the norm")
        gain, shift = bn_gain_shift(bn)
        _same_channels(gain, self.in_channels, "input")
        return self._with_input(gain, shift)

    def then_conv(self, other: ConvKernel) -> ConvKernel:
        """This 1×1 convolution followed by ``other``, as one convolution with ``other``'s window.

        Raises:
            FuseError: unless this is 1×1 with stride 1 and no padding, ``other`` unpadded, and both have one group.
        """
        if self.kernel_size != (1, 1) or self.stride != (1, 1) or self.padding != (0, 0):
            raise FuseError("only a 1×1 convolution with stride 1 and no padding merges into the following one")
        if other.padding != (0, 0):
            raise FuseError("a 1×1 convolution before a padded one cannot be merged: padding is added after its bias")
        if self.groups != 1 or other.groups != 1:
            raise FuseError("merging consecutive convolutions needs groups=1 in both")
        weight = torch.einsum("omhw,mi->oihw", other.weight, self.weight[:, :, 0, 0])
        bias = other.bias + torch.einsum("omhw,m->o", other.weight, self.bias)
        return replace(other, weight=weight, bias=bias)

    def to_conv(self) -> nn.Conv2d:
        """A new ``nn.Conv2d`` with these values, their dtype and device."""
        conv = nn.Conv2d(
            self.in_channels,
            len(self.bias),
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,  # type: ignore[arg-type]  # checked by Conv2d itself
            device="meta",
        )
        conv.weight = nn.Parameter(self.weight.detach().clone())
        conv.bias = nn.Parameter(self.bias.detach().clone())
        return conv

    def _with_input(self, gain: Tensor, shift: Tensor) -> ConvKernel:
        """This unpadded convolution applied to ``gain * x + shift``."""
        out, per_group = self.weight.shape[:2]
        group_of_output = torch.arange(out, device=self.weight.device) // (out // self.groups)
        weight = self.weight * gain.view(self.groups, per_group)[group_of_output, :, None, None]
        added = self.weight.sum(dim=(2, 3)) * shift.view(self.groups, per_group)[group_of_output]
        return replace(self, weight=weight, bias=self.bias + added.sum(dim=1))

    def _geometry(self) -> dict[str, object]:
        return {
            "shape": tuple(self.weight.shape),
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": self.padding_mode if self.padding != (0, 0) else "zeros",
        }


@dataclass(frozen=True)
class LinearKernel:
    """A linear layer with bias, as a value: ``weight`` (out, in), ``bias`` (out,)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> LinearKernel:
        """The kernel of a linear layer, sharing its tensors."""
        bias = linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.out_features)
        return cls(linear.weight, bias)

    def __add__(self, other: LinearKernel) -> LinearKernel:
        """The layer whose output is the sum of both outputs; raises FuseError if shapes differ."""
        if self.weight.shape != other.weight.shape:
            raise FuseError(f"linear layers of {self.weight.shape} and {other.weight.shape} cannot be added")
        return LinearKernel(self.weight + other.weight, self.bias + other.bias)

    def __sub__(self, other: LinearKernel) -> LinearKernel:
        """The layer whose output is the difference of both outputs; raises like ``+``."""
        return self + other.scaled(-1.0)

    def scaled(self, gain: Tensor | float) -> LinearKernel:
        """Multiplies the output by a number or by a (out,) tensor."""
        if isinstance(gain, Tensor) and gain.numel() > 1:
            gain = gain.reshape(-1)
            return LinearKernel(self.weight * gain[:, None], self.bias * gain)
        return LinearKernel(self.weight * gain, self.bias * gain)

    def then_bn(self, bn: _BatchNorm) -> LinearKernel:
        """This layer followed by an eval-mode BatchNorm."""
        gain, shift = bn_gain_shift(bn)
        _same_channels(gain, len(self.bias), "output")
        return LinearKernel(self.weight * gain[:, None], self.bias * gain + shift)

    def after_bn(self, bn: _BatchNorm) -> LinearKernel:
        """An eval-mode BatchNorm followed by this layer; a bias-free layer gains a bias."""
        gain, shift = bn_gain_shift(bn)
        _same_channels(gain, self.weight.shape[1], "input")
        return LinearKernel(self.weight * gain, self.bias + self.weight @ shift)

    def to_linear(self) -> nn.Linear:
        """A new ``nn.Linear`` with these values, their dtype and device."""
        linear = nn.Linear(self.weight.shape[1], self.weight.shape[0], device="meta")
        linear.weight = nn.Parameter(self.weight.detach().clone())
        linear.bias = nn.Parameter(self.bias.detach().clone())
        return linear


def merged(kernels: Sequence[ConvKernel]) -> ConvKernel:
    """The sum of parallel branches, each written in the window of the first.

    Raises:
        FuseError: if a branch does not fit into the first one's window.
    """
    total = kernels[0]
    for kernel in kernels[1:]:
        total = total + kernel.pad_to(kernels[0])
    return total


def transposed_then_bn(conv: nn.ConvTranspose2d, bn: _BatchNorm) -> nn.ConvTranspose2d:
    """A new transposed convolution equal to this one followed by an eval-mode BatchNorm."""
    gain, shift = bn_gain_shift(bn)
    _same_channels(gain, conv.out_channels, "output")
    folded = nn.ConvTranspose2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]  # pairs, whatever their declarations say
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.output_padding,  # type: ignore[arg-type]
        conv.groups,
        dilation=conv.dilation,  # type: ignore[arg-type]
        device="meta",
    )
    # The weight is (in, out / groups, height, width): each group of inputs makes its own outputs.
    by_group = conv.weight.unflatten(0, (conv.groups, -1)) * gain.view(conv.groups, 1, -1, 1, 1)
    folded.weight = nn.Parameter(by_group.flatten(0, 1).detach().clone())
    folded.bias = nn.Parameter((shift if conv.bias is None else conv.bias * gain + shift).detach().clone())
    return folded


def _pair(value: object) -> Pair:
    if isinstance(value, int):
        return value, value
    assert isinstance(value, tuple) and len(value) == 2
    return value[0], value[1]


def _same_channels(gain: Tensor, channels: int, which: str) -> None:
    if len(gain) != channels:
        raise FuseError(f"a BatchNorm of {len(gain)} channels meets a kernel of {channels} {which} channels")
