"""fuse(): what it promises about results, and what it refuses."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.randomize import randomize_
from yolorep.errors import FuseError
from yolorep.nn.conv import Conv, ConvBN, MixConv2d
from yolorep.nn.csp import BottleneckCSP
from yolorep.nn.kernels import ConvKernel
from yolorep.nn.mobileone import MobileOneConv
from yolorep.nn.registry import ROW_TYPES
from yolorep.nn.reparam import FoldRecord, Kept, Reparameterizable, fuse


def norms(module: nn.Module) -> list[str]:
    return [name for name, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)]


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([(4, 4), (4, 8), (8, 4)]),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 4]),
    branches=st.integers(0, 4),
    scale=st.booleans(),
    mode=st.sampled_from(["zeros", "reflect", "replicate"]),
    extreme=st.booleans(),
    size=st.tuples(st.integers(15, 18), st.integers(15, 18)),
)
def test_mobileone_conv_equals_its_kernel(
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    dilation: int,
    groups: int,
    branches: int,
    scale: bool,
    mode: str,
    extreme: bool,
    size: tuple[int, int],
) -> None:
    try:
        unit = MobileOneConv(
            *channels,
            kernel,
            stride,
            groups=groups,
            dilation=dilation,
            branches=branches,
            scale=scale,
            padding_mode=mode,
        )
    except ValueError:  # no branch at all
        return
    unit = randomize_(unit.double().eval(), extreme=extreme)
    x = torch.randn(2, channels[0], *size, dtype=torch.float64)
    expected = unit(x)
    # Branches of very different size cancel: the error is relative to the branches, not to their sum.
    largest = (
        max(float(part(x).detach().abs().max()) for part in unit.modules() if isinstance(part, ConvBN))
        if branches
        else 1
    )
    error = (unit.to_conv()(x) - expected).abs().max()
    assert error <= 1e-9 * (1 + largest + expected.abs().max())


# Every row that is built for input and output channels.
ROWS = {name: row for name, row in ROW_TYPES.items() if row.channels.__name__.startswith(("converts", "stays"))}
EXTRA_ARGUMENTS = {"MobileOne": (2, 4, 2), "Focus": (3,), "Conv": (3, 2), "SPP": ((3, 5),), "C3TR": (2,)} | {
    "C3SPP": ((3, 5),),
    "nn.ConvTranspose2d": (4, 2, 1),
    "DWConvTranspose2d": (2, 2),
}
CHANNELS = 32  # an attention head


def build(name: str) -> nn.Module:
    return ROWS[name].factory(CHANNELS, CHANNELS, *EXTRA_ARGUMENTS.get(name, ())).eval()


@pytest.mark.parametrize("name", ROWS)
class TestEveryRow:
    """What holds for every registered block."""

    def test_fuses_to_the_same_function(self, name: str) -> None:
        block = randomize_(build(name).double(), seed=1)
        x = torch.randn(1, CHANNELS, 16, 18, dtype=torch.float64)
        fused, report = fuse(block, strict=True)
        torch.testing.assert_close(fused(x), block(x), rtol=1e-9, atol=1e-9)
        assert not norms(fused)
        assert report.max_error < 1e-9
        assert report.params_fused <= report.params

    def test_leaves_its_source_alone(self, name: str) -> None:
        block = randomize_(build(name))
        before = copy.deepcopy(block.state_dict())
        fuse(block)
        assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())
        assert before.keys() == block.state_dict().keys()

    def test_is_idempotent(self, name: str) -> None:
        fused, _ = fuse(randomize_(build(name)))
        again, report = fuse(fused)
        assert not report.records
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in fused.state_dict().items())

    def test_trains_every_parameter(self, name: str) -> None:
        block = build(name).train()
        block(torch.randn(2, CHANNELS, 16, 16)).square().mean().backward()
        for key, parameter in block.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_flags_are_kept(dtype: torch.dtype) -> None:
    block = Conv(4, 4, 3).eval().to(dtype)
    block.requires_grad_(False)
    fused, _ = fuse(block)
    assert fused.conv.weight.dtype == dtype
    assert not fused.conv.weight.requires_grad
    assert not fused.training
    assert fuse(Conv(4, 4, 3).eval())[0].conv.weight.requires_grad


def test_only_what_was_trainable_stays_so() -> None:
    block = BottleneckCSP(8, 8).eval()
    for part in (block.cv2, block.cv3, block.bn):
        part.requires_grad_(False)
    fused, _ = fuse(block)
    assert not fused.cv2.weight.requires_grad and fused.cv1.conv.weight.requires_grad


def test_nobodys_random_numbers_are_shifted() -> None:
    block = Conv(4, 4).eval()
    state = torch.get_rng_state()
    fuse(block)
    assert torch.equal(torch.get_rng_state(), state)


def test_half_weights_are_fused_in_double() -> None:
    unit = randomize_(ConvBN(16, 16, 3).eval()).half()
    exact = copy.deepcopy(unit).double().kernel().weight
    fused, _ = fuse(unit)
    assert torch.equal(fused.weight, exact.half())


def test_the_model_itself_may_be_a_unit() -> None:
    fused, report = fuse(ConvBN(4, 4, 3).eval())
    assert isinstance(fused, nn.Conv2d)
    assert report.kinds == {"ConvBN": 1}


def test_shared_modules_stay_shared() -> None:
    shared = Conv(4, 4, 3, 1)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "unit": shared.conv}).eval()
    fused, report = fuse(model)
    assert fused["a"] is fused["b"][0]
    assert fused["unit"] is fused["a"].conv
    assert len(report.records) == 1


def test_training_mode_is_refused() -> None:
    with pytest.raises(FuseError, match=r"call model\.eval"):
        fuse(Conv(4, 4).train())


def test_norm_without_statistics_is_refused_by_name() -> None:
    block = nn.Sequential(Conv(4, 4)).eval()
    block[0].conv.bn = nn.BatchNorm2d(4, track_running_stats=False).eval()
    with pytest.raises(FuseError, match=r"0\.conv: .*running statistics"):
        fuse(block)


def test_hooks_are_refused() -> None:
    block = Conv(4, 4).eval()
    block.conv.bn.register_forward_hook(lambda *_: None)
    with pytest.raises(FuseError, match=r"conv\.bn: has hooks"):
        fuse(block)


def test_parametrized_weights_are_refused() -> None:
    block = Conv(4, 4).eval()
    nn.utils.parametrizations.weight_norm(block.conv.conv)
    block.eval()
    with pytest.raises(FuseError, match="parametrized"):
        fuse(block)


def test_what_nobody_folds_is_kept_and_named() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    _, report = fuse(model)
    assert [entry.name for entry in report.kept] == ["1"]
    with pytest.raises(FuseError, match="1 is kept"):
        fuse(model, strict=True)


class _Wrong(Reparameterizable):
    """A unit whose kernel forgets something."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.unit = randomize_(ConvBN(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)

    def kernel(self) -> ConvKernel:
        unit = copy.deepcopy(self.unit)
        if self.fault == "eps":
            unit.bn.eps *= 1.001
        kernel = unit.kernel()
        weight, bias, padding = kernel.weight, kernel.bias, kernel.padding
        if self.fault == "padding":
            padding = (0, 0)
        if self.fault == "channel":
            weight = weight.roll(1, 1)
        if self.fault == "bias":
            bias = bias + 1e-7
        return ConvKernel(weight, bias, padding=padding)


