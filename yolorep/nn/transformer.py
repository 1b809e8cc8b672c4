"""The transformer inside C3TR (Dosovitskiy et al. 2020, arXiv:2010.11929, without layer norms)."""

from __future__ import annotations

from torch import Tensor, nn

from yolorep.nn.conv import Activation, Conv


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer map, both residual, without norms.

    Shape: (tokens, batch, channels), kept.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(channels, channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.ma = nn.MultiheadAttention(channels, heads)
        self.fc1 = nn.Linear(channels, channels, bias=False)
        self.fc2 = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)[0]
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """A learned position map and n transformer layers over the pixels of a feature map.

    Shape: (batch, c1, h, w) -> (batch, c2, h, w).
    """

    def __init__(self, c1: int, c2: int, heads: int, layers: int, *, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        self.conv = Conv(c1, c2, activation=activation) if c1 != c2 else nn.Identity()
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape)
