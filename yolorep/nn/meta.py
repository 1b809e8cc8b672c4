"""Running a module for the shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def run_on_meta(module: nn.Module, shape: Sequence[int]) -> Any:
    """The output in eval mode for an input of this shape, as tensors without values.

    On the meta device nothing is computed and no BatchNorm statistic can change; the module is left as it was.
    """
    from torch.func import functional_call

    state = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    mode = module.training
    module.eval()
    try:
        return functional_call(module, state, torch.empty(*shape, device="meta"))
    finally:
        module.train(mode)
