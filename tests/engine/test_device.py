"""Choosing where to compute."""

from __future__ import annotations

import pytest
import torch

from yolorep.engine.device import select_device
from yolorep.errors import UserError


def test_cpu() -> None:
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["seven", "meta", "xla", "xpu:0", "vulkan"])
def test_other_devices(name: str) -> None:
    with pytest.raises(UserError, match=f"--device: expected cpu, a CUDA index or mps, found '{name}'"):
        select_device(name)
