"""CNeB: ConvNeXt blocks (Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545) in C3's shape."""

from __future__ import annotations

from torch import Tensor, nn

from yolorep.nn.conv import Activation
from yolorep.nn.csp import C3
from yolorep.nn.layer_scale import LayerScale
from yolorep.nn.registry import register
from yolorep.nn.reparam import FoldRecord, LinearKernel, trainable_like


class ConvNeXtBlock(nn.Module):
    """``x + scale(fc2(gelu(fc1(norm(conv(x))))))`` with a depth-wise 7×7 conv and a LayerNorm over channels.

    Fusing folds the layer scale into ``fc2``; the LayerNorm depends on its input and stays.

    Shape: (batch, channels, h, w), kept.

    Args:
        ratio: width of the MLP.
    """

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.in_channels = channels
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * channels, channels)
        self.layer_scale: nn.Module = LayerScale(channels, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.layer_scale(self.fc2(self.act(self.fc1(y))))
        return x + y.permute(0, 3, 1, 2)

    def fold_(self) -> list[FoldRecord]:
        scale = self.layer_scale
        if not isinstance(scale, LayerScale):
            return []
        self.fc2 = trainable_like(LinearKernel.of(self.fc2).scaled(scale.gamma).to_linear(), self.fc2, scale)
        self.layer_scale = nn.Identity()
        return [FoldRecord("layer_scale", ("fc2",))]


@register(repeats="inside")
class CNeB(C3):
    """C3 with n ConvNeXt blocks: ``[c2, shortcut=True, g=1, e=0.5]``; the blocks have their own shortcut and groups."""

    def middle(self, hidden: int, n: int, shortcut: bool, g: int, activation: Activation) -> nn.Module:
        return nn.Sequential(*(ConvNeXtBlock(hidden) for _ in range(n)))
