"""The exponential moving average of a model's weights, which is what gets evaluated and deployed."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class ModelEma:
    """A copy of a model whose parameters and float buffers trail those of the original.

    The decay grows from 0, because early weights are not worth remembering: after ``n`` updates it is
    ``decay · (1 − exp(−n / tau))``. Integer buffers are copied.

    Args:
        model: The model to follow.
        decay: The decay approached in the long run.
        tau: Updates after which about two thirds of it are reached.

    Attributes:
        model: The averaged model, in eval mode, without gradients.
        updates: Number of updates so far.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.9999, tau: float = 2000.0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.tau = tau
        self.updates = 0

    def decay_at(self, updates: int) -> float:
        """The decay used by update number ``updates``, counted from 1."""
        return self.decay * (1 - math.exp(-updates / self.tau))

    @classmethod
    def over(cls, model: nn.Module, *, updates: float) -> ModelEma:
        """An average over about the last ``updates`` updates, and over fewer in the beginning."""
        updates = max(updates, 1.0)
        return cls(model, decay=1 - 1 / (updates + 1), tau=updates / 2)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model``; call once per optimizer step."""
        self.updates += 1
        averaged, current = [], []
        for mine, theirs in zip(_tensors(self.model), _tensors(model), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, current, 1 - self.decay_at(self.updates))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
