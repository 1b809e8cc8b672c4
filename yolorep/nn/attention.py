"""Attention rows that keep their channels: CA, over rows and columns, and CB2D, over the whole map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolorep.nn.conv import ConvBN
from yolorep.nn.registry import check_kept, converts_exactly, register


@register(channels=converts_exactly)
class CA(nn.Module):
    """Coordinate attention (Hou et al. 2021, arXiv:2103.02907): ``[c2, reduction=32]``.

    Means over every row and every column pass one shared bottleneck and become two gates, of rows and of columns.

    Shape: (batch, c1, h, w), kept.

    Args:
        reduction: the bottleneck has max(8, c1 // reduction) channels.

    Raises:
        ValueError: unless c1 equals c2.
    """

    def __init__(self, c1: int, c2: int, reduction: int = 32) -> None:
        super().__init__()
        check_kept(c1, c2)
        if reduction < 1:
            raise ValueError(f"expected a reduction of at least 1, found {reduction}")
        hidden = max(8, c1 // reduction)
        self.reduce: nn.Module = ConvBN(c1, hidden)
        self.act = nn.Hardswish()
        self.rows = nn.Conv2d(hidden, c1, 1)
        self.columns = nn.Conv2d(hidden, c1, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        means = torch.cat((x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)), dim=2)
        of_rows, of_columns = self.act(self.reduce(means)).split([height, width], dim=2)
        return x * self.rows(of_rows).sigmoid() * self.columns(of_columns.transpose(2, 3)).sigmoid()


class ContextBlock(nn.Module):
    """Adds to every pixel the same vector, made from an attention-weighted mean of all pixels.

    Its last layer starts at zero, so that a new block changes nothing.

    Shape: (batch, channels, h, w), kept.

    Args:
        ratio: the bottleneck has max(8, channels // ratio) channels; the LayerNorm in it would make constants of fewer.
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        hidden = max(8, channels // ratio)
        self.mask = nn.Conv2d(channels, 1, 1, bias=False)  # softmax does not see a bias
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mask(x).flatten(2).softmax(2)
        context = (x.flatten(2) @ weights.transpose(1, 2)).squeeze(2)
        return x + self.expand(self.norm(self.reduce(context)).relu())[:, :, None, None]


@register(repeats="inside", channels=converts_exactly)
class CB2D(nn.Sequential):
    """n global context blocks (Cao et al. 2019, "GCNet", arXiv:1904.11492): ``[c2]``.

    Raises:
        ValueError: unless c1 equals c2.
    """

    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        check_kept(c1, c2)
        super().__init__(*(ContextBlock(c1) for _ in range(n)))
