"""CA, CB2D, ACmix, CNeB and space_to_depth: against their papers' formulas, written out pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.randomize import randomize_
from yolorep.errors import FuseError, UserError
from yolorep.formats.base import Deployed, Format
from yolorep.formats.metadata import Metadata
from yolorep.formats.onnx import Onnx
from yolorep.formats.pytorch import TorchBackend
from yolorep.formats.samples import sample_batches
from yolorep.formats.torchscript import TorchScript
from yolorep.formats.verify import compare
from yolorep.models.detector import build_model
from yolorep.nn import convnext
from yolorep.nn.acmix import ACmix, windows
from yolorep.nn.attention import CA, CB2D
from yolorep.nn.conv import Focus
from yolorep.nn.convnext import CNeB, ConvNeXtBlock
from yolorep.nn.layer_scale import LayerScale
from yolorep.nn.registry import ROW_TYPES
from yolorep.nn.reparam import LinearKernel, fuse
from yolorep.nn.space_to_depth import SpaceToDepth


def ready(module: nn.Module) -> nn.Module:
    """In float64 and eval mode, with no parameter or statistic at its default."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return randomize_(module.double().eval())


def image(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pointwise(conv: nn.Conv2d | nn.Linear, vector: Tensor) -> Tensor:
    """A 1×1 convolution at one pixel."""
    weight = conv.weight.reshape(conv.weight.shape[:2])
    return weight @ vector + (conv.bias if conv.bias is not None else 0)


@torch.no_grad()
def slow_ca(block: CA, x: Tensor) -> Tensor:
    _, height, width = x.shape
    bn = block.reduce.bn

    def squeeze(mean: Tensor) -> Tensor:
        y = pointwise(block.reduce.conv, mean)
        y = (y - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
        return y * (y + 3).clamp(0, 6) / 6

    gates_of_rows = [pointwise(block.rows, squeeze(x[:, i].mean(1))).sigmoid() for i in range(height)]
    gates_of_columns = [pointwise(block.columns, squeeze(x[:, :, j].mean(1))).sigmoid() for j in range(width)]
    y = torch.empty_like(x)
    for i, j in product(range(height), range(width)):
        y[:, i, j] = x[:, i, j] * gates_of_rows[i] * gates_of_columns[j]
    return y


@torch.no_grad()
def slow_cb2d(block: CB2D, x: Tensor) -> Tensor:
    for part in block:
        pixels = x.flatten(1).T
        scores = torch.stack([pointwise(part.mask, pixel)[0].exp() for pixel in pixels])
        context = sum(score / scores.sum() * pixel for score, pixel in zip(scores, pixels, strict=True))
        y = pointwise(part.reduce, context)
        y = (y - y.mean()) / (y.var(unbiased=False) + part.norm.eps).sqrt() * part.norm.weight + part.norm.bias
        x = x + pointwise(part.expand, y.clamp(min=0))[:, None, None]
    return x


def test_a_fresh_context_block_changes_nothing() -> None:
    x = image(1, 32, 3, 4).float()
    assert torch.equal(CB2D(32, 32, 2)(x), x)


def mirror(index: int, length: int) -> int:
    """``index`` thrown back at the ends of ``range(length)`` until it is inside."""
    while length > 1 and not 0 <= index < length:
        index = -index if index < 0 else 2 * (length - 1) - index
    return index if length > 1 else 0


@torch.no_grad()
def slow_acmix(block: ACmix, x: Tensor, k_conv: int) -> Tensor:
    """Attention with the positions of query and key, and the shifts as one grouped convolution (Pan et al. 2022)."""
    _, height, width = x.shape
    heads, size = block.heads, block.head_channels
    places = list(product(range(height), range(width)))
    projected = {
        (name, place): pointwise(getattr(block, name), x[:, place[0], place[1]]).view(heads, size)
        for name in "qkv"
        for place in places
    }
    position = {
        (i, j): pointwise(block.position, x.new_tensor([-1 + 2 * j / (width - 1), -1 + 2 * i / (height - 1)]))
        for i, j in places
    }
    half, reach = block.k_att // 2, k_conv // 2
    y = x.new_zeros(heads * size, height, width)
    for i, j in places:
        near = [(mirror(i + a, height), mirror(j + b, width)) for a, b in product(range(-half, half + 1), repeat=2)]
        for head in range(heads):
            query = projected["q", (i, j)][head] / math.sqrt(size)
            scores = torch.stack(
                [query @ (projected["k", place][head] + position[i, j] - position[place]) for place in near]
            ).exp()
            for score, place in zip(scores, near, strict=True):
                y[head * size : (head + 1) * size, i, j] += (
                    block.attention_rate * score / scores.sum() * projected["v", place][head]
                )
    mixed = {
        place: block.mix.weight[:, :, 0, 0] @ torch.cat([projected[name, place] for name in "qkv"]) for place in places
    }  # (taps, channels of a head)
    for i, j in places:
        for out in range(heads * size):
            group = out // heads
            total = block.shift.bias[out].clone()
            for a, b in product(range(k_conv), repeat=2):
                place = (i + a - reach, j + b - reach)
                if place in mixed:
                    total += block.shift.weight[out, :, a, b] @ mixed[place][:, group]
            y[out, i, j] += block.convolution_rate * total
    return y


@pytest.mark.parametrize("size", [(4, 7), (1, 5), (6, 3)])
@pytest.mark.parametrize(
    ("row", "args", "slow"), [(CA, (8, 8, 4), slow_ca), (CA, (16, 16), slow_ca), (CB2D, (8, 8, 2), slow_cb2d)]
)
def test_attention_is_its_formula(
    row: type[nn.Module], args: tuple[int, ...], slow: Callable[..., Tensor], size: tuple[int, int]
) -> None:
    block = ready(row(*args))
    x = image(2, args[0], *size)
    torch.testing.assert_close(block(x), torch.stack([slow(block, item) for item in x]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("args", "size"), [((3, 8, 7, 2, 3), (5, 4)), ((3, 4, 3, 1, 5), (3, 6)), ((4, 4, 5, 4, 1), (2, 3))]
)
def test_acmix_is_its_formula(args: tuple[int, ...], size: tuple[int, int]) -> None:
    block = ready(ACmix(*args))
    x = image(2, args[0], *size)
    expected = torch.stack([slow_acmix(block, item, args[4]) for item in x])
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)


def test_acmix_starts_as_shifts() -> None:
    """Tap (0, 2) of the fresh grouped convolution takes its map from the pixel above and to the right."""
    block = ACmix(8, 8).eval()
    assert (block.attention_rate.item(), block.convolution_rate.item()) == (0.5, 0.5)
    maps = torch.zeros(1, 9 * 2, 5, 5)
    maps[0, 2, 1, 3] = 1  # group 0, tap 2
    expected = torch.zeros(1, 8, 5, 5)
    expected[0, :4, 2, 2] = 1
    torch.testing.assert_close(block.shift(maps), expected)


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([1, 3, 5, 7]), height=st.integers(1, 9), width=st.integers(1, 9))
def test_windows_mirror_the_map(size: int, height: int, width: int) -> None:
    x = image(2, 3, height, width)
    found = windows(x, size)
    assert found.shape == (2, 3, height, width, size**2)
    half = size // 2
    for i, j in product(range(height), range(width)):
        for tap, (a, b) in enumerate(product(range(-half, half + 1), repeat=2)):
            assert torch.equal(found[:, :, i, j, tap], x[:, :, mirror(i + a, height), mirror(j + b, width)])
    if min(height, width) > half:
        padded = F.unfold(F.pad(x, (half,) * 4, mode="reflect"), size)
        torch.testing.assert_close(found, padded.view(2, 3, -1, height, width).permute(0, 1, 3, 4, 2))


def test_convnext_block_is_its_formula() -> None:
    block = ready(ConvNeXtBlock(4))
    x = image(1, 4, 5, 6)
    y = block.conv(x)[0]
    expected = x.clone()
    for i, j in product(range(5), range(6)):
        pixel = y[:, i, j]
        pixel = (pixel - pixel.mean()) / (pixel.var(unbiased=False) + 1e-6).sqrt()
        pixel = pixel * block.norm.weight + block.norm.bias
        pixel = pointwise(block.fc1, pixel)
        pixel = pixel * (1 + torch.erf(pixel / math.sqrt(2))) / 2
        expected[0, :, i, j] += pointwise(block.fc2, pixel) * block.layer_scale.gamma
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)


