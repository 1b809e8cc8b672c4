"""The exponential moving average of a model's weights, which is what gets evaluated and deployed."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


def decay_at(updates: int, *, decay: float, tau: float) -> float:
    """The decay used by an update.

    It grows from 0, because early weights are not worth remembering: ``decay · (1 − exp(−updates / tau))``.

    Args:
        updates: The update's number, counted from 1.
        decay: The decay approached in the long run.
        tau: Updates after which about two thirds of it are reached.
    """
    return decay * (1 - math.exp(-updates / tau))


class ModelEma:
    """A copy of a model whose parameters and float buffers trail those of the original.

    Integer buffers are copied.

    Args:
        model: The model to follow.
        decay: The decay approached in the long run; see :func:`decay_at`.
        tau: Updates after which about two thirds of it are reached.

    Attributes:
        model: The averaged model, in eval mode, without gradients.
        updates: Number of updates so far.
    """

    def __init__(self, model: nn.Module, *, decay: float, tau: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.tau = tau
        self.updates = 0

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
        torch._foreach_lerp_(averaged, current, 1 - decay_at(self.updates, decay=self.decay, tau=self.tau))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
