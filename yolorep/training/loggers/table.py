"""The results table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolorep.errors import UserError, first_line
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


def rows_of_epochs(path: Path, *, epochs: int) -> list[dict[str, float]]:
    """The numbers of the first epochs in a ``results.csv``; none if there is no such file.

    Raises:
        UserError: if it is damaged, or lacks the last of these epochs.
    """
    if not path.is_file():
        return []
    try:
        rows = read_rows(path)
        kept = [row for row in rows if row["epoch"] <= epochs]
        numbers = [row["epoch"] for row in kept]
        columns = [list(row) for row in read_results(path)[:1]]
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise _damaged(path, f"something else ({first_line(error)[:100]})") from error
    if columns and columns[0] != _columns([dict.fromkeys(columns[0], 0.0)]):
        raise _damaged(path, f"the columns {', '.join(map(str, columns[0]))[:200]}")
    if numbers != list(range(epochs - len(kept) + 1, epochs + 1)) or (epochs and not kept):
        raise _damaged(path, f"those of {len(kept)} epochs of {epochs}")
    return kept


def read_rows(path: Path) -> list[dict[str, float]]:
    """The numbers of a ``results.csv``; none if there is no such file."""
    return [{name: float(text) for name, text in row.items() if text} for row in read_results(path)]


def _damaged(path: Path, found: str) -> UserError:
    return UserError(
        f"{path}: expected a row of numbers for each epoch so far, found {found}; put the table back, or remove it to "
        "begin a new one"
    )


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
