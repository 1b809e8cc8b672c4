"""FastViT rows: equal to the published network's blocks, before and after fusing."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.randomize import randomize_
from yolorep.errors import FuseError
from yolorep.formats.onnx import import_onnxruntime
from yolorep.nn.fastvit import (
    ConvFFN,
    FastViTStem,
    FastViTTail,
    LargeKernelConv,
    PatchEmbed,
    RepCPE,
    RepMixer,
    RepMixerBlock,
    RepMixerConv,
)
from yolorep.nn.fastvit_attention import AttentionBlock, FastViTAttention
from yolorep.nn.flops import count_flops
from yolorep.nn.kernels import ConvKernel, LinearKernel
from yolorep.nn.layer_scale import LayerScale
from yolorep.nn.registry import ROW_TYPES, Scale
from yolorep.nn.reparam import fuse

# Row to a small block of it and its input channels.
BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "FastViTStem": (lambda: FastViTStem(3, 8), 3),
    "PatchEmbed": (lambda: PatchEmbed(8, 16), 8),
    "RepMixer": (lambda: RepMixer(8, 8, 2, 4), 8),
    "RepCPE": (lambda: RepCPE(64, 64), 64),
    "FastViTAttention": (lambda: FastViTAttention(64, 64, 2, 4), 64),
    "FastViTTail": (lambda: FastViTTail(64, 128), 64),
}
every_block = pytest.mark.parametrize("name", BLOCKS)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The block as training leaves it, and an odd-sized input, in float64."""
    torch.manual_seed(0)
    factory, channels = BLOCKS[name]
    return randomize_(factory().double().eval()), torch.randn(2, channels, 13, 17, dtype=torch.float64)


def timm_keys(module: nn.Module) -> dict[str, Tensor]:
    """State dict under timm's names: its MobileOne block holds its branches itself."""
    branch = re.compile(r"(^|\.)conv\.(?=(conv_kxk|conv_scale|identity)\.)")
    return {
        branch.sub(r"\1", key).replace("se.reduce", "se.fc1").replace("se.expand", "se.fc2"): value
        for key, value in module.state_dict().items()
    }


def check_like_timm(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    theirs = theirs.double().eval()
    theirs.load_state_dict(timm_keys(ours), strict=True)
    fused, _ = fuse(ours, strict=True)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fused(x), expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def narrow_sa12() -> nn.Module:
    return timm.create_model("fastvit_sa12", embed_dims=(8, 16, 32, 64), layers=(2, 1, 1, 2), num_classes=3)


@every_block
def test_equals_timm(name: str, narrow_sa12: Any) -> None:
    stages = narrow_sa12.stages
    theirs = {
        "FastViTStem": narrow_sa12.stem,
        "PatchEmbed": stages[1].downsample.proj,
        "RepMixer": stages[0].blocks,
        "RepCPE": stages[3].pos_emb,
        "FastViTAttention": stages[3].blocks,
        "FastViTTail": narrow_sa12.final_conv,
    }
    ours, x = build(name)
    check_like_timm(ours, theirs[name], x)


def test_equals_timm_at_the_published_widths() -> None:
    t8 = timm.create_model("fastvit_t8")
    theirs = nn.Sequential(t8.stem)
    rows: list[nn.Module] = [FastViTStem(3, 48)]
    for stage, depth, width in zip(t8.stages, (2, 2, 4, 2), (48, 96, 192, 384), strict=True):
        if width > 48:
            theirs.append(stage.downsample.proj)
            rows.append(PatchEmbed(width // 2, width))
        theirs.append(stage.blocks)
        rows.append(RepMixer(width, width, depth))
    theirs.append(t8.final_conv)
    rows.append(FastViTTail(384, 768))
    ours = randomize_(nn.Sequential(*rows).double().eval())
    check_like_timm(ours, theirs, torch.randn(1, 3, 45, 71, dtype=torch.float64))


@every_block
class TestFuse:
    def test_leaves_no_norm_and_no_scale(self, name: str) -> None:
        block, x = build(name)
        fused, report = fuse(block, strict=True)
        assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d | LayerScale)]
        assert report.params_fused < report.params or name == "RepCPE"  # the identity has no parameters
        torch.testing.assert_close(fused(x), block(x), rtol=1e-9, atol=1e-9)

    def test_survives_extreme_statistics(self, name: str) -> None:
        block = randomize_(BLOCKS[name][0]().double().eval(), extreme=True)
        fuse(block, strict=True)  # compares every unit itself

    def test_is_idempotent(self, name: str) -> None:
        fused, _ = fuse(build(name)[0])
        again, report = fuse(fused)
        assert not report.records
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in fused.state_dict().items())

    def test_leaves_its_source_alone(self, name: str) -> None:
        block, _ = build(name)
        before = copy.deepcopy(block.state_dict())
        fuse(block)
        assert before.keys() == block.state_dict().keys()
        assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())


