"""RepVGG: the published network's blocks, their fold, and faults in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import byobnet
from torch import Tensor, nn

from tests.randomize import randomize_
from yolorep.errors import FuseError, UserError
from yolorep.models.detector import build_model
from yolorep.nn import branches
from yolorep.nn.conv import ConvBN
from yolorep.nn.kernels import ConvKernel, merged
from yolorep.nn.mobileone import SqueezeExcite
from yolorep.nn.reparam import Reparameterizable, count_parameters, fuse
from yolorep.nn.repvgg import RepVGG, RepVGGBlock, RepVGGConv


def assert_equals_its_kernel(unit: Reparameterizable, x: Tensor) -> None:
    """Equality in float64, relative to the largest branch: branches of very different size cancel."""
    expected = unit(x).detach()
    largest = max(float(part(x).detach().abs().max()) for part in unit.modules() if isinstance(part, ConvBN))
    assert (unit.to_conv()(x).detach() - expected).abs().max() <= 1e-9 * (1 + largest + float(expected.abs().max()))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([(4, 4), (4, 8), (8, 4)]),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2, 4]),
    extreme=st.booleans(),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_conv_equals_its_kernel(
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    groups: int,
    extreme: bool,
    size: tuple[int, int],
) -> None:
    unit = RepVGGConv(*channels, kernel, stride, groups=groups)
    randomize_(unit.double().eval(), extreme=extreme)
    assert (unit.identity is not None) == (channels[0] == channels[1] and stride == 1)
    assert_equals_its_kernel(unit, torch.randn(2, channels[0], *size, dtype=torch.float64))


def timm_network(depths: tuple[int, ...], groups: int, *, se: bool) -> nn.Module:
    """timm's RepVGG with narrow stages of 16, 32, 64 and 128 channels."""
    config = byobnet.ByoModelCfg(
        blocks=byobnet._rep_vgg_bcfg(d=depths, wf=(0.25, 0.25, 0.25, 0.25), groups=groups),
        stem_type="rep",
        stem_chs=16,
        attn_layer="se" if se else None,
        attn_kwargs={"rd_ratio": 1 / 16, "rd_divisor": 1} if se else {},
    )
    return byobnet.ByobNet(config, num_classes=1)


WIDTHS = [(16, 16), (16, 32), (32, 64), (64, 128)]


def from_timm(key: str) -> str:
    """Our key for one of timm's, of a block or of several in a row."""
    key = re.sub(r"^(\d+\.)?(conv_|identity)", r"\1conv.\2", key)
    return key.replace("attn.fc1", "se.reduce").replace("attn.fc2", "se.expand")


@pytest.mark.parametrize(
    ("depths", "groups", "se"),
    [((2, 4, 14, 1), 1, False), ((4, 6, 16, 1), 2, False), ((4, 6, 16, 1), 4, False), ((2, 3, 2, 1), 1, True)],
    ids=["A", "g2", "g4", "se"],
)
def test_equals_timm(depths: tuple[int, ...], groups: int, se: bool) -> None:
    torch.manual_seed(0)
    theirs = randomize_(timm_network(depths, groups, se=se).double().eval())
    stem = RepVGG(3, 16, 1, 2, 1, se).double().eval()
    stages = [RepVGG(c1, c2, n, 2, groups, se) for (c1, c2), n in zip(WIDTHS, depths, strict=True)]
    x = torch.randn(2, 3, 61, 70, dtype=torch.float64)
    x = compare(stem, theirs.stem, x, prefix="0.")
    for ours, stage in zip(stages, theirs.stages, strict=True):
        x = compare(ours.double().eval(), stage, x)


def compare(ours: nn.Module, theirs: nn.Module, x: Tensor, prefix: str = "") -> Tensor:
    """Gives both the same weights; both forms must give the same output, which is returned scaled to about 1."""
    ours.load_state_dict({prefix + from_timm(key): value for key, value in theirs.state_dict().items()})
    fused, report = fuse(ours, strict=True)
    assert set(report.kinds) == {"RepVGGConv"}
    expected = theirs(x).detach()
    scale = expected.std()
    torch.testing.assert_close(ours(x) / scale, expected / scale, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fused(x) / scale, expected / scale, rtol=1e-9, atol=1e-9)
    return expected / scale


