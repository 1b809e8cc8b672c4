"""Counting floating-point operations without computing anything."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def count_flops(model: nn.Module, example: Tensor) -> dict[str, int]:
    """FLOPs (two a multiply-add of convolutions, linear layers and matrix products) of every module.

    Runs on the meta device: no memory is touched, no statistics change.

    Args:
        model: any module; its mode does not matter.
        example: an input; only its shape is used.

    Returns:
        Module name to FLOPs; ``""`` is the whole model.
    """
    from torch.utils.flop_counter import FlopCounterMode  # late: it imports triton

    # Parameters are swapped for meta tensors in a shallow rebuild, so that nothing is copied.
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta
    ghost = copy.deepcopy(model, memo).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        ghost(torch.empty_like(example, device="meta"))
    root = type(ghost).__name__
    counts = {"": counter.get_total_flops()}
    for name, operations in counter.get_flop_counts().items():
        if name.startswith(f"{root}."):
            counts[name[len(root) + 1 :]] = sum(operations.values())
    return counts
