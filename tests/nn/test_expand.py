"""expand(): the same function before training, the same architecture after fusing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.randomize import randomize_
from yolorep.errors import FuseError
from yolorep.models.detector import build_model, build_network
from yolorep.nn.conv import Conv, ConvBN
from yolorep.nn.expand import ExpandedConv, ExpandRule, expand
from yolorep.nn.kernels import ConvKernel
from yolorep.nn.mobileone import MobileOneBlock
from yolorep.nn.registry import ROW_TYPES
from yolorep.nn.reparam import fuse


def expanded_parts(module: nn.Module) -> dict[str, ExpandedConv]:
    return {name: part for name, part in module.named_modules() if isinstance(part, ExpandedConv)}


def fresh_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [
        norm
        for part in expanded_parts(module).values()
        for name, norm in part.named_modules()
        if isinstance(norm, nn.BatchNorm2d) and not name.startswith("main.")
    ]


def form(module: nn.Module) -> dict[str, Any]:
    """The class of every module and the shape of every tensor."""
    classes = {name: type(part) for name, part in module.named_modules()}
    return classes | {f"{name} ": tensor.shape for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("text", "rule", "canonical"),
    [
        ("mobileone", ExpandRule("mobileone", 4), "mobileone:k=4"),
        ("mobileone:k=1", ExpandRule("mobileone", 1), "mobileone:k=1"),
        ("repvgg", ExpandRule("repvgg", 1), "repvgg:k=1"),
        ("repvgg:k=12", ExpandRule("repvgg", 12), "repvgg:k=12"),
    ],
)
def test_rule(text: str, rule: ExpandRule, canonical: str) -> None:
    assert ExpandRule.parse(text) == rule
    assert str(rule) == canonical
    assert ExpandRule.parse(canonical) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mobilone", r"found 'mobilone' \(did you mean 'mobileone'\?\)"),
        ("RepVGG", r"found 'RepVGG' \(did you mean 'repvgg'\?\)"),
        ("", "expected a rule such as mobileone, .* found ''"),
        (":k=2", "found ''"),
        ("mobileone:", "expected k=N, .* after mobileone:, found ''"),
        ("mobileone:4", "expected k=N, .* found '4'"),
        ("mobileone:k=-1", "found 'k=-1'"),
        ("mobileone:k=²", "found 'k=²'"),
        ("mobileone:k=0", "expected 1 to 64 k×k branches, .* found k=0"),
        ("mobileone:k=100000", "expected 1 to 64 k×k branches, .* found k=100000"),
        ("fastvit:k=2", "found 'fastvit'"),
        (True, "found True"),
        (["mobileone"], "found .'mobileone'."),
    ],
)
def test_wrong_rule(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ExpandRule.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("channels", "unit", "scale", "identity"),
    [
        ((4, 4), {"kernel_size": 3, "padding": 1}, True, True),
        ((4, 8), {"kernel_size": 3, "padding": 1}, True, False),
        ((4, 4), {"kernel_size": 3, "padding": 1, "stride": 2}, True, False),
        ((4, 4), {"kernel_size": 3, "padding": 2, "dilation": 2}, True, True),
        ((4, 4), {"kernel_size": 3, "padding": 1, "dilation": 2}, False, False),
        ((4, 4), {"kernel_size": 3, "padding": 0}, False, False),
        ((4, 4), {"kernel_size": 3, "padding": 2}, False, False),
        ((4, 4), {"kernel_size": 5, "padding": 2, "groups": 4}, True, True),
        ((4, 4), {"kernel_size": (1, 3), "padding": (0, 1)}, True, True),
        ((4, 4), {"kernel_size": (3, 1), "padding": (0, 1)}, False, False),
        ((4, 4), {"kernel_size": 3, "padding": 1, "stride": (1, 2)}, True, False),
        ((4, 4), {"kernel_size": 1}, False, True),
        ((4, 8), {"kernel_size": 1}, False, False),
        ((4, 4), {"kernel_size": 1, "padding": 1}, False, False),
        ((4, 4), {"kernel_size": 6, "padding": 2, "stride": 2}, True, False),  # YOLOv5's stem
        ((4, 4), {"kernel_size": 6, "padding": 3, "stride": 2}, False, False),
        ((4, 4), {"kernel_size": 2, "padding": 0}, True, False),
    ],
)
def test_legal_branches(channels: tuple[int, int], unit: dict[str, Any], scale: bool, identity: bool) -> None:
    expanded = ExpandedConv(ConvBN(*channels, **unit))
    assert (expanded.scale is not None, expanded.identity is not None) == (scale, identity)


@settings(max_examples=80, deadline=None)
@given(
    channels=st.sampled_from([(4, 4), (4, 8), (8, 4)]),
    kernel=st.one_of(st.integers(1, 7), st.tuples(st.integers(1, 4), st.integers(1, 4))),
    stride=st.sampled_from([1, 2, 3, (1, 2)]),
    padding=st.one_of(st.none(), st.integers(0, 4)),
    dilation=st.sampled_from([1, 2, (1, 2)]),
    groups=st.sampled_from([1, 2, 4]),
    branches=st.integers(1, 4),
    mode=st.sampled_from(["zeros", "reflect", "replicate"]),
    size=st.tuples(st.integers(19, 24), st.integers(19, 24)),
)
def test_equals_its_kernel(
    channels: tuple[int, int],
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | None,
    dilation: int | tuple[int, int],
    groups: int,
    branches: int,
    mode: str,
    size: tuple[int, int],
) -> None:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    steps = (dilation, dilation) if isinstance(dilation, int) else dilation
    centred = tuple(step * ((side - 1) // 2) for side, step in zip(sides, steps, strict=True))
    main = ConvBN(
        *channels,
        kernel,
        stride,
        centred if padding is None else padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )
    main = randomize_(main.double().eval())
    unit = ExpandedConv(main, branches=branches)
    x = torch.randn(2, channels[0], *size, dtype=torch.float64)
    assert torch.equal(unit(x), main(x))
    assert torch.equal(unit.to_conv().weight, main.to_conv().weight)
    randomize_(unit)
    expected = unit(x)
    torch.testing.assert_close(unit.to_conv()(x), expected, rtol=0, atol=1e-11)
    if unit.scale is not None:
        assert not torch.equal(expected, main(x))


#: Row types with plain convolutions, with the arguments they are built with.
ROWS = {
    "Conv": (3, 2),
    "DWConv": (3,),
    "Focus": (3,),
    "CrossConv": (3,),
    "C3": (2,),
    "C3Ghost": (2,),
    "BottleneckCSP": (2,),
}
RULES = ["mobileone", "mobileone:k=1", "repvgg", "repvgg:k=2"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ROWS)
def test_rows_expand_and_fuse_back(name: str, rule: str) -> None:
    plain = randomize_(ROW_TYPES[name].factory(16, 16, *ROWS[name]).double().eval(), seed=1)
    expanded = expand(plain, rule)
    x = torch.randn(1, 16, 16, 18, dtype=torch.float64)
    assert torch.equal(expanded(x), plain(x))
    assert torch.equal(copy.deepcopy(expanded).train()(x), copy.deepcopy(plain).train()(x))

    randomize_(expanded, seed=2)
    assert not torch.allclose(expanded(x), plain(x))
    fused, report = fuse(expanded, strict=True)
    torch.testing.assert_close(fused(x), expanded(x), rtol=1e-9, atol=1e-9)
    assert form(fused) == form(fuse(plain)[0])
    assert report.kinds["ExpandedConv"] == len(expanded_parts(expanded))


def detector(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    model = {
        "nc": 2,
        "anchors": [[16, 16, 24, 24], [32, 32, 48, 48]],
        "backbone": [
            [-1, 1, "Conv", [8, 6, 2, 2]],
            [-1, 1, "MobileOne", [8, 2, 2]],
            [-1, 1, "C3", [8]],
            [-1, 1, "BottleneckCSP", [8]],
        ],
        "head": [[-1, 1, "Conv", [16, 3, 2]], [[3, 4], 1, "Detect", ["nc", "anchors"]]],
    }
    return build_model({**model, **changes})


def test_which_convolutions_of_a_network() -> None:
    expanded = expand(detector(), "mobileone:k=2")
    csp = [f"model.3.{name}" for name in ("cv1.conv", "cv4.conv", "m.0.cv1.conv", "m.0.cv2.conv")]
    c3 = [f"model.2.{name}" for name in ("cv1.conv", "cv2.conv", "cv3.conv", "m.0.cv1.conv", "m.0.cv2.conv")]
    assert set(expanded_parts(expanded)) == {"model.0.conv", *c3, *csp, "model.4.conv"}
    stem = expanded.model[0].conv
    assert stem.scale is not None and stem.identity is None and len(stem.branches) == 1
    assert form(expanded.model[1]) == form(detector().model[1])
    assert form(expanded.head) == form(detector().head)

    three = [name for name, part in expanded_parts(expanded).items() if part.main.conv.kernel_size != (1, 1)]
    assert list(expanded_parts(expand(detector(), "repvgg"))) == three


def test_a_head_stays_whatever_it_is_made_of() -> None:
    model = detector()
    model.head.m[0] = ConvBN(8, 14, 1)
    assert isinstance(expand(model, "mobileone").head.m[0], ConvBN)


def test_classifiers_too() -> None:
    rows = {"backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[-1, 1, "Classify", ["nc"]]]}
    expanded = expand(build_network({"nc": 2, **rows}), "mobileone")
    assert list(expanded_parts(expanded)) == ["model.0.conv"]
    assert expanded.config.expand == "mobileone:k=4"


def test_trains_and_fuses_back() -> None:
    """From zero gains, plain gradient steps move every branch, each its own way."""
    plain = randomize_(detector()).eval()
    before = copy.deepcopy(plain.state_dict())
    expanded = expand(plain, "mobileone")
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for mine, theirs in zip(expanded(images).levels, plain(images).levels, strict=True):
            assert torch.equal(mine, theirs)
    assert all(not norm.weight.any() for norm in fresh_norms(expanded))

    optimizer = torch.optim.SGD(expanded.parameters(), lr=0.01)
    expanded.train()
    for step in range(3):
        optimizer.zero_grad()
        sum(level.square().mean() for level in expanded(images).levels).backward()
        if step == 0:
            assert all(norm.weight.grad.abs().sum() > 0 for norm in fresh_norms(expanded))
        optimizer.step()
    assert all(norm.weight.any() for norm in fresh_norms(expanded))
    assert all(branch.conv.weight.grad.any() for part in expanded_parts(expanded).values() for branch in part.branches)

    expanded.eval()
    fused, _ = fuse(expanded, strict=True)
    assert form(fused) == form(fuse(plain)[0])
    reference = copy.deepcopy(expanded).double()
    exact, _ = fuse(reference, strict=True)
    with torch.no_grad():
        for mine, theirs in zip(exact(images.double()).levels, reference(images.double()).levels, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_branches_are_drawn_independently() -> None:
    unit = expand(ConvBN(8, 8, 3, padding=1), "mobileone")
    kernels = [unit.main.conv.weight, *(branch.conv.weight for branch in unit.branches)]
    assert len(kernels) == 4
    for index, one in enumerate(kernels):
        assert all(not torch.equal(one, other) for other in kernels[:index])


def test_main_branch_is_the_convolution_itself() -> None:
    plain = randomize_(ConvBN(8, 8, 3, padding=1, eps=0.02, momentum=0.4))
    unit = expand(plain, "repvgg:k=2")
    assert all(torch.equal(tensor, unit.main.state_dict()[name]) for name, tensor in plain.state_dict().items())
    norms = [norm for norm in unit.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert len(norms) == 4
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.02, 0.4)}
    assert all((norm.running_var == 1).all() and not norm.running_mean.any() for norm in fresh_norms(unit))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_mode_and_requires_grad_are_kept(dtype: torch.dtype) -> None:
    plain = Conv(4, 4, 3).to(dtype).train()
    plain.conv.requires_grad_(False)
    plain.conv.bn.eval()
    expanded = expand(plain, "mobileone")
    assert all(tensor.dtype == dtype for tensor in expanded.state_dict().values() if tensor.is_floating_point())
    assert not any(parameter.requires_grad for parameter in expanded.parameters())
    for part in expanded.modules():
        assert part.training != isinstance(part, nn.BatchNorm2d)
    assert all(part.requires_grad for part in expand(Conv(4, 4, 3), "mobileone").parameters())


def test_works_on_the_meta_device() -> None:
    with torch.device("meta"):
        expanded = expand(Conv(4, 4, 3), "mobileone")
    assert {tensor.device.type for tensor in expanded.state_dict().values()} == {"meta"}


def test_shared_modules_stay_shared() -> None:
    shared = Conv(4, 4, 3)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "unit": shared.conv})
    expanded = expand(model, "repvgg")
    assert expanded["a"] is expanded["b"][0]
    assert expanded["unit"] is expanded["a"].conv
    assert isinstance(expanded["unit"], ExpandedConv)


def test_larger_units_and_useless_expansions_stay() -> None:
    block = nn.Sequential(MobileOneBlock(16, 16, branches=2, se=True), ConvBN(4, 8), ConvBN(4, 4))
    assert list(expanded_parts(expand(block, "mobileone:k=1"))) == ["2"]


def test_nothing_to_expand() -> None:
    for model in (MobileOneBlock(4, 4), fuse(Conv(4, 4, 3).eval())[0], nn.Conv2d(4, 4, 3)):
        with pytest.raises(ValueError, match="repvgg:k=1: expected a Conv row.* found none"):
            expand(model, "repvgg")


def test_an_expanded_network_is_not_expanded_again() -> None:
    expanded = expand(detector(), "repvgg")
    assert expanded.config.expand == "repvgg:k=1" and detector().config.expand is None
    with pytest.raises(ValueError, match="found one expanded by repvgg:k=1"):
        expand(expanded, "mobileone")


class TestWrongKernelsAreCaught:
    """Each branch left out of the fold or put in the wrong place."""

    @pytest.fixture
    def unit(self) -> nn.Module:
        return randomize_(expand(ConvBN(8, 8, 3, padding=1).eval(), "mobileone:k=2"))

    def test_identity_of_the_wrong_channel(self, unit: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        right = ConvKernel.identity

        def shifted(*args: Any, **kwargs: Any) -> ConvKernel:
            kernel = right(*args, **kwargs)
            return ConvKernel(kernel.weight.roll(1, 1), kernel.bias)

        monkeypatch.setattr(ConvKernel, "identity", shifted)
        with pytest.raises(FuseError, match="ExpandedConv fused wrongly"):
            fuse(unit)

    def test_scale_at_the_wrong_tap(self, unit: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        right = ConvKernel.pad_to

        def shifted(self: ConvKernel, like: ConvKernel) -> ConvKernel:
            padded = right(self, like)
            return (
                padded
                if self.kernel_size != (1, 1)
                else ConvKernel(padded.weight.roll(1, 2), padded.bias, padding=(1, 1))
            )

        monkeypatch.setattr(ConvKernel, "pad_to", shifted)
        with pytest.raises(FuseError, match="ExpandedConv fused wrongly"):
            fuse(unit)

    @pytest.mark.parametrize(
        "taken", [slice(1), slice(-1), slice(1, None)], ids=["main only", "no identity", "no main"]
    )
    def test_branch_forgotten(self, unit: nn.Module, taken: slice, monkeypatch: pytest.MonkeyPatch) -> None:
        from yolorep.nn import branches as module

        right = module.merged
        monkeypatch.setattr(module, "merged", lambda kernels: right(kernels[taken]))
        with pytest.raises(FuseError, match="ExpandedConv fused wrongly"):
            fuse(unit)


def test_norms_without_a_gain_or_statistics_are_left_alone() -> None:
    for bn in (nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False)):
        model = nn.Sequential(Conv(4, 4, 3), Conv(4, 4, 3))
        model[0].conv.bn = bn
        expanded = expand(model, "mobileone")
        assert isinstance(expanded[0].conv, ConvBN) and isinstance(expanded[1].conv, ExpandedConv)


def test_foreign_models_with_a_config_and_a_head() -> None:
    model = nn.Sequential(Conv(4, 4, 3))
    model.config, model.head = {"hidden": 4}, model[0].act
    assert isinstance(expand(model, "repvgg")[0].conv, ExpandedConv)