def test_cneb_folds_its_layer_scales_and_keeps_its_layer_norms() -> None:
    block = ready(CNeB(8, 16, 2))
    fused, report = fuse(block, strict=True)
    assert report.kinds == {"ConvBN": 3, "ConvNeXtBlock": 2}
    assert [fold.into for record in report.records for fold in record.folds] == [("fc2",), ("fc2",)]
    assert not any(isinstance(m, LayerScale | nn.BatchNorm2d) for m in fused.modules())
    assert sum(isinstance(m, nn.LayerNorm) for m in fused.modules()) == 2
    x = image(1, 8, 9, 5)
    torch.testing.assert_close(fused(x), block(x), rtol=1e-9, atol=1e-9)


def test_a_fresh_layer_scale_is_the_papers() -> None:
    assert torch.equal(ConvNeXtBlock(4).layer_scale.gamma, torch.full((4,), 1e-6))


@pytest.mark.parametrize("fault", ["forgotten", "not on the bias", "on the input"])
def test_a_wrong_fold_of_the_layer_scale_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = LinearKernel.scaled

    def wrong(self: LinearKernel, gain: Tensor) -> LinearKernel:
        if fault == "forgotten":
            return self
        if fault == "not on the bias":
            return LinearKernel(right(self, gain).weight, self.bias)
        return LinearKernel(self.weight * gain.repeat(self.weight.shape[1] // len(gain)), self.bias * gain)

    block = ready(ConvNeXtBlock(4))
    monkeypatch.setattr(convnext.LinearKernel, "scaled", wrong)
    with pytest.raises(FuseError, match="ConvNeXtBlock fused wrongly"):
        fuse(block)


def test_space_to_depth_is_focus_without_its_convolution() -> None:
    x = image(2, 3, 6, 8)
    found = SpaceToDepth(1)(x)
    assert found.shape == (2, 12, 3, 4)
    for slot, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for channel, i, j in product(range(3), range(3), range(4)):
            assert torch.equal(found[:, 3 * slot + channel, i, j], x[:, channel, 2 * i + row, 2 * j + column])
    focus = Focus(3, 5, 3).double().eval()
    torch.testing.assert_close(focus.conv(found), focus(x))


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (1, 1)])
def test_space_to_depth_refuses_odd_maps(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"even height and width, found {size[0]}×{size[1]}"):
        SpaceToDepth()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CA(8, 16), "found 16 for 8"),
        (lambda: CB2D(16, 8), "found 8 for 16"),
        (lambda: ACmix(8, 10), "found 4 for 10 channels"),
        (lambda: ACmix(8, 8, 7, 0), "found 0 for 8 channels"),
        (lambda: ACmix(8, 8, 4), "found 4 and 3"),
        (lambda: SpaceToDepth(2), "found 2"),
    ],
)
def test_wrong_arguments(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["CA", "CB2D", "ACmix", "CNeB"])
def test_odd_sizes_and_gradients(name: str) -> None:
    block = ready(ROW_TYPES[name].factory(16, 16)).train()
    x = image(2, 16, 7, 9).requires_grad_()
    y = block(x)
    assert y.shape == x.shape
    y.square().mean().backward()
    for key, value in (("input", x), *block.named_parameters()):
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), key


