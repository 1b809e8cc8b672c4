"""The attention stage of FastViT-SA and -MA (Vasu et al. 2023, arXiv:2303.14189)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from yolorep.nn.fastvit import ConvFFN, drop_rates, initialize_linear_
from yolorep.nn.layer_scale import LayerScale2d
from yolorep.nn.mobileone import BN_EPS, BN_MOMENTUM
from yolorep.nn.registry import check_kept, register, stays
from yolorep.nn.reparam import FoldRecord, LinearKernel, trainable_like
from yolorep.nn.stochastic_depth import StochasticDepth

#: Channels of one attention head.
HEAD_DIM = 32


class Attention(nn.Module):
    """Multi-head self-attention over the pixels of a feature map.

    Shape: (batch, channels, h, w), kept.

    Raises:
        ValueError: if ``channels`` is no multiple of 32, the width of a head.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % HEAD_DIM:
            raise ValueError(f"expected channels in multiples of {HEAD_DIM}, an attention head; found {channels}")
        self.qkv: nn.Module = nn.Linear(channels, 3 * channels, bias=False)
        self.proj: nn.Module = nn.Linear(channels, channels)
        initialize_linear_(self)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (batch, pixels, channels)
        heads = self.qkv(tokens).unflatten(2, (3, -1, HEAD_DIM))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, pixels, 32) each
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


class AttentionBlock(nn.Module):
    """``x + drop_path(layer_scale_1(token_mixer(norm(x))))``, then ``x + drop_path(layer_scale_2(mlp(x)))``.

    Shape: (batch, channels, h, w), kept.

    Args:
        channels: of input and output, a multiple of 32.
        ratio: of the ConvFFN.
        drop_path: probability that an image skips a branch in training, drawn for each of the two.
    """

    def __init__(self, channels: int, ratio: float, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.in_channels = channels
        self.norm: nn.Module = nn.BatchNorm2d(channels, BN_EPS, BN_MOMENTUM)
        self.token_mixer = Attention(channels)
        self.layer_scale_1: nn.Module = LayerScale2d(channels)
        self.mlp = ConvFFN(channels, ratio)
        self.layer_scale_2: nn.Module = LayerScale2d(channels)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1(self.token_mixer(self.norm(x))))
        return x + self.drop_path(self.layer_scale_2(self.mlp(x)))

    def fold_(self) -> list[FoldRecord]:
        records = []
        attention = self.token_mixer
        if isinstance(self.norm, nn.BatchNorm2d):
            folded = LinearKernel.of(_as_linear(attention.qkv)).after_bn(self.norm)
            attention.qkv = trainable_like(folded.to_linear(), attention.qkv, self.norm)
            self.norm = nn.Identity()
            records.append(FoldRecord("norm", ("token_mixer.qkv",)))
        if isinstance(self.layer_scale_1, LayerScale2d):
            folded = LinearKernel.of(_as_linear(attention.proj)).scaled(self.layer_scale_1.gamma.flatten())
            attention.proj = trainable_like(folded.to_linear(), attention.proj, self.layer_scale_1)
            self.layer_scale_1 = nn.Identity()
            records.append(FoldRecord("layer_scale_1", ("token_mixer.proj",)))
        if isinstance(self.layer_scale_2, LayerScale2d):
            self.mlp.fold_scale_(self.layer_scale_2)
            self.layer_scale_2 = nn.Identity()
            records.append(FoldRecord("layer_scale_2", ("mlp.fc2",)))
        return records


@register(repeats="inside", channels=stays)
class FastViTAttention(nn.Sequential):
    """A stage of n attention blocks: ``[ratio=4]``.

    Args:
        ratio: of every ConvFFN.
        drop_path: one rate a block, 0 by default.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, ratio: float = 4.0, *, drop_path: Sequence[float] | None = None
    ) -> None:
        check_kept(c1, c2)
        super().__init__(*(AttentionBlock(c1, ratio, drop_path=rate) for rate in drop_rates(n, drop_path)))


def _as_linear(module: nn.Module) -> nn.Linear:
    """``module`` as the linear layer it is known to be."""
    assert isinstance(module, nn.Linear), type(module)
    return module
