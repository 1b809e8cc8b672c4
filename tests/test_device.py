"""Choosing where to compute."""

from __future__ import annotations

import pytest
import torch

from yolorep.device import autocast_dtype, select_device
from yolorep.errors import UserError


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_cpu(device: str | torch.device) -> None:
    assert select_device(device) == torch.device("cpu")


def test_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in (1, "1", "cuda:1", torch.device("cuda:1")):
        assert select_device(device) == torch.device("cuda:1")
    with pytest.raises(UserError, match="--device 2: expected one of 2 CUDA devices"):
        select_device(2)
    with pytest.raises(UserError, match="--device: expected cpu, a CUDA index or mps, found '-1'"):
        select_device(-1)


@pytest.mark.parametrize("name", ["seven", "meta", "xla", "xpu:0", "vulkan"])
def test_other_devices(name: str) -> None:
    with pytest.raises(UserError, match=f"--device: expected cpu, a CUDA index or mps, found '{name}'"):
        select_device(name)


def test_several_devices() -> None:
    with pytest.raises(UserError, match="--device 0,1: expected one device, found several, .*; name one"):
        select_device("0,1")


@pytest.mark.parametrize(
    ("precision", "device", "amx", "expected"),
    [
        ("auto", "cpu", True, torch.bfloat16),
        ("auto", "cpu", False, None),
        ("auto", "cuda", False, torch.float16),
        ("auto", "mps", True, None),
        ("fp32", "cuda", True, None),
        ("bf16", "cpu", False, torch.bfloat16),
        ("fp16", "cuda:1", False, torch.float16),
    ],
)
def test_precision(
    precision: str, device: str, amx: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    assert autocast_dtype(precision, torch.device(device)) == expected


def test_precision_without_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert autocast_dtype("auto", torch.device("cpu")) is None


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="--precision fp16: expected a GPU"):
        autocast_dtype("fp16", torch.device("cpu"))
