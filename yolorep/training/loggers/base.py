"""What every logger does, and the numbers it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from yolorep.evaluation.metrics import METRICS

#: One epoch's numbers by name: ``epoch`` from 1, ``train/<term>``, ``val/<term>``, the metrics, ``lr/<group>``,
#: ``seconds``; without those that were not measured.
Row = Mapping[str, float]


class Logger(Protocol):
    """Takes the numbers of a run. A new one is a class and a line in :data:`LOGGERS`.

    Attributes:
        requires: Module that must be importable; empty for none. The extra of the logger's name installs it.
        environment: Variables that keep that module from calling home, set before its import where the user has not.
        leaves: Patterns of what it leaves in a run folder.
    """

    requires: ClassVar[str] = ""
    environment: ClassVar[Mapping[str, str]] = {}
    leaves: ClassVar[tuple[str, ...]] = ()

    def start(self, folder: Path, *, options: Mapping[str, Any], hyp: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Begin, or go on.

        Args:
            folder: The run folder.
            options: The run's options, plain values.
            hyp: Its recipe, plain values.
            rows: The epochs so far; none in a new run. Epochs logged beyond them will be repeated.
        """

    def epoch(self, row: Row) -> None:
        """Take the numbers of the next epoch."""

    def close(self) -> None:
        """The run is over, or interrupted."""


def tagged(row: Row) -> dict[str, float]:
    """An epoch's numbers by the names that dashboards group: ``train/…``, ``val/…``, ``metrics/…``, ``lr/…``."""
    return {f"metrics/{name}" if name in METRICS else name: row[name] for name in row if name != "epoch"}
