"""AP against training time and against latency, as pictures."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from yolorep.files import atomic_write

from .report import Row

#: Okabe & Ito (2008): told apart with every kind of colour vision.
_COLOURS = {"yolorep": "#D55E00", "ultralytics": "#0072B2"}
_MARKERS = "osD^vP*X<>"


def plot_wall_time(rows: Sequence[Row], path: Path, *, split: str) -> None:
    """AP against minutes of training; no file if no row has both."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    drawn = _scatter(axes, rows, lambda row: statistics.fmean(row.wall) / 60 if row.wall else None, split)
    axes.set(xlabel="training, minutes", ylabel=f"AP {split}", title="AP against training time")
    if drawn:
        _save(figure, path)


def plot_latency(rows: Sequence[Row], path: Path, *, split: str, imgsz: int) -> None:
    """AP against latency, a panel for each runtime; no file if no row has both.

    Args:
        rows: to draw.
        path: PNG to write.
        split: whose AP.
        imgsz: pixels of the latency.
    """
    runtimes = sorted({runtime for row in rows for runtime, pixels in row.latency if pixels == imgsz}, key=str.lower)
    if not runtimes:
        return
    figure = Figure(figsize=(4 * len(runtimes) + 2.5, 4), layout="constrained")
    drawn = False
    for axes, runtime in zip(figure.subplots(1, len(runtimes), sharey=True, squeeze=False)[0], runtimes, strict=True):
        key = (runtime, imgsz)

        def median(row: Row, key: tuple[str, int] = key) -> float | None:
            return row.latency[key].median if key in row.latency else None

        drawn |= _scatter(axes, rows, median, split)
        axes.set(xlabel=f"{runtime}, {imgsz} px, ms an image", ylabel=f"AP {split}", title=f"AP against {runtime}")
    if drawn:
        _save(figure, path)


def _scatter(axes: Axes, rows: Sequence[Row], x_of: Callable[[Row], float | None], split: str) -> bool:
    drawn = False
    for row, marker in zip(rows, itertools.cycle(_MARKERS)):
        x, values = x_of(row), row.values(split, "AP")
        if x is None or not values:
            continue
        mean = statistics.fmean(values)
        # The bar: from the worst to the best seed.
        bar = [[mean - min(values)], [max(values) - mean]]
        label = f"{row.label}, {row.epochs} epochs"
        axes.errorbar(x, mean, yerr=bar, fmt=marker, color=_COLOURS[row.program], markersize=8, capsize=3, label=label)
        drawn = True
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15, y=0.15)
    return drawn


def _save(figure: Figure, path: Path) -> None:
    # One legend for all panels, which share their markers.
    entries = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", fontsize=8, frameon=False)
    with atomic_write(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, dpi=110, format="png")
