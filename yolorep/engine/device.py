"""Choosing where to compute."""

from __future__ import annotations

import torch

from yolorep.errors import UserError


def select_device(name: str) -> torch.device:
    """The device that ``--device`` names.

    Args:
        name: ``cpu``, a CUDA index, ``cuda``, ``cuda:N`` or ``mps``; empty for the first GPU if there is one.

    Raises:
        UserError: if it is not there.
    """
    if name == "":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if "," in name:
        raise UserError(f"--device {name}: training on several GPUs is not offered yet; name one")
    try:
        device = torch.device(f"cuda:{name}" if name.isdigit() else name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):  # torch knows more, nothing here was tried on them
        raise UserError(f"--device: expected cpu, a CUDA index or mps, found {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"--device {name}: expected one of {count} CUDA devices here; use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: there is no MPS device here; use --device cpu")
    return device
