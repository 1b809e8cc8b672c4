"""What several tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.inference.white_box import write_white_box


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small models gain nothing from threads, and threads that wait for a busy core make them many times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images and weights, where YOLOREP_SHARED says they are."""
    folder = os.environ.get("YOLOREP_SHARED")
    if not folder:
        pytest.skip("YOLOREP_SHARED is not set: it names a folder with real images and weights")
    return Path(folder)


@pytest.fixture(scope="session")
def white_box(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that find a white rectangle."""
    return str(write_white_box(tmp_path_factory.mktemp("white_box") / "white.torchscript"))
