"""The results table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolorep.evaluation.metrics import METRICS
from yolorep.files import write_text
from yolorep.training.loggers.base import Logger, Row


class ResultsTable(Logger):
    """``results.csv``: one row an epoch, rewritten as a whole so that it is never torn."""

    leaves = ("results.csv",)

    def start(self, folder: Path, *, options: Mapping[str, Any], hyp: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self.path, self.rows = folder / "results.csv", list(rows)

    def epoch(self, row: Row) -> None:
        self.rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, _columns(self.rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows)
        write_text(self.path, text.getvalue())

    def close(self) -> None:
        pass  # the file is whole after every row


def read_rows(path: Path) -> list[dict[str, float]]:
    """The numbers of a ``results.csv``; none if there is no such file."""
    return [{name: float(text) for name, text in row.items() if text} for row in read_results(path)]


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of a ``results.csv`` as they are written; none if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _columns(rows: Sequence[Row]) -> list[str]:
    """The table's columns: those that some row has, every loss also on the images evaluated on, and every metric."""
    names = dict.fromkeys(name for row in rows for name in row)
    losses, rates = ([name for name in names if name.startswith(kind)] for kind in ("train/", "lr/"))
    val = [f"val/{name.removeprefix('train/')}" for name in losses]
    return ["epoch", *losses, *val, *METRICS, *rates, "seconds"]
