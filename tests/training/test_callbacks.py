"""Checkpoints as a callback."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.training.tiny import tiny_batches, tiny_trainer
from yolorep.training.callbacks import Checkpoints, Plots
from yolorep.training.trainer import EpochResult, Trainer


def result(epoch: int, *, ap: float | None = 0.5, best: bool = True, final: bool = False) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        losses={"box": 0.1, "obj": 0.2, "cls": 0.3},
        metrics={} if ap is None else {"AP": ap, "AP50": 2 * ap},
        learning_rates={"bias": 0.1, "weight": 0.01, "norm": 0.01},
        seconds=1.234,
        best=best,
        final=final,
    )


@pytest.fixture
def trainer() -> Trainer:
    return tiny_trainer()


def write(trainer: Trainer, path: Path) -> None:
    path.write_text(path.name)


@pytest.mark.parametrize(
    ("options", "bests", "expected"),
    [
        ({}, [True, False, False], [["best.pt", "last.pt"], ["last.pt"], ["last.pt"]]),
        (
            {"period": 2},
            [True, False, True],
            [["best.pt", "last.pt"], ["epoch2.pt", "last.pt"], ["best.pt", "last.pt"]],
        ),
        ({"final_only": True, "period": 2}, [True, False, True], [["best.pt"], [], ["best.pt", "last.pt"]]),
        ({"final_only": True, "period": 3}, [False, True, False], [[], ["best.pt"], ["epoch3.pt", "last.pt"]]),
    ],
)
def test_which_checkpoints_are_written(
    tmp_path: Path, trainer: Trainer, options: dict[str, int], bests: list[bool], expected: list[list[str]]
) -> None:
    trainer.progress.best_fitness = 0.5
    checkpoints = Checkpoints(tmp_path, save_last=write, save_best=write, **options)
    for epoch, (best, files) in enumerate(zip(bests, expected, strict=True)):
        for path in tmp_path.iterdir():
            path.unlink()
        checkpoints.on_epoch(trainer, result(epoch, best=best, final=epoch == 2))
        assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_without_evaluation_the_latest_is_the_best(tmp_path: Path, trainer: Trainer) -> None:
    Checkpoints(tmp_path, save_last=write, save_best=write).on_epoch(trainer, result(0, ap=None, best=False))
    assert (tmp_path / "best.pt").exists()


def test_without_evaluation_the_final_one_is_the_only_one_wanted(tmp_path: Path, trainer: Trainer) -> None:
    checkpoints = Checkpoints(tmp_path, save_last=write, save_best=write, final_only=True)
    checkpoints.on_epoch(trainer, result(0, ap=None, best=False))
    assert not list(tmp_path.iterdir())
    checkpoints.on_epoch(trainer, result(1, ap=-1.0, best=False, final=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_the_first_three_batches_are_drawn(tmp_path: Path, trainer: Trainer) -> None:
    plots = Plots(tmp_path, SimpleNamespace(names=("blue", "green")))  # type: ignore[arg-type]
    for iteration, batch in enumerate(tiny_batches(0)):
        plots.on_batch(trainer, batch, iteration)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"train_batch{number}.jpg" for number in range(3)]
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 3
