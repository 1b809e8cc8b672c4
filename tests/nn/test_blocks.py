"""Facts about single blocks: parameter counts, stage rules, geometry."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.randomize import randomize_
from yolorep.nn.conv import Conv, ConvBN, Focus, MixConv2d, Normalize
from yolorep.nn.flops import count_flops
from yolorep.nn.mobileone import MobileOne, MobileOneBlock, MobileOneUnit, SqueezeExcite
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.nn.spp import SPP, SPPF


def unit_params(c1: int, c2: int, k: int, stride: int) -> tuple[int, int]:
    """Parameters of a MobileOne unit, trained and fused (Vasu et al. 2022)."""
    trained = k * 11 * c1 + 3 * c1 + (2 * c1 if stride == 1 else 0)
    trained += k * (c1 * c2 + 2 * c2) + (2 * c2 if c1 == c2 else 0)
    return trained, 10 * c1 + c1 * c2 + c2


@pytest.mark.parametrize(("c1", "c2", "k", "stride"), [(64, 64, 4, 1), (48, 48, 4, 2), (16, 32, 1, 2), (8, 16, 3, 1)])
def test_mobileone_unit_counts(c1: int, c2: int, k: int, stride: int) -> None:
    unit = MobileOneUnit(c1, c2, k, stride).eval()
    trained, fused = unit_params(c1, c2, k, stride)
    assert count_parameters(unit) == trained
    assert count_parameters(fuse(unit)[0]) == fused


def test_a_known_unit() -> None:
    assert unit_params(64, 64, 4, 1) == (20160, 4800)


def test_mobileone_row_strides_once() -> None:
    stage = MobileOne(8, 16, 3, 2, 2)
    assert len(stage) == 3
    assert stage(torch.zeros(1, 8, 16, 16)).shape == (1, 16, 8, 8)
    assert [unit.dw.conv.conv_kxk[0].conv.stride for unit in stage] == [(2, 2), (1, 1), (1, 1)]


def test_mobileone_skips_where_it_may() -> None:
    strided = MobileOneUnit(16, 16, 1, 2)
    assert strided.dw.conv.identity is None  # the stride changes the size
    assert strided.pw.conv.identity is not None  # the point-wise half has none
    assert strided.pw.conv.conv_scale is None  # a 1×1 beside a 1×1 would be a second branch


def test_squeeze_excite_stays_in_both_halves() -> None:
    fused, _ = fuse(randomize_(MobileOneUnit(32, 32, 1, se=True)).eval(), strict=True)
    assert isinstance(fused.dw.se, SqueezeExcite) and isinstance(fused.pw.se, SqueezeExcite)


def test_squeeze_excite_needs_channels() -> None:
    with pytest.raises(ValueError, match="at least 16 channels, found 8"):
        MobileOneBlock(8, 8, se=True)


def test_focus_is_a_6x6_convolution() -> None:
    torch.manual_seed(0)
    focus = Focus(3, 4, 3, act=False).eval()
    slots = focus.conv.conv.conv.weight
    stem = nn.Conv2d(3, 4, 6, 2, 2, bias=False)
    with torch.no_grad():
        for slot, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
            stem.weight[:, :, row::2, column::2] = slots[:, 3 * slot : 3 * slot + 3]
    x = torch.randn(1, 3, 12, 14)
    torch.testing.assert_close(focus.conv.conv.bn(stem(x)), focus(x), rtol=1e-4, atol=1e-5)


def test_sppf_equals_spp() -> None:
    spp, sppf = SPP(8, 8, (5, 9, 13)).eval(), SPPF(8, 8, 5).eval()
    sppf.load_state_dict(spp.state_dict())
    x = torch.randn(1, 8, 16, 16)
    torch.testing.assert_close(sppf(x), spp(x))


def test_mixconv_splits_evenly() -> None:
    block = MixConv2d(8, 9, (1, 3, 5))
    assert [conv.out_channels for conv in block.m] == [3, 3, 3]
    assert block(torch.randn(1, 8, 9, 9)).shape == (1, 9, 9, 9)
    assert MixConv2d(8, 8, (1, 3, 5)).add and not block.add


def test_flops_are_two_a_multiply_add_and_change_nothing() -> None:
    block = Conv(4, 8, 3).train()
    before = block.conv.bn.running_mean.clone()
    assert count_flops(block, torch.zeros(1, 4, 10, 12))[""] == 2 * 10 * 12 * 9 * 4 * 8
    assert torch.equal(block.conv.bn.running_mean, before)
    assert next(block.parameters()).device.type == "cpu"


@pytest.mark.parametrize("channels", [3, 4, 8, 16])
def test_strided_pointwise_gradient_in_channels_last(channels: int) -> None:
    torch.manual_seed(0)
    unit = ConvBN(channels, 24, 1, 2)
    images = torch.rand(4, channels, 33, 64)
    reference = torch.nn.functional.conv2d(images, unit.conv.weight, stride=2)
    found = unit.conv(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, reference)
    (expected,) = torch.autograd.grad(reference.square().mean(), unit.conv.weight)
    (gradient,) = torch.autograd.grad(found.square().mean(), unit.conv.weight)
    torch.testing.assert_close(gradient, expected)


def test_normalize_is_imagenets_and_leaves_no_state() -> None:
    row = Normalize()
    image = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(row(image), torch.zeros(1, 3, 2, 2))
    torch.testing.assert_close(row(image + 0.225)[0, 2], torch.ones(2, 2))
    assert not row.state_dict()