def test_units_and_folds_are_reported() -> None:
    _, report = fuse(build("FastViTAttention")[0])
    assert report.kinds == {"ConvBN": 2, "AttentionBlock": 2}
    folds = {record.name: [(fold.path, fold.into) for fold in record.folds] for record in report.records}
    assert folds["0"] == [
        ("norm", ("token_mixer.qkv",)),
        ("layer_scale_1", ("token_mixer.proj",)),
        ("layer_scale_2", ("mlp.fc2",)),
    ]
    _, report = fuse(build("RepMixer")[0])
    assert report.kinds == {"RepMixerConv": 2, "ConvBN": 2, "RepMixerBlock": 2}


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("RepMixer", "0.layer_scale.gamma", "0.mlp.fc2"),
        ("RepMixer", "0.mlp.fc2.weight", "0.mlp.fc2"),
        ("FastViTAttention", "0.norm.weight", "0.token_mixer.qkv"),
        ("FastViTAttention", "0.layer_scale_1.gamma", "0.token_mixer.proj"),
        ("FastViTAttention", "0.layer_scale_2.gamma", "0.mlp.fc2"),
    ],
)
def test_a_folded_layer_is_trainable_if_anything_in_it_was(name: str, source: str, target: str) -> None:
    block, _ = build(name)
    block.requires_grad_(False)
    block.get_parameter(source).requires_grad_(True)
    fused, _ = fuse(block)
    trainable = {key for key, parameter in fused.named_parameters() if parameter.requires_grad}
    assert trainable == {f"{target}.weight", f"{target}.bias"}


# Each breaks one step of a fold; fuse() must notice.


def no_identity(self: RepMixerConv) -> ConvKernel:
    mixer = self.mixer.kernel()
    return (mixer - self.norm.kernel().pad_to(mixer)).scaled(self.layer_scale.gamma.flatten())


def with_identity(difference: Callable[[RepMixerConv], ConvKernel]) -> Callable[[RepMixerConv], ConvKernel]:
    def kernel(self: RepMixerConv) -> ConvKernel:
        change = difference(self)
        channels = len(change.bias)
        return change + ConvKernel.identity(channels, 3, groups=channels, like=change.weight)

    return kernel


@with_identity
def sum_for_difference(self: RepMixerConv) -> ConvKernel:
    mixer = self.mixer.kernel()
    return (mixer + self.norm.kernel().pad_to(mixer)).scaled(self.layer_scale.gamma.flatten())


@with_identity
def no_layer_scale(self: RepMixerConv) -> ConvKernel:
    mixer = self.mixer.kernel()
    return mixer - self.norm.kernel().pad_to(mixer)


@with_identity
def no_norm(self: RepMixerConv) -> ConvKernel:
    return self.mixer.kernel().scaled(self.layer_scale.gamma.flatten())


def into_the_corner(self: ConvKernel, like: ConvKernel) -> ConvKernel:
    weight = torch.zeros_like(like.weight)
    weight[..., : self.kernel_size[0], : self.kernel_size[1]] = self.weight
    return ConvKernel(weight, self.bias, like.stride, like.padding, like.dilation, like.groups, like.padding_mode)


def unscaled_bias(self: Any, gain: Tensor) -> Any:
    return type(self)(self.weight * gain.reshape(-1, *[1] * (self.weight.ndim - 1)), self.bias)


def no_shift(self: LinearKernel, bn: nn.BatchNorm2d) -> LinearKernel:
    assert bn.running_var is not None
    return LinearKernel(self.weight * bn.weight * (bn.running_var + bn.eps).rsqrt(), self.bias)


