"""Choosing where to compute, and in which precision."""

from __future__ import annotations

import os
from typing import Any

import torch

from yolorep.errors import UserError

#: ``--precision`` to what forward passes are autocast to.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(device: str | int | torch.device) -> torch.device:
    """The device that ``--device`` names.

    Args:
        device: ``cpu``, a CUDA index, ``cuda``, ``cuda:N`` or ``mps``; empty for the first GPU if there is one.

    Raises:
        UserError: if it is not there.
    """
    name = str(device)
    if name == "":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if "," in name:
        raise UserError(f"--device {name}: expected one device, found several, which nothing runs on yet; name one")
    full = f"cuda:{name}" if name.isdigit() else name
    try:
        found = torch.device(full) if len(full) <= len("cuda:99") else None  # torch drops the upper digits of more
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda", "mps"):  # torch knows more, nothing here was tried on them
        raise UserError(f"--device: expected cpu, a CUDA index or mps, found {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= count:
        raise UserError(f"--device {name}: expected one of {count} CUDA devices here; use --device cpu")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: there is no MPS device here; use --device cpu")
    return found


def refuse_launcher() -> None:
    """Make sure that no launcher such as torchrun has started several processes, each to train a copy.

    Raises:
        UserError: if it has.
    """
    if (count := os.environ.get("WORLD_SIZE", "1")) not in ("", "1"):
        raise UserError(f"WORLD_SIZE {count}: expected one process, which is all that trains yet; leave torchrun out")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What ``--precision`` means on a device.

    Args:
        precision: a key of :data:`PRECISIONS`, or ``auto`` for the fastest one that trains as well: fp16 on CUDA, bf16
            on CPUs that multiply matrices in it (AMX), float32 elsewhere.
        device: where the network runs.

    Returns:
        The dtype to autocast to, or None for float32.

    Raises:
        UserError: for fp16 on a CPU, which gains nothing by it.
    """
    if precision == "auto":
        capabilities: dict[str, Any] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # older versions of PyTorch do not tell
        automatic = {"cuda": "fp16", "cpu": "bf16" if capabilities.get("amx_bf16") else "fp32"}
        precision = automatic.get(device.type, "fp32")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: expected a GPU; on CPUs use bf16 or fp32")
    return PRECISIONS[precision]
