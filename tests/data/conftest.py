from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of this test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("YOLOREP_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets that are not part of the repository."""
    if folder := os.environ.get("YOLOREP_SHARED"):
        return Path(folder)
    pytest.skip("YOLOREP_SHARED is not set: it names the folder with the real data sets")
