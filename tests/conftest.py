"""What several tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    """More threads than cores slow small models down."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights, where YOLOREP_SHARED says they are."""
    folder = os.environ.get("YOLOREP_SHARED")
    if not folder:
        pytest.skip("YOLOREP_SHARED is not set: it names a folder with real images and weights")
    return Path(folder)