#: A detector with every one of these rows; ACmix sees maps as small as 1×1.
MODEL: dict[str, Any] = {
    "nc": 3,
    "anchors": [[10, 13, 16, 30], [33, 61, 62, 45]],
    "backbone": [
        [-1, 1, "RepVGG", [16, 2]],
        [-1, 1, "space_to_depth", [1]],
        [-1, 4, "RepVGG", [32, 2, 2]],
        [-1, 2, "CNeB", [32]],
        [-1, 1, "CA", [32]],
        [-1, 1, "RepConv", [32, 3, 2, 1, True], "P4"],
        [-1, 1, "QARepVGG", [32, 2]],
        [-1, 2, "ACmix", [32]],
        [-1, 3, "CB2D", [32], "P5"],
    ],
    "head": [[["P4", "P5"], 1, "Detect", ["nc", "anchors"]]],
}


def test_rows_build_and_fuse() -> None:
    model = randomize_(build_model(MODEL).eval())
    assert model.strides == (16, 32)
    assert len(model.get_submodule("model.8")) == 3  # CB2D takes its repeats inside
    fused, report = fuse(model, strict=True)
    assert set(report.kinds) == {"RepVGGConv", "MobileOneConv", "ConvBN", "QARepVGGConv", "ConvNeXtBlock"}
    for height, width in ((32, 32), (64, 96)):
        x = torch.rand(1, 3, height, width)
        for found, expected in zip(fused(x).levels, model(x).levels, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_channels_that_a_row_would_change_are_refused_by_name() -> None:
    rows = MODEL | {"backbone": [[-1, 1, "RepVGG", [16, 2]], [-1, 1, "CA", [32]]]}
    with pytest.raises(UserError, match=r"backbone row 1 .*as many output as input channels.*found 32 for 16"):
        build_model(rows | {"head": [[[-1], 1, "Detect", ["nc", "anchors"]]]})


@pytest.mark.slow
@pytest.mark.parametrize("exporter", [Onnx(), TorchScript()], ids=["onnx", "torchscript"])
def test_rows_export_at_any_size(exporter: Format, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(MODEL)
    with torch.no_grad():
        for _ in range(3):  # BatchNorm statistics that fit
            model(torch.rand(2, 3, 64, 96))
    fused, _ = fuse(model.eval(), strict=True)
    metadata = Metadata.of(model)
    example, *others = sample_batches([(2, 64, 96), (1, 32, 32), (3, 96, 64)])
    path = tmp_path / f"model{exporter.suffix}"
    exporter.write(Deployed(fused).eval(), path, example=example.float() / 255, metadata=metadata)
    backend = exporter.open(path, device=torch.device("cpu"))
    compare(backend, TorchBackend(fused), [example, *others]).require_equal()
