"""Fixtures of tests that run the train command."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.training.toy_run import MODEL


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model.yaml and data.yaml, and nothing else."""
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for index in range(count):
            image = np.full((64, 64, 3), 40, np.uint8)
            x, y, kind = rng.integers(0, 32), rng.integers(0, 32), rng.integers(0, 2)
            image[y : y + 30, x : x + 30, kind] = 250
            cv2.imwrite(str(tmp_path / "images" / split / f"{index}.png"), image)
            row = f"{kind} {(x + 15) / 64} {(y + 15) / 64} {30 / 64} {30 / 64}\n"
            (tmp_path / "labels" / split / f"{index}.txt").write_text(row)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    (tmp_path / "data.yaml").write_text("{train: images/train, val: images/val, names: [blue, green]}")
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
