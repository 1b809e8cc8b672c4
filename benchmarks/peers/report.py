"""The table of a setting: rows of runs, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .latency import Latency
from .store import Record

#: What a table shows where nothing was measured.
DASH = "–"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: the runs of all seeds of a model.

    Attributes:
        program: whose.
        label: the model, and what is special about it.
        epochs: of training; 0 if only the latency is known.
        scores: one entry a run: split -> COCO numbers.
        params: parameters of the deployed form; 0 if not known.
        wall: seconds of each run of the one sitting whose wall times compare.
        latency: (runtime, pixels) -> measurement.
    """

    program: str
    label: str
    epochs: int = 0
    scores: Sequence[dict[str, dict[str, Any]]] = ()
    params: int = 0
    wall: Sequence[float] = ()
    latency: dict[tuple[str, int], Latency] = field(default_factory=dict)

    def values(self, split: str, metric: str) -> list[float]:
        """A metric of each run; empty if the split was not measured."""
        return [scores[split][metric] for scores in self.scores if split in scores]


def make_rows(records: Sequence[Record], latencies: Sequence[Latency], *, sitting: str | None) -> list[Row]:
    """Groups runs by model and epochs; a network of which only the latency is known gets a row too.

    Args:
        records: of one setting, those of a model and its epochs together.
        latencies: of one sitting.
        sitting: the one whose wall times compare; None if there is none.

    Returns:
        Peers first, then ours; the best of each last.
    """
    by_network: dict[tuple[str, str], dict[tuple[str, int], Latency]] = {}
    for entry in latencies:
        by_network.setdefault((entry.program, entry.network), {})[entry.runtime, entry.imgsz] = entry
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.key.program, record.key.label, record.key.epochs), []).append(record)
    rows = []
    shown = set()
    for (program, label, epochs), runs in groups.items():
        wall = [run.wall_seconds for run in runs if sitting and run.sitting == sitting]
        nms_free = [run.scores_nms_free for run in runs if run.scores_nms_free]
        for variant, scores in {"": [run.scores for run in runs], ", NMS-free": nms_free}.items():
            network = (program, f"{runs[0].key.network}{variant}")
            if scores:
                shown.add(network)
                rows.append(
                    Row(
                        program=program,
                        label=f"{label}{variant}",
                        epochs=epochs,
                        scores=scores,
                        params=runs[0].params_deployed,
                        wall=wall,
                        latency=by_network.get(network, {}),
                    )
                )
    rows += [
        Row(program=network[0], label=network[1], latency=latency)
        for network, latency in by_network.items()
        if network not in shown
    ]
    return sorted(rows, key=lambda row: (row.program == "yolorep", statistics.fmean(row.values("val", "AP") or [-1])))


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: a mean ± half the range over the seeds, a median ± half the quartiles' distance."""
    splits = [split for split in ("val", "test") if any(row.values(split, "AP") for row in rows)]
    measured = sorted({key for row in rows for key in row.latency}, key=lambda key: (key[0].lower(), key[1]))
    head = ["model", "epochs", "seeds", "M parameters"]
    head += [f"{metric} {split}" for split in splits for metric in ("AP", "AP50")]
    head += ["wall s", *(f"{runtime} {pixels} ms" for runtime, pixels in measured)]
    lines = []
    for row in rows:
        cells = [row.label, str(row.epochs or DASH), str(len(row.scores) or DASH)]
        cells.append(f"{row.params / 1e6:.2f}" if row.params else DASH)
        cells += [spread(row.values(split, metric), 3) for split in splits for metric in ("AP", "AP50")]
        cells.append(spread(row.wall, 0))
        for key in measured:
            entry = row.latency.get(key)
            cells.append(f"{entry.median:.1f} ±{(entry.high - entry.low) / 2:.1f}" if entry else DASH)
        lines.append(cells)
    table = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def class_table(rows: Sequence[Row], split: str) -> str:
    """AP of each class on a split, as Markdown: the mean over the seeds."""
    scored = [row for row in rows if row.values(split, "AP")]
    names = [entry["name"] for entry in scored[0].scores[0][split]["per_class"]]
    lines = [["model", *names], ["---"] * (len(names) + 1)]
    for row in scored:
        runs = [scores[split]["per_class"] for scores in row.scores if split in scores]
        means = [statistics.fmean(run[index]["AP"] for run in runs) for index in range(len(names))]
        lines.append([f"{row.label}, {row.epochs} epochs", *(f"{mean:.3f}" if mean >= 0 else DASH for mean in means)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Sequence[float], digits: int) -> str:
    """A mean, with half the range behind it if there are several values."""
    if not values:
        return DASH
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ±{(max(values) - min(values)) / 2:.{digits}f}"