@pytest.mark.parametrize("fault", ["eps", "padding", "channel", "bias"])
def test_a_wrong_kernel_is_caught(fault: str) -> None:
    with pytest.raises(FuseError, match="fused"):
        fuse(_Wrong(fault).eval())


@pytest.mark.parametrize("block", [BottleneckCSP(8, 8), MixConv2d(8, 8)], ids=["BottleneckCSP", "MixConv2d"])
def test_a_wrong_fold_is_caught(block: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicing the norm after a concatenation in the wrong order."""
    module = type(block).__module__
    from yolorep.nn import conv

    right = conv.fold_norm_after_concat

    def swapped(convs: list[nn.Conv2d], bn: nn.BatchNorm2d) -> list[nn.Conv2d]:
        half = len(bn.weight) // 2
        for values in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
            values.copy_(values.roll(half))
        return right(convs, bn)

    monkeypatch.setattr(f"{module}.fold_norm_after_concat", swapped)
    with pytest.raises(FuseError, match="fused wrongly"):
        fuse(randomize_(block.eval()))


class _Example(nn.Module):
    """A model that knows its input and counts calls to its one unit."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)

    def example_input(self, image_size: int | None = None) -> Tensor:
        size = image_size or 9
        return torch.rand(1, 4, size, size)


def test_report_of_a_whole_model() -> None:
    model = _Example(randomize_(Conv(4, 8, 3)).eval())
    _, report = fuse(model.eval(), image_size=16)
    assert report.model_error is not None and report.model_error < 1e-5
    assert report.gflops == report.gflops_fused == 2 * 16 * 16 * 9 * 4 * 8 / 1e9
    assert (report.params, report.params_fused) == (9 * 4 * 8 + 16, 9 * 4 * 8 + 8)
    (record,) = report.records
    assert (record.name, record.kind) == ("unit.conv", "ConvBN")
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["kept"] == [] and plain["kinds"] == {"ConvBN": 1}
    assert "ConvBN" in str(report)
    assert repr(report) == (
        f"FuseReport(1 block, 304 -> 296 parameters, largest error {report.max_error:.1e}, nothing kept)"
    )
    assert repr(replace(report, kept=(Kept("a.norm", "why"),) * 2)).endswith(", 2 kept)")


def test_operations_need_not_be_counted() -> None:
    _, report = fuse(_Example(randomize_(Conv(4, 8, 3))).eval(), image_size=None)
    assert report.model_error is not None and report.image_size is None
    assert report.gflops == report.gflops_fused == report.records[0].flops == 0 and "GFLOPs" not in str(report)


class _Foldable(nn.Module):
    in_channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.folded = False

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.folded else self.conv(x) * self.gain

    def fold_(self) -> list[FoldRecord]:
        if self.folded:
            return []
        self.conv, self.folded = ConvKernel.of(self.conv).scaled(self.gain).to_conv(), True
        self.gain.requires_grad_(False)
        return [FoldRecord("gain", ("conv",))]


def test_any_module_with_the_protocol_is_folded() -> None:
    block = _Foldable().eval()
    fused, report = fuse(nn.Sequential(block).eval())
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(fused(x), block(x))
    assert report.kinds == {"_Foldable": 1}
