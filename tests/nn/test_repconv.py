"""RepConv and QARepVGG: their folds, and faults in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.nn.test_repvgg import assert_equals_its_kernel
from tests.randomize import randomize_
from yolorep.errors import FuseError
from yolorep.models.detector import build_model
from yolorep.nn import branches, repconv
from yolorep.nn.kernels import ConvKernel, merged
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.nn.repconv import QARepVGG, QARepVGGConv, RepConv

GEOMETRY = {
    "channels": st.sampled_from([(4, 4), (4, 8), (8, 4)]),
    "kernel": st.sampled_from([1, 3, 5, 7]),
    "stride": st.sampled_from([1, 2, 3]),
    "groups": st.sampled_from([1, 2, 4]),
    "extreme": st.booleans(),
    "size": st.tuples(st.integers(1, 12), st.integers(1, 12)),
}


@settings(max_examples=40, deadline=None)
@given(identity=st.booleans(), number=st.sampled_from([0, 1, 4]), **GEOMETRY)
def test_repconv_equals_its_kernel(
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    groups: int,
    extreme: bool,
    size: tuple[int, int],
    identity: bool,
    number: int,
) -> None:
    row = RepConv(*channels, kernel, stride, groups, identity, branches=number)
    randomize_(row.double().eval(), extreme=extreme)
    assert_equals_its_kernel(row.conv, torch.randn(2, channels[0], *size, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(**GEOMETRY)
def test_qarepvgg_equals_its_kernel(
    channels: tuple[int, int], kernel: int, stride: int, groups: int, extreme: bool, size: tuple[int, int]
) -> None:
    unit = QARepVGGConv(*channels, kernel, stride, groups=groups)
    randomize_(unit.double().eval())
    if extreme:  # as training leaves them: one norm after another brings values back to about 1
        randomize_(unit.conv_kxk, extreme=True)
        unit.bn.running_var.mul_(1e6)
    assert_equals_its_kernel(unit, torch.randn(2, channels[0], *size, dtype=torch.float64))


def test_repconv_is_yolos() -> None:
    row = RepConv(8, 8)
    assert row.conv.identity is None and isinstance(row.act, nn.SiLU)
    norms = [m for m in RepConv(8, 8, 3, 1, 1, True).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)} and len(norms) == 3


def test_the_model_files_activation_reaches_repconv() -> None:
    model = build_model(
        {
            "nc": 1,
            "anchors": [[10, 13]],
            "activation": "nn.LeakyReLU(0.1)",
            "backbone": [[-1, 1, "RepConv", [8, 3, 2]], [-1, 1, "QARepVGG", [8, 2]]],
            "head": [[[-1], 1, "Detect", ["nc", "anchors"]]],
        }
    )
    assert isinstance(model.get_submodule("model.0.act"), nn.LeakyReLU)
    assert isinstance(model.get_submodule("model.1.act"), nn.ReLU)


def test_parameter_counts() -> None:
    for c1, c2, groups in ((16, 16, 1), (16, 32, 4)):
        weights, fused = 10 * c1 * c2 // groups, 9 * c1 * c2 // groups + c2
        for row, norms in ((RepConv(c1, c2, 3, 1, groups), 2), (QARepVGG(c1, c2, 1, groups), 2)):
            assert count_parameters(row) == weights + norms * 2 * c2
            assert count_parameters(fuse(row.eval())[0]) == fused


def test_qarepvgg_adds_the_input_where_it_may() -> None:
    """Without its convolutions the block is the post-norm of what is left."""
    x = torch.randn(1, 8, 5, 6)
    for row, rest in ((QARepVGG(8, 8), x), (QARepVGG(8, 8, 2), torch.zeros(1, 8, 3, 3))):
        for conv in (row.conv.conv_kxk.conv, row.conv.conv_1x1):
            nn.init.zeros_(conv.weight)
        randomize_(row.conv.bn)
        torch.testing.assert_close(row.eval()(x), row.conv.bn(rest).relu())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RepConv(8, 6, 3, 1, 4), "found 4 for 6 output channels"),
        (lambda: RepConv(8, 8, 4), "odd kernel size, found 4"),
        (lambda: QARepVGG(6, 8, 1, 4), "found 4 for 6 input channels"),
    ],
)
def test_wrong_arguments(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_forgotten_branch_is_caught(left_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"MobileOneConv": RepConv(8, 8, 3, 1, 2, True), "QARepVGGConv": QARepVGG(8, 8, 1, 2)}

    def wrong(kernels: list[ConvKernel]) -> ConvKernel:
        return merged([kernel.scaled(0.0) if i == left_out else kernel for i, kernel in enumerate(kernels)])

    for module in (branches, repconv):
        monkeypatch.setattr(module, "merged", wrong)
    for kind, row in rows.items():
        with pytest.raises(FuseError, match=f"{kind} fused wrongly"):
            fuse(randomize_(row.eval()))


def test_a_forgotten_post_norm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    block = randomize_(QARepVGG(8, 8).eval())
    right = ConvKernel.then_bn
    calls: list[nn.Module] = []

    def only_the_first(self: ConvKernel, bn: nn.BatchNorm2d) -> ConvKernel:
        calls.append(bn)
        return right(self, bn) if len(calls) == 1 else self

    monkeypatch.setattr(ConvKernel, "then_bn", only_the_first)
    with pytest.raises(FuseError, match="QARepVGGConv fused wrongly"):
        fuse(block)
    assert len(calls) == 2
