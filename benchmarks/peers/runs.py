"""One run of a benchmark: trained, scored, recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from yolorep.data.annotations import Annotations
from yolorep.data.catalog import load_data_config
from yolorep.data.scan import load_annotations
from yolorep.files import write_text

from .machine import machine, now, versions
from .program import Program, Trained
from .store import Key, Record

#: Splits that are scored, if the data set has them.
SCORED = ("val", "test")


def load_splits(data: str) -> dict[str, Annotations]:
    """The annotations of every split that a dataset YAML has."""
    config = load_data_config(data)
    return {split: load_annotations(config, split) for split in ("train", *SCORED) if split in config.splits}


def train_and_score(
    program: Program,
    key: Key,
    *,
    folder: Path,
    splits: Mapping[str, Annotations],
    sitting: str,
    threads: int,
    redo: bool = False,
) -> Record:
    """Trains, unless the folder holds the finished training of an interrupted run, and scores.

    Args:
        program: which trains.
        key: what.
        folder: for everything the run writes.
        splits: as :func:`load_splits` makes them.
        sitting: the invocation.
        threads: of the training process.
        redo: train in any case.

    Raises:
        ProgramFailed: if the program fails.
    """
    done = folder / "trained.json"
    if redo or not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        trained = program.train(key, folder)
        content = {
            "sitting": sitting,
            "date": now(),
            "wall_seconds": trained.wall_seconds,
            "threads": threads,
            "weights": str(trained.weights),
            "machine": machine(),
            "versions": versions(),
        }
        # Kept apart from the scores: a training is not lost if scoring is interrupted.
        write_text(done, json.dumps(content, indent=2))
    content = json.loads(done.read_text(encoding="utf-8"))
    trained = Trained(Path(content["weights"]), content["wall_seconds"])
    scored = {split: annotations for split, annotations in splits.items() if split in SCORED}
    evaluated = program.evaluate(key, trained.weights, folder, scored)
    aps = ", ".join(f"{split} {scores['AP']:.3f}" for split, scores in evaluated.scores.items())
    print(f"  AP {aps}; {trained.wall_seconds:.0f} s", flush=True)
    return Record(key=key, **content, **asdict(evaluated))
