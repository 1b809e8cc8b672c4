"""Plots of a run: curves, confusions, label statistics."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.errors import UserError
from yolorep.files import atomic_write
from yolorep.fonts import Fonts, machine_fonts, readable_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe & Ito (2008), "Color Universal Design": told apart with every kind of colour vision. Yellow is left out: it
#: is too light for a line on white.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in a class name is one
    "savefig.dpi": 130,
}
#: Up to this many classes get a line colour and a legend entry each.
FEW_CLASSES = len(LINES)
#: Up to this many classes the cells of a confusion matrix have room for a number.
LEGIBLE_CLASSES = 200


def plot_results(csv_path: Path, out: Path) -> None:
    """Plots ``results.csv``: each loss in training and on val, the APs and the learning rates over the epochs.

    Args:
        csv_path: table with the columns ``epoch``, ``train/*``, perhaps ``val/*`` of the same terms, ``AP*`` and
            ``lr/*``; empty cells and the -1 that stands for "no such objects" leave gaps.
        out: picture to write.

    Raises:
        UserError: if the table has no rows.
    """
    from matplotlib.ticker import MaxNLocator

    with csv_path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UserError(f"{csv_path}: expected one row an epoch, found none: nothing to plot")
    columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    epochs = columns["epoch"]
    losses = [name.removeprefix("train/") for name in columns if name.startswith("train/")]
    rates = {name.removeprefix("lr/"): values for name, values in columns.items() if name.startswith("lr/")}

    def pick(names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        return {name: np.where(columns[name] < 0, np.nan, columns[name]) for name in names if name in columns}

    with _picture(out, 4 * max(len(losses), 3), 6.4) as figure:
        grid = figure.add_gridspec(2, 3 * max(len(losses), 1))
        for i, name in enumerate(losses):
            axes = figure.add_subplot(grid[0, 3 * i : 3 * i + 3])
            kinds = {kind: columns[f"{kind}/{name}"] for kind in ("train", "val") if f"{kind}/{name}" in columns}
            _curves(axes, epochs, kinds)
            axes.set_title(f"{name} loss")
        third = max(len(losses), 1)
        ap = figure.add_subplot(grid[1, :third])
        _curves(ap, epochs, pick(["AP", "AP50", "AP75"]))
        ap.set_title("COCO AP on val")
        values = pick(["AP"]).get("AP", np.full(len(epochs), np.nan))
        if np.isfinite(values).any():
            best = int(np.nanargmax(values))
            ap.plot(epochs[best], values[best], "o", color=LINES[0], markersize=7, markeredgecolor="white")
            ap.set_title(f"COCO AP on val (best {values[best]:.3f} in epoch {epochs[best]:.0f})")
        sizes = figure.add_subplot(grid[1, third : 2 * third])
        _curves(sizes, epochs, pick(["APs", "APm", "APl"]))
        sizes.set_title("AP of small, medium and large objects")
        rate = figure.add_subplot(grid[1, 2 * third :])
        _curves(rate, epochs, rates)
        rate.set_title("learning rate")
        for axes in figure.axes:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.set(xlim=(epochs[0] - 0.5, epochs[-1] + 0.5), ylim=(0, None))


def plot_pr_curve(
    precision: NDArray[np.float64], names: Sequence[str], out: Path, *, fonts: Fonts | None = None
) -> None:
    """Plots precision over recall at IoU 0.5, and each class's AP as bars.

    Args:
        precision: pycocotools' ``COCOeval.eval["precision"]``: (10 IoUs, 101 recalls, classes, areas, limits), -1 for
            classes without objects. All areas and the highest limit are shown.
        names: class names in the order of the third axis.
        out: picture to write.
        fonts: what class names are drawn with; by default what the machine has.
    """
    fonts = fonts or machine_fonts()
    names = readable_names(names, fonts)
    curves = np.where(precision[:, :, :, 0, -1] < 0, np.nan, precision[:, :, :, 0, -1])  # (10, 101, classes)
    present = np.flatnonzero(np.isfinite(curves[0, 0]))
    ap, ap50 = curves.mean(axis=(0, 1)), curves[0].mean(axis=0)
    order = present[np.argsort(ap[present], kind="stable")]
    parts = math.ceil(len(order) / 30) or 1  # so many columns of bars
    height = max(30 if parts > 1 else 0, math.ceil(len(order) / min(parts, 6)))
    bars = np.array_split(order[::-1], min(parts, 6))
    with _picture(out, 8 + max(3.4 * len(bars), 5), max(5.6, 0.19 * height + 0.8), fonts.families(names)) as figure:
        grid = figure.add_gridspec(1, 1 + len(bars), width_ratios=[8, *[max(3.4, 5 / len(bars))] * len(bars)])
        curve = figure.add_subplot(grid[0], xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
        curve.set(title="Precision over recall at IoU 0.5", box_aspect=1, anchor="N")
        recall = np.linspace(0, 1, curves.shape[1])
        labels = [f"{name} {value:.3f}" for name, value in zip(names, ap50, strict=True)]
        mean = ap50[present].sum() / max(len(present), 1)
        _class_curves(curve, recall, curves[0].T, labels, mean=f"mean of classes {mean:.3f}")
        if len(present):
            curve.legend(title="AP50", loc="upper left", bbox_to_anchor=(1, 1), alignment="left")
        for i, classes in enumerate(bars):
            axes = figure.add_subplot(grid[1 + i], xlim=(0, 1), ylim=(max(len(bars[0]), 10) - 0.4, -0.6))
            rows = np.arange(len(classes))
            axes.barh(rows, ap50[classes], color="#bcd9ec", label="AP50")
            axes.barh(rows, ap[classes], color=LINES[0], label="AP")
            axes.set_yticks(rows, [names[k] for k in classes])
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
            if i == 0:
                axes.set_title("AP of each class")
            if i == len(bars) - 1:
                axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)


def plot_confidence_curves(
    thresholds: NDArray[np.float64],
    curves: Mapping[str, NDArray[np.float64]],
    names: Sequence[str],
    out: Path,
    *,
    best: float | None,
    fonts: Fonts | None = None,
) -> None:
    """Plots what depends on the least confidence asked for, side by side.

    Args:
        thresholds: (t,) confidences.
        curves: (classes, t) values by title, NaN for classes without objects.
        names: class names.
        out: picture to write.
        best: confidence to mark, if any.
        fonts: what class names are drawn with; by default what the machine has.
    """
    fonts = fonts or machine_fonts()
    names = readable_names(names, fonts)
    with _picture(out, 4.2 * len(curves) + 2, 4.2, fonts.families(names)) as figure:
        every_axes = figure.subplots(1, len(curves), sharey=True)
        for axes, (title, values) in zip(every_axes, curves.items(), strict=True):
            _class_curves(axes, thresholds, values, names, mean="mean of classes")
            axes.set(title=title, xlabel="confidence", xlim=(0, 1), ylim=(0, 1.01))
            if best is not None:
                mean = np.nanmean(values, axis=0)
                value = float(mean[np.searchsorted(thresholds, best)])
                axes.axvline(best, color="black", lw=1, ls="--", label=f"best confidence {best:g}")
                axes.plot(best, value, "o", color="black", markersize=5)
                axes.set_title(f"{title} ({value:.3f} at {best:g})")
        if axes.lines:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def plot_confusion_matrix(
    matrix: NDArray[np.int64],
    names: Sequence[str],
    out: Path,
    *,
    normalized: bool = False,
    fonts: Fonts | None = None,
) -> None:
    """Plots a confusion matrix: a column for each true class, a row for each detected one, the background last.

    Args:
        matrix: (classes + 1, classes + 1) as ``confusion_matrix`` returns.
        names: class names.
        out: picture to write.
        normalized: shares of each column instead of counts.
        fonts: what class names are drawn with; by default what the machine has.
    """
    from matplotlib.colors import PowerNorm

    fonts = fonts or machine_fonts()
    names = readable_names(names, fonts)
    labels = [*names, "background"]
    count = len(labels)
    few = count <= 21
    values = matrix.T / np.maximum(matrix.sum(axis=1), 1) if normalized else matrix.T
    side = min(max(4.0, 0.62 * count if few else 0.19 * count), 40)
    longest = 0.08 * min(max(map(len, labels)), 60)  # inches, about
    with _picture(out, side + longest + 1.4, side + longest + 0.4, fonts.families(names)) as figure:
        axes = figure.subplots()
        # The root makes rare confusions visible: of many classes only colour tells, and counts differ a lot.
        norm = PowerNorm(1 if few and normalized else 0.5, vmin=0, vmax=1 if normalized else max(int(matrix.max()), 1))
        picture = axes.imshow(values, cmap="Blues", norm=norm)
        small = 9 if few else 8
        upright = max(map(len, labels)) * count > 60
        axes.set_xticks(range(count), labels, rotation=90 if upright else 0, fontsize=small)
        axes.set_yticks(range(count), labels, fontsize=small)
        title = "shares of each true class" if normalized else "counts"
        axes.set(xlabel="true class", ylabel="detected as", title=f"Confusions, as {title}")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        # The line sets missed objects and false alarms apart from confusions.
        axes.axhline(count - 1.5, color="#9a9a9a", lw=0.8)
        axes.axvline(count - 1.5, color="#9a9a9a", lw=0.8)
        for row, column in np.argwhere(values) if count <= LEGIBLE_CLASSES else ():
            value = values[row, column]
            colour = "white" if norm(value) > 0.55 else "black"
            text = f"{value:.2f}" if normalized else f"{value}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8 if few else 5)
        figure.colorbar(picture, ax=axes, shrink=0.6, aspect=30).outline.set_visible(False)


def plot_labels(
    class_ids: NDArray[Any],
    boxes: NDArray[np.float32],
    names: Sequence[str],
    out: Path,
    *,
    fonts: Fonts | None = None,
) -> None:
    """Plots the labels of a data set: objects a class, box outlines, centres and sizes.

    Args:
        class_ids: (n,) classes.
        boxes: (n, 4) ``cx, cy, w, h`` normalized to 0..1.
        names: class names.
        out: picture to write.
        fonts: what class names are drawn with; by default what the machine has.
    """
    fonts = fonts or machine_fonts()
    names = readable_names(names, fonts)
    counts = np.bincount(class_ids.astype(np.int64), minlength=len(names))
    crowded = len(names) > 12
    with _picture(out, max(11.0, min(0.13 * len(names) + 6, 20)), 8.4, fonts.families(names)) as figure:
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.2))  # type: ignore[misc]
        histogram = top.subplots()
        columns = histogram.bar(range(len(names)), counts, color=LINES[0])
        histogram.set_xticks(range(len(names)), names, rotation=90 if crowded else 0, fontsize=7 if crowded else 9)
        histogram.set(xlim=(-0.6, len(names) - 0.4), title=f"{len(class_ids)} objects by class")
        histogram.grid(visible=False, axis="x")
        if counts.any() and counts.max() > 20 * np.median(counts[counts > 0]):
            histogram.set(yscale="log", ylim=(0.7, None), title=f"{len(class_ids)} objects by class, log scale")
        if not crowded:
            histogram.bar_label(columns, padding=2)
        outlines, centres, sizes = bottom.subplots(1, 3, subplot_kw={"aspect": "equal"})
        outlines.imshow(_outlines(boxes), cmap="Blues", extent=(0, 1, 0, 1), vmin=0)
        outlines.set(title="boxes about their centre", xticks=(), yticks=())
        _density(centres, boxes[:, 0], 1 - boxes[:, 1])
        centres.set(title="where the centres are", xticks=(), yticks=())
        _density(sizes, boxes[:, 2], boxes[:, 3])
        sizes.set(title="sizes, as shares of the image", xlabel="width", ylabel="height")
        for axes in (outlines, centres, sizes):
            axes.grid(visible=False)


@contextmanager
def _picture(out: Path, width: float, height: float, families: Sequence[str] = ()) -> Iterator[Figure]:
    """Yields a figure of that many inches and saves it. No window system (Agg), no settings left changed.

    ``families`` are of fonts for letters that DejaVu Sans lacks.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "font.family": [*mpl.rcParams["font.family"], *families]}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with atomic_write(out) as temporary:
            figure.savefig(temporary)


def _class_curves(
    axes: Axes, x: NDArray[np.float64], curves: NDArray[np.float64], labels: Sequence[str], *, mean: str
) -> None:
    """Plots (classes, x) curves, NaN for classes that are not there, and their mean."""
    present = np.flatnonzero(np.isfinite(curves[:, 0]))
    few = len(present) <= FEW_CLASSES
    for i, k in enumerate(present.tolist()):
        if few:
            axes.plot(x, curves[k], color=LINES[i], lw=1.4, label=labels[k])
        else:
            axes.plot(x, curves[k], color="#9a9a9a", lw=0.6, label=None if i else "one class")
    if len(present) > 1:
        axes.plot(x, curves[present].mean(axis=0), color="black" if few else LINES[0], lw=3, label=mean)


def _curves(axes: Axes, x: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]) -> None:
    for (name, values), colour in zip(curves.items(), LINES, strict=False):
        known = np.isfinite(values)  # epochs that were not evaluated are bridged
        if known.any():
            marker = "o" if known.sum() == 1 else None  # a line of one point cannot be seen
            axes.plot(x[known], values[known], color=colour, label=name, lw=1.8, marker=marker, clip_on=False)
    if axes.lines:
        axes.legend()


def _outlines(boxes: NDArray[np.float32], size: int = 256) -> NDArray[np.float64]:
    """Adds up the outlines of up to 2000 boxes moved to the middle; the root keeps rare sizes visible."""
    canvas = np.zeros((size, size))
    for width, height in boxes[:: max(1, len(boxes) // 2000), 2:]:
        x, y = size * (1 - width) / 2, size * (1 - height) / 2
        layer = np.zeros((size, size), np.uint8)
        cv2.rectangle(layer, (round(x), round(y)), (round(size - 1 - x), round(size - 1 - y)), 1)
        canvas += layer
    return np.sqrt(canvas)


def _density(axes: Axes, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    bins = int(np.clip(math.sqrt(len(x)), 16, 64))
    counts, _, _ = np.histogram2d(x, y, bins=bins, range=((0, 1), (0, 1)))
    axes.imshow(np.sqrt(counts.T), origin="lower", cmap="Blues", extent=(0, 1, 0, 1), vmin=0)
