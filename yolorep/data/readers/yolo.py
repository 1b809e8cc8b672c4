"""YOLO text: one label file an image, one row an object."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolorep.console import say
from yolorep.data.annotations import Annotations, Truth
from yolorep.data.cache import Arrays, cache_file, load_arrays, save_arrays
from yolorep.data.readers.base import Places, Reader, find_images, list_images
from yolorep.data.readers.probe import Probe, ProbedImages, in_threads, pack_probes, probe
from yolorep.errors import UserError

#: Coordinates written with few digits may end a little outside 0..1.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class YoloReader(Reader):
    """Folders and list files of images, which have their label files in a sibling folder."""

    form = "a folder, a list file, a list of these"
    keys = ()

    def images(self, places: Places) -> list[str]:
        return list_images(self.paths, places)

    def read(self, names: tuple[str, ...], places: Places) -> Annotations:
        images, found = find_images(self.paths, places)
        where = places.where
        labels = [label_path(image) for image in images]
        cache = cache_file("yolo", [*images, *labels])
        arrays = load_arrays(cache)
        if arrays is None:
            arrays, lasting = _scan(images, labels, where)
            if lasting:
                save_arrays(cache, arrays)
        counts, boxes = arrays["counts"], arrays["boxes"]
        if len(boxes) and boxes[:, 0].max() >= len(names):
            # Read again for the line number.
            first = int(np.repeat(np.arange(len(images)), counts)[boxes[:, 0] >= len(names)][0])
            read_yolo_labels(labels[first], len(names))
        probed = ProbedImages.unpack(images, arrays)
        labelled = arrays["labelled"][probed.usable]
        notes = [
            f"{(~labelled).sum()} without a label file" if not labelled.all() else "",
            f"{arrays['duplicates']} duplicate rows removed" if arrays["duplicates"] else "",
            f"{arrays['empty']} boxes without area ignored" if arrays["empty"] else "",
            *found,
        ]
        truth = Truth.of_boxes(boxes, counts, probed.sizes)
        annotations = probed.annotations(names, tuple(range(len(names))), truth=truth, where=where, notes=notes)
        if not labelled.any():
            say(f"{where}: no image has a label file; expected for example {labels[0]}")
        return annotations


def _scan(images: list[str], labels: list[str], where: str) -> tuple[Arrays, bool]:
    """Returns what was found, and whether it holds until the files change."""

    def read(pair: tuple[str, str]) -> tuple[Probe, YoloLabels | UserError, bool]:
        image, label = pair
        parsed: YoloLabels | UserError
        try:
            parsed = read_yolo_labels(label)
        except UserError as error:
            parsed = error
        return probe(image), parsed, os.path.exists(label)

    found = in_threads(read, list(zip(images, labels, strict=True)), where)
    wrong = [parsed for _, parsed, _ in found if isinstance(parsed, UserError)]
    if wrong:
        more = f" (and {len(wrong) - 1} more label files with faults)" if len(wrong) > 1 else ""
        raise UserError(f"{wrong[0]}{more}")
    parsed = [labels for _, labels, _ in found if isinstance(labels, YoloLabels)]
    probed, lasting = pack_probes([probe for probe, _, _ in found])
    return {
        **probed,
        "labelled": np.array([labelled for _, _, labelled in found], bool),
        "counts": np.array([len(labels.boxes) for labels in parsed], np.int64),
        "boxes": np.concatenate([np.zeros((0, 5)), *(labels.boxes for labels in parsed)]),
        "duplicates": np.int64(sum(labels.duplicates for labels in parsed)),
        "empty": np.int64(sum(labels.empty for labels in parsed)),
    }, lasting


def label_path(image: str) -> str:
    """The YOLO label file of an image: the last ``images`` folder of its path becomes ``labels``, the suffix ``.txt``.

    An image that lies in no ``images`` folder has its labels beside it.
    """
    parts = list(Path(image).with_suffix(".txt").parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return str(Path(*parts))


@dataclass(frozen=True)
class YoloLabels:
    """The content of one label file.

    Attributes:
        boxes: (k, 5) float64 ``class, cx, cy, w, h``, normalized.
        duplicates: rows left out because an equal one precedes them.
        empty: rows left out because the box has no area.
    """

    boxes: NDArray[np.float64]
    duplicates: int = 0
    empty: int = 0


def read_yolo_labels(path: str | os.PathLike[str], num_classes: int | None = None) -> YoloLabels:
    """Reads rows of ``class cx cy w h``, or ``class x1 y1 x2 y2 …`` (a polygon, of which the bounding box is used).

    Args:
        path: label file; a missing one means no objects.
        num_classes: class ids must be below it; not checked when None.

    Raises:
        UserError: naming file and line, if a row is not of this form or out of range.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return YoloLabels(np.zeros((0, 5)))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: expected a text file of 'class cx cy w h' rows, found one that cannot be read ({error})"
        ) from None
    rows = [
        _parse_row(line.split(), f"{path}, line {number}", num_classes)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    unique = list(dict.fromkeys(rows))
    solid = [row for row in unique if row[3] > 0 and row[4] > 0]
    boxes = np.array(solid, np.float64).reshape(-1, 5)
    return YoloLabels(boxes, duplicates=len(rows) - len(unique), empty=len(unique) - len(solid))


def _parse_row(fields: list[str], where: str, num_classes: int | None) -> tuple[float, ...]:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: expected numbers 'class cx cy w h', found '{' '.join(fields)[:80]}'")
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise UserError(
            f"{where}: expected 5 columns 'class cx cy w h', or a polygon 'class x1 y1 x2 y2 x3 y3 …', "
            f"found {len(values)} columns"
        )
    class_id, *coordinates = values
    if class_id < 0 or class_id != int(class_id):
        raise UserError(f"{where}: expected a class id 0, 1, 2, …, found {fields[0]}")
    if num_classes is not None and class_id >= num_classes:
        raise UserError(
            f"{where}: expected a class id below {num_classes} (the data set's number of classes), found {fields[0]}; "
            "correct the row, or nc/names in the data YAML"
        )
    wrong = [
        field for field, value in zip(fields[1:], coordinates, strict=True) if not -_ROUNDING <= value <= 1 + _ROUNDING
    ]
    if wrong:
        raise UserError(
            f"{where}: expected coordinates normalized to 0..1 (divided by image width and height), "
            f"found {', '.join(wrong[:4])}"
        )
    coordinates = [min(max(value, 0.0), 1.0) for value in coordinates]
    if len(coordinates) > 4:
        xs, ys = coordinates[0::2], coordinates[1::2]
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
        coordinates = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return (class_id, *coordinates)
