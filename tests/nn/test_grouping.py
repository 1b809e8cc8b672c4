"""Which convolution and BatchNorm are one, of networks written in every way that misleads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.randomize import randomize_
from yolorep.errors import FuseError
from yolorep.nn.conv import ConvBN
from yolorep.nn.grouping import LayerTracer, Pair, find_pairs
from yolorep.nn.reparam import fuse


class Layers(nn.Module):
    """A few layers of 4 channels and a forward pass to try out with them."""

    def __init__(self, run: Callable[[Layers, Tensor], object]) -> None:
        super().__init__()
        self.run = run
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.strange, self.act = Standardized(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.batch1d, self.layer, self.derived = nn.BatchNorm1d(4), nn.GroupNorm(2, 4), Derived(4)
        self.opaque = Opaque()

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


class Standardized(nn.Conv2d):
    """A convolution whose weights are not what it computes with."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Derived(nn.BatchNorm2d):
    """More than a BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


CASES: dict[str, tuple[Callable[[Layers, Tensor], object], str, str | None]] = {
    "plain": (lambda m, x: m.bn(m.conv(x)), "bn", None),
    "activation after": (lambda m, x: m.act(m.bn(m.conv(x))), "bn", None),
    "residual": (lambda m, x: x + m.bn(m.conv(x)), "bn", None),
    "two in a row": (lambda m, x: m.second(m.other(m.bn(m.conv(x)))), "bn", None),
    "several outputs": (lambda m, x: [m.bn(m.conv(x)), m.second(m.other(x))], "bn", None),
    "no convolution": (lambda m, x: m.bn(m.act(m.conv(x))), "bn", "it reads act, a ReLU, not a convolution"),
    "norm of the input": (lambda m, x: m.conv(m.bn(x)), "bn", "it reads x, which is no layer's output"),
    "norm of a sum": (lambda m, x: m.bn(m.conv(x) + m.other(x)), "bn", "it reads add, which is no layer's output"),
    "norm of a concatenation": (lambda m, x: m.bn(torch.cat([m.conv(x)])), "bn", "it reads cat, which is no layer's"),
    "two readers": (lambda m, x: m.bn(y := m.conv(x)) + y, "bn", "the output of conv has other readers"),
    "a reader of the shape": (lambda m, x: m.bn(y := m.conv(x)) * y.shape[0], "bn", "conv has other readers"),
    "an output itself": (lambda m, x: [y := m.conv(x), m.bn(y)], "bn", "the output of conv has other readers"),
    "two norms": (lambda m, x: m.bn(y := m.conv(x)) + m.second(y), "second", "the output of conv has other readers"),
    "convolution used twice": (lambda m, x: m.bn(m.conv(m.conv(x))), "bn", "conv is called 2 times"),
    "norm used twice": (lambda m, x: m.bn(m.conv(m.bn(m.other(x)))), "bn", "bn is called 2 times"),
    "weight read": (lambda m, x: m.bn(m.conv(x)) * m.conv.weight.sum(), "bn", "the tensors of conv have other readers"),
    "gain read": (lambda m, x: m.bn(m.conv(x)) * m.bn.weight.sum(), "bn", "the tensors of bn have other readers"),
    "another convolution": (lambda m, x: m.bn(m.strange(x)), "bn", "a Standardized, which is no plain convolution"),
    "another norm": (lambda m, x: m.derived(m.conv(x)), "derived", "Derived is not known to be a BatchNorm2d"),
    "one of vectors": (lambda m, x: m.batch1d(m.conv(x).mean((2, 3))), "batch1d", "BatchNorm1d is not known to be a"),
    "a norm of its input": (lambda m, x: m.layer(m.conv(x)), "layer", "GroupNorm is no BatchNorm"),
    "unused": (lambda m, x: m.conv(x), "bn", "torch.fx does not look into the block around it"),
    "not looked into": (lambda m, x: m.opaque(x), "opaque.bn", "torch.fx does not look into the block around it"),
    "depends on the values": (
        lambda m, x: m.bn(m.conv(x)) if x.sum() > 0 else x,
        "bn",
        "torch.fx cannot follow the network: TraceError: symbolically traced variables cannot be used",
    ),
}


@pytest.mark.parametrize(("run", "norm", "reason"), CASES.values(), ids=CASES)
def test_what_is_one(run: Callable[[Layers, Tensor], object], norm: str, reason: str | None) -> None:
    pairs, reasons = find_pairs(Layers(run).eval(), LayerTracer([Opaque]))
    if reason is None:
        assert Pair("conv", norm) in pairs and norm not in reasons
    else:
        assert reason in reasons[norm] and norm not in {pair.norm for pair in pairs}
    assert len(pairs) + len(reasons) == 6


def test_blocks_are_looked_into_unless_told_not_to() -> None:
    pairs, _ = find_pairs(Layers(lambda m, x: m.opaque(x)).eval(), LayerTracer())
    assert pairs == [Pair("opaque.conv", "opaque.bn")]


class Grouped(Layers):
    """One that groups itself, rightly or wrongly."""

    def __init__(self, group: Callable[[Grouped], dict[str, str]]) -> None:
        super().__init__(lambda m, x: [m.act(m.bn(m.conv(x))), x])
        self.group = group

    def example_input(self, image_size: int | None = None) -> Tensor:
        return torch.randn(1, 4, image_size or 9, image_size or 11).to(next(self.parameters()))

    def group_(self) -> dict[str, str]:
        return self.group(self)


def rightly(network: Grouped) -> dict[str, str]:
    if isinstance(network.bn, nn.BatchNorm2d):
        network.conv, network.bn = ConvBN.of(network.conv, network.bn), nn.Identity()
    return {"second": "nobody calls it", "derived": "nor this"}


def without_the_activation(network: Grouped) -> dict[str, str]:
    network.act = nn.Identity()
    return rightly(network)


def twice_the_norm(network: Grouped) -> dict[str, str]:
    network.conv = ConvBN.of(network.conv, network.bn)
    return {}


def test_fuse_replaces_the_units_found_and_tells_what_stays() -> None:
    network = randomize_(Grouped(rightly)).eval()
    fused, report = fuse(network)
    assert type(fused.conv) is nn.Conv2d and report.kinds == {"ConvBN": 1}
    reasons = {kept.name: kept.reason for kept in report.kept}
    assert reasons["second"] == "nobody calls it" and reasons["derived"] == "nor this"
    assert "says no linear layer" in reasons["batch1d"]  # what the network forgot to name
    x = network.example_input()
    torch.testing.assert_close(fused(x)[0], network(x)[0])
    again, report = fuse(fused)
    assert not report.records and torch.equal(again(x)[0], fused(x)[0])


@pytest.mark.parametrize("group", [without_the_activation, twice_the_norm])
def test_a_wrong_grouping_is_caught(group: Callable[[Grouped], dict[str, str]]) -> None:
    with pytest.raises(FuseError, match="Grouped fused wrongly"):
        fuse(randomize_(Grouped(group)).eval())


def test_hooks_are_refused() -> None:
    network = Grouped(rightly).eval()
    network.act.register_forward_hook(lambda *_: None)
    with pytest.raises(FuseError, match="act: has hooks"):
        fuse(network)
