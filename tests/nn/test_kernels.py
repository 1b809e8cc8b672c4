"""The kernel algebra against PyTorch's own modules, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.randomize import randomize_
from yolorep.errors import FuseError
from yolorep.nn.kernels import ConvKernel, LinearKernel

CLOSE = {"rtol": 1e-10, "atol": 1e-9}


def image(channels: int, height: int = 11, width: int = 13) -> Tensor:
    return torch.randn(2, channels, height, width, dtype=torch.float64)


def make_conv(data: st.DataObject) -> nn.Conv2d:
    """Any convolution: odd and even kernels, strides, groups, dilations, paddings and padding modes."""
    groups = data.draw(st.sampled_from([1, 2, 4]), "groups")
    kernel = data.draw(st.sampled_from([1, 2, 3, 5, (1, 3), (3, 1)]), "kernel")
    return nn.Conv2d(
        4,
        groups * data.draw(st.integers(1, 2), "outputs a group"),
        kernel,
        stride=data.draw(st.sampled_from([1, 2]), "stride"),
        padding=data.draw(st.integers(0, 2), "padding"),
        dilation=data.draw(st.sampled_from([1, 2]), "dilation"),
        groups=groups,
        bias=data.draw(st.booleans(), "bias"),
        padding_mode=data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]), "padding mode"),
        dtype=torch.float64,
    )


def make_bn(channels: int, *, affine: bool = True, extreme: bool = False, seed: int = 0) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels, affine=affine, dtype=torch.float64).eval()
    randomize_(bn, seed=seed, extreme=extreme)
    return bn


@settings(max_examples=60, deadline=None)
@given(data=st.data(), affine=st.booleans(), extreme=st.booleans())
def test_conv_then_bn(data: st.DataObject, affine: bool, extreme: bool) -> None:
    conv = make_conv(data)
    bn = make_bn(conv.out_channels, affine=affine, extreme=extreme)
    x = image(4)
    between = conv(x)
    expected = bn(between)
    error = (ConvKernel.of(conv).then_bn(bn).to_conv()(x) - expected).abs().max()
    assert error <= 1e-9 * (1 + between.abs().max() + expected.abs().max())


@pytest.mark.parametrize("mutant", ["eps", "mean", "shift"])
def test_a_wrong_bn_fold_is_noticed(mutant: str) -> None:
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(4, 8, 3, padding=1, dtype=torch.float64), make_bn(8)
    expected = bn(conv(image_ := image(4)))
    if mutant == "eps":
        bn.eps *= 100
    elif mutant == "mean":
        bn.running_mean.mul_(1.001)
    else:
        bn.bias.data.add_(1e-4)
    wrong = ConvKernel.of(conv).then_bn(bn).to_conv()(image_)
    assert not torch.allclose(wrong, expected, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([3, 5, 7]),
    dilation=st.sampled_from([1, 2]),
    stride=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 4]),
    mode=st.sampled_from(["zeros", "reflect", "replicate"]),
    height=st.integers(14, 19),
)
def test_parallel_branches_add(size: int, dilation: int, stride: int, groups: int, mode: str, height: int) -> None:
    padding = dilation * (size - 1) // 2
    large = nn.Conv2d(4, 4, size, stride, padding, dilation, groups, padding_mode=mode, dtype=torch.float64)
    small = nn.Conv2d(4, 4, 1, stride, groups=groups, dtype=torch.float64)
    x = image(4, height, 15)
    expected = large(x) + small(x)
    kernel = ConvKernel.of(large)
    total = kernel + ConvKernel.of(small).pad_to(kernel)
    if stride == 1:
        expected = expected + x
        total = total + ConvKernel.identity(4, groups=groups, like=x).pad_to(kernel)
    torch.testing.assert_close(total.to_conv()(x), expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_identity_returns_its_input(size: int, groups: int) -> None:
    x = image(6)
    torch.testing.assert_close(ConvKernel.identity(6, size, groups, like=x).to_conv()(x), x, **CLOSE)


def test_a_3x3_kernel_enters_a_5x5_one() -> None:
    small = ConvKernel.of(nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64))
    large = ConvKernel.of(nn.Conv2d(4, 4, 5, padding=2, dtype=torch.float64))
    x = image(4)
    torch.testing.assert_close(small.pad_to(large).to_conv()(x), small.to_conv()(x), **CLOSE)


def test_a_1x1_kernel_enters_an_even_one_at_its_padding() -> None:
    """YOLOv5's stem is 6×6 with stride 2 and padding 2."""
    small = ConvKernel.of(nn.Conv2d(4, 4, 1, stride=2, dtype=torch.float64))
    stem = ConvKernel.of(nn.Conv2d(4, 4, 6, stride=2, padding=2, dtype=torch.float64))
    x = image(4, 12, 14)
    torch.testing.assert_close((stem + small.pad_to(stem)).to_conv()(x), stem.to_conv()(x) + small.to_conv()(x))


@pytest.mark.parametrize("shift", [(0, 1), (1, 0)])
def test_a_wrong_tap_is_noticed(shift: tuple[int, int]) -> None:
    torch.manual_seed(0)
    large = ConvKernel.of(nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64))
    small = ConvKernel.of(nn.Conv2d(4, 4, 1, dtype=torch.float64))
    x = image(4)
    moved = torch.roll(small.pad_to(large).weight, shift, (2, 3))
    wrong = ConvKernel(large.weight + moved, large.bias + small.bias, padding=(1, 1)).to_conv()(x)
    assert not torch.allclose(wrong, large.to_conv()(x) + small.to_conv()(x), **CLOSE)


