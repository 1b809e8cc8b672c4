"""Fixtures of tests that run the train command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.toy_run import write_toy_data


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model.yaml and data.yaml, and nothing else."""
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    write_toy_data(tmp_path)
    return tmp_path
