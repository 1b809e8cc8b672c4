"""Label files that nobody meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.toy import load, write_yaml, write_yolo
from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case
from tests.hostile.mutate import mutate_bytes, mutate_text, rng

LABELS = """\
0 0.5 0.5 0.25 0.25
1 0.304 0.5002812148 0.6080344609 1.0004374453
2 0.1 0.1 0.4 0.1 0.4 1.03 0.1 0.4
0 0.2 0.2 0.6 0.3 0.4 0.8
"""
POINTS = """\
0 0.208398 0.405289 0.118403 0.186256 0.2125 0.477778 2 0.233854 0.471296 1 0 0 0
1 0.5 0.5 0.4 0.4 0.5 0.5 2 0.6 0.6 2 0.4 0.4 1
"""


def mutated(folder: Path, text: str, key: str, seed: int) -> Case:
    random = rng("labels", seed)
    change = mutate_text(text, random).encode("utf-8", "replace") if seed % 2 else mutate_bytes(text.encode(), random)
    yaml = folder / "data.yaml"

    def write() -> None:
        write_yaml(folder, f"train: images/train\nnames: [a, b, c]\n{key}")
        (folder / "labels/train/000.txt").write_bytes(change)

    return Case(f"labels {seed} {key}", lambda: load(yaml), write)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    write_yolo(tmp_path, count=1)
    return tmp_path


KINDS = [(LABELS, ""), (POINTS, "kpt_shape: [3, 3]\n"), (POINTS, "")]


def test_mutated_files(folder: Path, hostile: Hostile) -> None:
    hostile(mutated(folder, text, key, seed) for text, key in KINDS for seed in range(12))


@pytest.mark.slow
def test_many_mutated_files(folder: Path, hostile: Hostile) -> None:
    hostile(mutated(folder, text, key, seed) for text, key in KINDS for seed in range(12, 120))


LARGE = {
    "digits": "9" * 5000 + " .5 .5 .1 .1",
    "columns": "0 " * 100_000,
    "rows": "0 .5 .5 .1 .1\n" * 100_000,
    "extremes": "1e308 1e-320 .5 .1 .1",
    "lines": "\n" * 1_000_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_files(name: str, folder: Path, hostile: Hostile) -> None:
    (folder / "labels/train/000.txt").write_text(LARGE[name])
    hostile([Case(f"large labels {name}", lambda: load(folder / "data.yaml"))])