def test_a_wrong_group_index_is_noticed() -> None:
    x = image(6)
    right = ConvKernel.identity(6, 3, 2, like=x)
    wrong = ConvKernel(right.weight.roll(1, 1), right.bias, padding=(1, 1), groups=2).to_conv()(x)
    assert not torch.allclose(wrong, x, **CLOSE)


@pytest.mark.parametrize("groups", [1, 2])
def test_bn_before_an_unpadded_conv(groups: int) -> None:
    bn, conv = make_bn(4), nn.Conv2d(4, 6, 3, groups=groups, dtype=torch.float64)
    x = image(4)
    torch.testing.assert_close(ConvKernel.of(conv).after_bn(bn).to_conv()(x), conv(bn(x)), **CLOSE)


def test_1x1_then_unpadded_conv() -> None:
    first, second = nn.Conv2d(4, 6, 1, dtype=torch.float64), nn.Conv2d(6, 5, 3, stride=2, dtype=torch.float64)
    x = image(4)
    merged = ConvKernel.of(first).then_conv(ConvKernel.of(second)).to_conv()
    torch.testing.assert_close(merged(x), second(first(x)), **CLOSE)


def test_scaling_and_subtracting() -> None:
    a, b = (ConvKernel.of(nn.Conv2d(4, 6, 3, padding=1, dtype=torch.float64)) for _ in range(2))
    gain = torch.randn(6, 1, 1, dtype=torch.float64)
    x = image(4)
    expected = gain * (a.to_conv()(x) - b.to_conv()(x))
    torch.testing.assert_close((a - b).scaled(gain).to_conv()(x), expected, **CLOSE)


def test_kernels_are_differentiable() -> None:
    conv, bn = nn.Conv2d(4, 4, 1, dtype=torch.float64), make_bn(4)
    ConvKernel.of(conv).then_bn(bn).weight.sum().backward()
    assert conv.weight.grad is not None and bn.weight.grad is not None


@pytest.mark.parametrize("bias", [True, False])
def test_linear_with_bn_on_either_side(bias: bool) -> None:
    linear = nn.Linear(5, 7, bias=bias, dtype=torch.float64)
    before, after = (nn.BatchNorm1d(n, dtype=torch.float64).eval() for n in (5, 7))
    for bn in (before, after):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    x = torch.randn(3, 5, dtype=torch.float64)
    kernel = LinearKernel.of(linear)
    torch.testing.assert_close(kernel.after_bn(before).to_linear()(x), linear(before(x)), **CLOSE)
    torch.testing.assert_close(kernel.then_bn(after).to_linear()(x), after(linear(x)), **CLOSE)
    torch.testing.assert_close((kernel - kernel.scaled(0.5)).to_linear()(x), linear(x) / 2, **CLOSE)


def conv_kernel(**changes: object) -> ConvKernel:
    settings = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, **changes}
    return ConvKernel.of(nn.Conv2d(**settings))  # type: ignore[arg-type]


REFUSALS = {
    "other stride": lambda: conv_kernel() + conv_kernel(stride=2),
    "other groups": lambda: conv_kernel() + conv_kernel(groups=2),
    "other padding": lambda: conv_kernel() + conv_kernel(padding=0),
    "other dilation": lambda: conv_kernel(padding=2) + conv_kernel(padding=2, dilation=2),
    "other padding mode": lambda: conv_kernel() + conv_kernel(padding_mode="reflect"),
    "size that does not fit": lambda: conv_kernel(kernel_size=5, padding=2).pad_to(conv_kernel()),
    "tap between taps": lambda: conv_kernel(kernel_size=1, padding=0).pad_to(conv_kernel(padding=3, dilation=2)),
    "padded kernel of another mode": lambda: conv_kernel().pad_to(
        conv_kernel(kernel_size=5, padding=2, padding_mode="reflect")
    ),
    "even identity": lambda: ConvKernel.identity(4, 2),
    "groups that do not divide": lambda: ConvKernel.identity(4, 1, 3),
    "norm before padding": lambda: conv_kernel().after_bn(nn.BatchNorm2d(4)),
    "norm of other size": lambda: conv_kernel().then_bn(nn.BatchNorm2d(5)),
    "norm without statistics": lambda: conv_kernel().then_bn(nn.BatchNorm2d(4, track_running_stats=False)),
    "1x1 before padding": lambda: conv_kernel(kernel_size=1, padding=0).then_conv(conv_kernel()),
    "3x3 first": lambda: conv_kernel().then_conv(conv_kernel(padding=0)),
    "transposed": lambda: ConvKernel.of(nn.ConvTranspose2d(4, 4, 2)),  # type: ignore[arg-type]
    "asymmetric same padding": lambda: conv_kernel(kernel_size=2, padding="same"),
}


@pytest.mark.parametrize("refused", REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_exact_is_refused(refused: object) -> None:
    with pytest.raises(FuseError):
        refused()  # type: ignore[operator]


def test_same_padding_is_understood() -> None:
    conv = nn.Conv2d(4, 4, 3, padding="same", dilation=2, dtype=torch.float64)
    x = image(4)
    torch.testing.assert_close(ConvKernel.of(conv).to_conv()(x), conv(x), **CLOSE)
