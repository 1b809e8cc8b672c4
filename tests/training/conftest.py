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


@pytest.fixture
def plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training here, so only the tests marked for it draw."""
    if "draws" not in request.fixturenames:
        monkeypatch.setattr("yolorep.training.callbacks.Plots.on_end", lambda self, trainer: None)
        monkeypatch.setattr("yolorep.training.run.plot_evaluation", lambda *args: None)


@pytest.fixture
def draws() -> None:
    """Makes a test draw its plots."""