def parameters(c1: int, c2: int, stride: int, groups: int) -> tuple[int, int]:
    """Of a block, trained and fused."""
    trained = (9 + 1) * c1 * c2 // groups + 2 * 2 * c2 + (2 * c1 if c1 == c2 and stride == 1 else 0)
    return trained, 9 * c1 * c2 // groups + c2


@pytest.mark.parametrize(
    ("c1", "c2", "stride", "groups"), [(3, 48, 2, 1), (48, 48, 1, 1), (64, 64, 1, 4), (16, 32, 1, 2), (32, 32, 2, 1)]
)
def test_parameter_counts(c1: int, c2: int, stride: int, groups: int) -> None:
    block = RepVGGBlock(c1, c2, stride, groups=groups).eval()
    assert (count_parameters(block), count_parameters(fuse(block)[0])) == parameters(c1, c2, stride, groups)


def test_a_known_block() -> None:
    assert parameters(48, 48, 1, 1) == (23_328, 20_784)


def test_stage_strides_once_and_groups_every_second_block() -> None:
    stage = RepVGG(8, 16, 6, 2, 4)
    assert stage(torch.zeros(1, 8, 10, 13)).shape == (1, 16, 5, 7)
    for branch in ("conv_kxk", "conv_1x1"):
        convs = [getattr(block.conv, branch).conv for block in stage]
        assert [conv.stride for conv in convs] == [(2, 2), *[(1, 1)] * 5]
        assert [conv.groups for conv in convs] == [1, 4, 1, 4, 1, 4]
    assert [block.conv.identity is None for block in stage] == [True, *[False] * 5]


def test_squeeze_excite_stays_before_the_activation() -> None:
    block = randomize_(RepVGGBlock(32, 32, se=True).double().eval())
    assert isinstance(block.se, SqueezeExcite) and block.se.reduce.out_channels == 2
    fused, _ = fuse(block, strict=True)
    x = torch.randn(1, 32, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(fused(x), block.se(block.conv(x)).relu())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RepVGG(6, 6, 2, 1, 4), "found 4 for 6 input channels"),
        (lambda: RepVGGConv(4, 6, groups=4), "found 4 for 6 output channels"),
        (lambda: RepVGGConv(4, 4, groups=0), "groups of at least 1, found 1 and 0"),
        (lambda: RepVGGConv(4, 4, 2), "odd kernel size, found 2"),
        (lambda: RepVGG(8, 8, 1, 1, 1, True), "at least 16 channels, found 8"),
    ],
)
def test_wrong_arguments(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_wrong_row_is_named() -> None:
    rows = {
        "nc": 1,
        "anchors": [[10, 13]],
        "backbone": [[-1, 1, "RepVGG", [12, 2]], [-1, 4, "RepVGG", [12, 2, 5]]],
        "head": [[[-1], 1, "Detect", ["nc", "anchors"]]],
    }
    with pytest.raises(UserError, match=r"backbone row 1 .*found 5 for 12 input channels"):
        build_model(rows)


Merge = Callable[[Sequence[ConvKernel]], ConvKernel]


def at_the_corner(kernels: Sequence[ConvKernel]) -> ConvKernel:
    """The 1×1 branch at the first tap."""
    moved = replace(kernels[1].pad_to(kernels[0]), weight=kernels[1].pad_to(kernels[0]).weight.roll((1, 1), (2, 3)))
    return merged([kernels[0], moved, *kernels[2:]])


def dense_identity(kernels: Sequence[ConvKernel]) -> ConvKernel:
    """The identity's ones placed as if there were one group."""
    identity = kernels[2]
    return merged([*kernels[:2], replace(identity, weight=identity.weight.roll(1, 1))])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda kernels: merged(kernels[:2]),
        lambda kernels: merged([kernels[0], kernels[2]]),
        lambda kernels: merged([*kernels, kernels[1]]),
        at_the_corner,
        dense_identity,
    ],
    ids=["no identity", "no 1×1", "1×1 twice", "1×1 at the corner", "identity in the wrong channel"],
)
def test_a_wrong_fold_is_caught(wrong: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    block = randomize_(RepVGGBlock(16, 16, groups=4).eval())
    fuse(block)
    monkeypatch.setattr(branches, "merged", wrong)
    with pytest.raises(FuseError, match="RepVGGConv fused wrongly"):
        fuse(block)