def no_gain(self: LinearKernel, bn: nn.BatchNorm2d) -> LinearKernel:
    assert bn.running_mean is not None and bn.running_var is not None
    shift = bn.bias - bn.running_mean * bn.weight * (bn.running_var + bn.eps).rsqrt()
    return LinearKernel(self.weight, self.bias + self.weight @ shift)


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "broken"),
    [
        ("RepMixer", RepMixerConv, "kernel", no_identity),
        ("RepMixer", RepMixerConv, "kernel", sum_for_difference),
        ("RepMixer", RepMixerConv, "kernel", no_layer_scale),
        ("RepMixer", RepMixerConv, "kernel", no_norm),
        ("RepMixer", ConvKernel, "pad_to", into_the_corner),
        ("RepMixer", ConvKernel, "then_bn", lambda self, _bn: self),
        ("RepMixer", ConvFFN, "fold_scale_", lambda self, _scale: None),
        ("FastViTStem", ConvKernel, "pad_to", into_the_corner),
        ("FastViTTail", ConvKernel, "pad_to", into_the_corner),
        ("PatchEmbed", ConvKernel, "pad_to", into_the_corner),
        ("PatchEmbed", LargeKernelConv, "kernel", lambda self: self.large_conv.kernel()),
        ("RepCPE", RepCPE, "kernel", lambda self: ConvKernel.of(self.pos_enc)),
        ("FastViTAttention", LinearKernel, "after_bn", no_shift),
        ("FastViTAttention", LinearKernel, "after_bn", no_gain),
        ("FastViTAttention", LinearKernel, "scaled", lambda self, _gain: self),
        ("FastViTAttention", LinearKernel, "scaled", unscaled_bias),
        ("FastViTAttention", ConvFFN, "fold_scale_", lambda self, _scale: None),
    ],
)
def test_a_wrong_fold_is_refused(
    name: str, owner: type, attribute: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    block, _ = build(name)
    for key, parameter in block.named_parameters():  # zero at the start, so that a bias left out would go unnoticed
        if key.endswith(("proj.bias", "fc2.bias")):
            nn.init.normal_(parameter)
    fuse(block)
    monkeypatch.setattr(owner, attribute, broken)
    with pytest.raises(FuseError, match="fused wrongly"):
        fuse(block)


def test_a_scale_without_its_bias_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    block, _ = build("RepMixer")
    nn.init.normal_(block.get_parameter("0.mlp.fc2.bias"))

    def fold_scale_(self: ConvFFN, scale: LayerScale) -> None:
        assert isinstance(self.fc2, nn.Conv2d)
        self.fc2.weight.data *= scale.gamma.data[:, None]

    monkeypatch.setattr(ConvFFN, "fold_scale_", fold_scale_)
    with pytest.raises(FuseError, match=r"^0: RepMixerBlock fused wrongly"):
        fuse(block)


@every_block
def test_every_parameter_learns(name: str) -> None:
    block, x = build(name)
    block.train()
    (block(x) * torch.randn_like(block(x))).sum().backward()
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        # No activation follows the large kernels: the next norm takes their shift away.
        if not (name == "PatchEmbed" and key.startswith("0.") and key.endswith("bn.bias")):
            assert parameter.grad.abs().max() > 1e-9, key


def test_key_shift_does_not_matter_to_attention_but_the_rest_does() -> None:
    """The fold gives qkv a bias; attention must read all three parts in the order query, key, value."""
    fused, _ = fuse(build("FastViTAttention")[0])
    attention = fused[0].token_mixer
    x = torch.randn(1, 64, 5, 5, dtype=torch.float64)
    before = attention(x)
    for start, matters in ((0, True), (64, False), (128, True)):
        changed = copy.deepcopy(attention)
        changed.qkv.bias.data[start : start + 64] += 1  # a shift of every key moves all logits of a query alike
        assert torch.allclose(changed(x), before, atol=1e-9) != matters


def test_flops_of_attention_are_counted() -> None:
    pixels, channels = 35, 64
    flops = count_flops(FastViTAttention(channels, channels).eval(), torch.empty(1, channels, 5, 7))
    products = 2 * pixels * pixels * channels  # query by key, weights by value
    linear = pixels * channels * 4 * channels
    assert flops["0.token_mixer"] == 2 * (products + linear)


class TestDropPath:
    RATES = (0.0, 0.25, 0.9)

    @pytest.mark.parametrize("row", [RepMixer, FastViTAttention])
    def test_rates_go_to_their_blocks(self, row: Callable[..., nn.Sequential]) -> None:
        stage = row(32, 32, 3, 1, drop_path=self.RATES)
        assert tuple(block.drop_path.p for block in stage) == self.RATES
        assert all(block.drop_path.p == 0 for block in row(32, 32, 3))

    @pytest.mark.parametrize("row", [RepMixer, FastViTAttention])
    def test_drops_nothing_in_eval_mode(self, row: Callable[..., nn.Sequential]) -> None:
        dropping = randomize_(row(32, 32, 3, 1, drop_path=self.RATES).eval())
        plain = row(32, 32, 3, 1).eval()
        plain.load_state_dict(dropping.state_dict())
        x = torch.randn(4, 32, 7, 9)
        assert torch.equal(dropping(x), plain(x))

    def test_mixer_block_drops_its_mlp_image_by_image(self) -> None:
        torch.manual_seed(0)
        block = randomize_(RepMixerBlock(8, 3, drop_path=0.5)).train()
        x = torch.randn(32, 8, 7, 9)
        with torch.no_grad():
            mixed = block.token_mixer(x)
            branch = block.layer_scale(block.mlp(mixed)) / 0.5
            for row, skipped, whole in zip(block(x), mixed, mixed + branch, strict=True):
                assert torch.allclose(row, skipped, atol=1e-5) != torch.allclose(row, whole, atol=1e-5)

    def test_attention_block_drops_both_branches(self) -> None:
        block = randomize_(AttentionBlock(32, 1, drop_path=1 - 1e-9)).train()
        x = torch.randn(8, 32, 5, 5)
        assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FastViTAttention(48, 48), "multiples of 32.*48"),
        (lambda: FastViTAttention(64, 32), "found 32 for 64"),
        (lambda: RepMixer(8, 16), "found 16 for 8"),
        (lambda: RepCPE(8, 16), "found 16 for 8"),
        (lambda: RepMixer(8, 8, 2, drop_path=[0.1]), r"expected 2 drop path rates.*\[0\.1\]"),
        (lambda: FastViTAttention(32, 32, 1, drop_path=[0.1, 0.2]), "expected 1 drop path rates"),
        (lambda: RepMixer(8, 8, 1, drop_path=[1.0]), r"in \[0, 1\)"),
        (lambda: RepMixer(8, 8, 1, drop_path=[-0.1]), r"in \[0, 1\)"),
        (lambda: RepMixer(8, 8, 1, 0), "ratio.*found 0"),
        (lambda: PatchEmbed(64, 96), "multiple of the 64 input channels, found 96"),
        (lambda: FastViTTail(64, 96), "multiple of the 64 input channels, found 96"),
        (lambda: FastViTTail(8, 8), "at least 16 channels"),
    ],
)
def test_wrong_arguments(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("row", "c1", "c2", "width", "expected"),
    [
        ("FastViTStem", 3, 76, 1.0, 76),
        ("FastViTStem", 3, 76, 0.25, 24),
        ("PatchEmbed", 76, 152, 1.0, 152),
        ("PatchEmbed", 24, 152, 0.25, 48),
        ("PatchEmbed", 64, 96, 1.0, 96),  # the block itself refuses it
        ("PatchEmbed", 64, 128, 0.1, 64),
        ("FastViTTail", 192, 1216, 0.25, 384),
        ("FastViTTail", 608, 1216, 1.0, 1216),
    ],
)
def test_channels_that_change(row: str, c1: int, c2: int, width: float, expected: int) -> None:
    plan = ROW_TYPES[row].channels([c1], [c2], Scale(width=width))
    assert (plan.args, plan.out_channels) == ((c1, expected), expected)


