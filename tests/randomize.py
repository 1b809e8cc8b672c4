"""Weights as training leaves them: with fresh BatchNorm statistics a wrong fold passes."""

from __future__ import annotations

import torch
from torch import nn

from yolorep.nn.layer_scale import LayerScale


@torch.no_grad()
def randomize_(module: nn.Module, *, seed: int = 0, extreme: bool = False) -> nn.Module:
    """Gives every norm and layer scale values far from their defaults, negative and zero gains of norms among them.

    Args:
        module: changed in place.
        seed: of the values.
        extreme: variances from 1e-12 to 1e4.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like) * (high - low) + low

    for scale in module.modules():
        if isinstance(scale, LayerScale):
            scale.gamma.copy_(uniform(scale.gamma, -1.5, 1.5))
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            norm.running_mean.copy_(uniform(norm.running_mean, -1, 1))
            norm.running_var.copy_(uniform(norm.running_var, 0.3, 3))
            if extreme:
                norm.running_var[::2] = 1e-12
                norm.running_var[1::3] = 1e4
            if norm.affine:
                norm.weight.copy_(uniform(norm.weight, -1.5, 1.5))
                norm.bias.copy_(uniform(norm.bias, -1, 1))
                norm.weight[: len(norm.weight) // 8] = 0
    return module
