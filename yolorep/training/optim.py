"""Parameter groups, optimizers, and learning rate, momentum and accumulation as pure functions of the iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from yolorep.config import Hyp

#: Iterations the warm-up takes at least.
MIN_WARMUP = 100
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_OPTIMIZERS = ("SGD", "Adam", "AdamW")


@dataclass(frozen=True)
class Schedule:
    """What changes during a run, as functions of the iteration (counted from 0 over the whole run).

    Learning rates decay once per epoch, linearly or along a half cosine, from ``lr0`` to ``lr0 · lrf``. During the
    warm-up they come from 0, those of biases from ``warmup_bias_lr``; the momentum rises and so does the number of
    batches accumulated per optimizer step.

    Attributes:
        hyp: Hyperparameters.
        epochs: Length of the run.
        batches: Iterations per epoch.
        batch_size: Images per iteration.
        cosine: Decay along a half cosine.
    """

    hyp: Hyp
    epochs: int
    batches: int
    batch_size: int
    cosine: bool = False

    @property
    def warmup(self) -> int:
        """Iterations of warm-up; none at all if the recipe asks for none."""
        if self.hyp.warmup_epochs == 0:
            return 0
        wanted = max(round(self.hyp.warmup_epochs * self.batches), MIN_WARMUP)
        return min(wanted, round(self.hyp.warmup_share * self.epochs * self.batches))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run, as if there were no warm-up of the accumulation."""
        return self.epochs * math.ceil(self.batches / self.accumulate)

    @property
    def accumulate(self) -> int:
        """Iterations per optimizer step after the warm-up."""
        return max(round(self.hyp.nbs / self.batch_size), 1)

    @property
    def weight_decay(self) -> float:
        """Weight decay for the number of images an optimizer step sees."""
        return self.hyp.weight_decay * self.batch_size * self.accumulate / self.hyp.nbs

    def decay_at(self, epoch: int) -> float:
        """Share of the initial learning rate in ``epoch``."""
        done = epoch / self.epochs
        left = (1 + math.cos(math.pi * done)) / 2 if self.cosine else 1 - done
        return left * (1 - self.hyp.lrf) + self.hyp.lrf

    def lr_at(self, iteration: int, *, bias: bool = False) -> float:
        """Learning rate of an iteration, of biases or of everything else."""
        target = self.hyp.lr0 * self.decay_at(iteration // self.batches)
        return self._warm_up(iteration, self.hyp.warmup_bias_lr if bias else 0.0, target)

    def momentum_at(self, iteration: int) -> float:
        """SGD momentum of an iteration."""
        return self._warm_up(iteration, self.hyp.warmup_momentum, self.hyp.momentum)

    def accumulate_at(self, iteration: int) -> int:
        """Batches per optimizer step at an iteration."""
        return max(round(self._warm_up(iteration, 1, self.hyp.nbs / self.batch_size)), 1)

    def _warm_up(self, iteration: int, start: float, end: float) -> float:
        if iteration >= self.warmup:
            return end
        return start + (end - start) * iteration / self.warmup

    def apply(self, optimizer: torch.optim.Optimizer, iteration: int) -> None:
        """Set the optimizer's learning rates and momentum for an iteration."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr_at(iteration, bias=group["name"] == "bias")
            if "momentum" in group:
                group["momentum"] = self.momentum_at(iteration)


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Trainable parameters as ``bias``, ``weight`` and ``norm`` groups; only weights decay.

    Decaying a bias or the scale of a normalization would pull the function itself towards zero, not its complexity.
    Parameters that are neither (layer scales, positions) count as norms.
    """
    bias: list[nn.Parameter] = []
    weight: list[nn.Parameter] = []
    norm: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            if name.endswith("bias"):
                bias.append(parameter)
            elif name.endswith("weight") and not isinstance(module, _NORMS):
                weight.append(parameter)
            else:
                norm.append(parameter)
    return [
        {"name": "bias", "params": bias, "weight_decay": 0.0},
        {"name": "weight", "params": weight, "weight_decay": weight_decay},
        {"name": "norm", "params": norm, "weight_decay": 0.0},
    ]


def build_optimizer(
    name: str, model: nn.Module, *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW over :func:`parameter_groups`.

    Args:
        name: ``SGD``, ``Adam`` or ``AdamW``.
        model: The model to train.
        lr: Initial learning rate.
        momentum: Momentum, or beta1 of Adam.
        weight_decay: Weight decay of the ``weight`` group.

    Raises:
        ValueError: on another name.
    """
    groups = parameter_groups(model, weight_decay=weight_decay)
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, foreach=True)
    if name == "Adam":
        return torch.optim.Adam(groups, lr=lr, betas=(momentum, 0.999), foreach=True)
    if name == "AdamW":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), foreach=True)
    raise ValueError(f"optimizer: expected one of {', '.join(_OPTIMIZERS)}, got {name!r}")