@pytest.mark.parametrize(("row", "args"), [("RepMixer", (3,)), ("FastViTAttention", (4,)), ("RepCPE", ())])
def test_channels_that_stay(row: str, args: tuple[int, ...]) -> None:
    plan = ROW_TYPES[row].channels([48], args, Scale(width=0.5))
    assert (plan.args, plan.out_channels) == ((48, 48, *args), 48)


SIZES = ((13, 17), (8, 5))


@every_block
def test_torchscript_at_other_sizes(name: str) -> None:
    block, x = build(name)
    fused, _ = fuse(block)
    for form in (block, fused):
        traced = torch.jit.trace(form, (x,))
        for size in SIZES:
            other = torch.randn(3, x.shape[1], *size, dtype=torch.float64)
            torch.testing.assert_close(traced(other), form(other), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["RepMixer", "FastViTAttention"])
def test_onnx_at_other_sizes(name: str, tmp_path: Path) -> None:
    block, x = build(name)
    fused, _ = fuse(block.float())
    path = tmp_path / "block.onnx"
    dynamic = {axis: torch.export.Dim(f"axis{axis}", min=1) for axis in (0, 2, 3)}
    torch.onnx.export(fused, (x.float(),), str(path), dynamo=True, dynamic_shapes=(dynamic,), verbose=False)
    session = import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in SIZES:
        other = torch.randn(3, x.shape[1], *size)
        (output,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), fused(other), rtol=1e-4, atol=1e-4)
