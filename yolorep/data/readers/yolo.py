"""YOLO text: one label file an image, one row an object."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolorep.console import plural, say
from yolorep.data.annotations import Annotations, Truth
from yolorep.data.cache import Arrays, cache_file, load_arrays, save_arrays
from yolorep.data.readers.base import Places, Reader, find_images, list_images
from yolorep.data.readers.probe import Probe, ProbedImages, first_few, in_threads, pack_probes, probe
from yolorep.errors import UserError
from yolorep.files import is_device_or_pipe
from yolorep.texts import NotText, read_text

#: Share of the side by which numbers may leave 0..1: rounding, half a pixel more than the image.
_EXCESS = 0.01
#: The same for rows of four corners: those of a turned box around an object at the border lie outside by nature, and
#: the bounding box of what is left inside is the object's.
_CORNER_EXCESS = 0.1
#: The same for key points that are only looked at to tell whether they are some.
_POINT_EXCESS = 0.01


@dataclass(frozen=True)
class YoloReader(Reader):
    """Folders and list files of images, which have their label files in a sibling folder.

    Attributes:
        kpt_shape: key points of a row after its box, and numbers of each; None for rows of boxes and polygons.
    """

    form = "a folder, a list file, a list of these"
    keys = ()

    kpt_shape: tuple[int, int] | None = None

    def images(self, places: Places) -> list[str]:
        return list_images(self.paths, places)

    def read(self, names: tuple[str, ...], places: Places) -> Annotations:
        images, found = find_images(self.paths, places)
        where = places.where
        labels = [label_path(image) for image in images]
        cache = cache_file("-".join(map(str, ("yolo-rows", *(self.kpt_shape or ())))), [*images, *labels])
        arrays = load_arrays(cache)
        if arrays is None:
            arrays, lasting = self._scan(images, labels, where)
            if lasting:
                save_arrays(cache, arrays)
        counts, boxes = arrays["counts"], arrays["boxes"]
        if len(boxes) and boxes[:, 0].max() >= len(names):
            # Read again for the line number.
            first = int(np.repeat(np.arange(len(images)), counts)[boxes[:, 0] >= len(names)][0])
            read_yolo_labels(labels[first], len(names), kpt_shape=self.kpt_shape)
        probed = ProbedImages.unpack(images, arrays)
        labelled = arrays["labelled"][probed.usable]
        clipped, pointed = int(arrays["clipped"]), int(arrays["pointed"])
        notes = [
            f"{(~labelled).sum()} without a label file" if not labelled.all() else "",
            f"{arrays['duplicates']} duplicate rows removed" if arrays["duplicates"] else "",
            f"{arrays['empty']} boxes without area ignored" if arrays["empty"] else "",
            f"{plural('row', clipped)} a little outside the image clipped" if clipped else "",
            f"{plural('row', pointed)} with key points, of which only the box is used" if pointed else "",
            f"in {first_few(list(map(str, map(places.find, self.paths))))}",
            *found,
        ]
        truth = Truth.of_boxes(boxes, counts, probed.sizes)
        annotations = probed.annotations(names, tuple(range(len(names))), truth=truth, where=where, notes=notes)
        if not labelled.any():
            say(f"{where}: no image has a label file; expected for example {labels[0]}")
        for shape in arrays["shapes"].tolist()[:1]:
            say(
                f"{where}: every row of more than five numbers is read as a polygon, but could be a box with its "
                f"{shape[0]} key points: is 'kpt_shape: {shape}' missing in the data YAML?"
            )
        return annotations

    def _scan(self, images: list[str], labels: list[str], where: str) -> tuple[Arrays, bool]:
        """Returns what was found, and whether it holds until the files change."""

        def read(pair: tuple[str, str]) -> tuple[Probe, YoloLabels | UserError, bool]:
            image, label = pair
            parsed: YoloLabels | UserError
            try:
                parsed = read_yolo_labels(label, kpt_shape=self.kpt_shape)
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
        shapes = [labels.shapes for labels in parsed if labels.shapes is not None]
        return {
            **probed,
            "labelled": np.array([labelled for _, _, labelled in found], bool),
            "counts": np.array([len(labels.boxes) for labels in parsed], np.int64),
            "boxes": np.concatenate([np.zeros((0, 5)), *(labels.boxes for labels in parsed)]),
            "shapes": np.array(sorted(frozenset.intersection(*shapes)) if shapes else [], np.int64).reshape(-1, 2),
            **{
                name: np.int64(sum(getattr(labels, name) for labels in parsed))
                for name in ("duplicates", "empty", "clipped", "pointed")
            },
        }, lasting


def label_path(image: str) -> str:
    """The YOLO label file of an image: the last ``images`` folder of its path becomes ``labels``, the suffix ``.txt``.

    An image that lies in no ``images`` folder has its labels beside it.
    """
    folder, name = os.path.split(image)
    folders = folder.split(os.sep)
    for position in reversed(range(len(folders))):
        if folders[position] == "images":
            folders[position] = "labels"
            break
    return os.path.join(os.sep.join(folders), os.path.splitext(name)[0] + ".txt")


@dataclass(frozen=True)
class YoloLabels:
    """The content of one label file.

    Attributes:
        boxes: (k, 5) float64 ``class, cx, cy, w, h``, normalized.
        duplicates: rows left out because an equal one precedes them.
        empty: rows left out because the box has no area.
        clipped: rows with numbers a little outside 0..1, which became 0 or 1.
        pointed: rows with key points, which were left out.
        shapes: what ``kpt_shape`` may be meant if every polygon is one in truth; None without polygons.
    """

    boxes: NDArray[np.float64]
    duplicates: int = 0
    empty: int = 0
    clipped: int = 0
    pointed: int = 0
    shapes: frozenset[tuple[int, int]] | None = None


def read_yolo_labels(
    path: str | os.PathLike[str], num_classes: int | None = None, *, kpt_shape: tuple[int, int] | None = None
) -> YoloLabels:
    """Reads rows of ``class cx cy w h``, or ``class x1 y1 x2 y2 …`` (a polygon, of which the bounding box is used).

    Numbers that leave 0..1 by at most 0.01, in rows of four corners by at most 0.1, become 0 or 1, and are counted.

    Args:
        path: label file; a missing one means no objects.
        num_classes: class ids must be below it; not checked when None.
        kpt_shape: the number of key points that follow the box in a row, and the numbers of each (2 or 3); they are
            left out. There are no polygons then.

    Raises:
        UserError: naming file and line, if a row is not of this form or out of range.
    """
    if is_device_or_pipe(path):
        raise UserError(f"{path}: expected a text file of 'class cx cy w h' rows, found a device or pipe")
    try:
        text = read_text(path)
    except FileNotFoundError:
        return YoloLabels(np.zeros((0, 5)))
    except (OSError, NotText) as error:
        found = error if isinstance(error, NotText) else f"one that cannot be read ({error.strerror})"
        raise UserError(f"{path}: expected a text file of 'class cx cy w h' rows, found {found}") from None
    rows: list[tuple[float, ...]] = []
    clipped = pointed = 0
    shapes: frozenset[tuple[int, int]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not (fields := line.split()):
            continue
        where = f"{path}, line {number}"
        values = _numbers(fields, where, num_classes)
        if kpt_shape is not None:
            if len(values) not in (5, 5 + math.prod(kpt_shape)):
                raise UserError(
                    f"{where}: expected 5 columns, or {5 + math.prod(kpt_shape)} with the key points of kpt_shape "
                    f"{list(kpt_shape)}, found {len(values)}"
                )
            pointed += len(values) > 5
            values = values[:5]
        elif len(values) > 5 and (shapes is None or shapes):
            shapes = _point_shapes(values) if shapes is None else shapes & _point_shapes(values)
        row = (values[0], *_checked(fields, values[1:], where))
        clipped += any(value < 0 or value > 1 for value in values[1:])
        rows.append(row)
    unique = list(dict.fromkeys(rows))
    solid = [row for row in unique if row[3] > 0 and row[4] > 0]
    boxes = np.array(solid, np.float64).reshape(-1, 5)
    return YoloLabels(boxes, len(rows) - len(unique), len(unique) - len(solid), clipped, pointed, shapes)


def _numbers(fields: list[str], where: str, num_classes: int | None) -> list[float]:
    try:
        # Python takes 1_0 for ten.
        values = [math.nan if "_" in field else float(field) for field in fields]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: expected numbers 'class cx cy w h', found '{' '.join(fields)[:80]}'")
    class_id = values[0]
    if class_id < 0 or class_id != int(class_id):
        raise UserError(f"{where}: expected a class id 0, 1, 2, …, found {fields[0]:.40}")
    if num_classes is not None and class_id >= num_classes:
        raise UserError(
            f"{where}: expected a class id below {num_classes} (the data set's number of classes), found "
            f"{fields[0]:.40}; correct the row, or nc/names in the data YAML"
        )
    return values


def _checked(fields: list[str], values: list[float], where: str) -> tuple[float, ...]:
    """The box ``cx, cy, w, h`` of a row's numbers without the class, clipped."""
    corners = len(values) > 4
    if len(values) < 4 or (corners and (len(values) < 6 or len(values) % 2)):
        raise UserError(
            f"{where}: expected 5 columns 'class cx cy w h', or a polygon 'class x1 y1 x2 y2 x3 y3 …', "
            f"found {len(values) + 1} columns{_key_point_hint(values)}"
        )
    excess = _CORNER_EXCESS if len(values) == 8 else _EXCESS
    wrong = [field for field, value in zip(fields[1:], values, strict=False) if not -excess <= value <= 1 + excess]
    if wrong:
        raise UserError(
            f"{where}: expected coordinates normalized to 0..1 (divided by image width and height), or outside by "
            f"at most {excess:g}{_key_point_hint(values)}, found {', '.join(field[:40] for field in wrong[:4])}"
        )
    clipped = [min(max(value, 0.0), 1.0) for value in values]
    if not corners:
        return tuple(clipped)
    xs, ys = clipped[0::2], clipped[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _key_point_hint(values: list[float]) -> str:
    """What to do about a row that is none of boxes and polygons, if it reads as a box with key points."""
    shapes = _point_shapes([0.0, *values]) if len(values) > 5 else None
    return f" (key points need 'kpt_shape: {list(min(shapes))}' in the data YAML)" if shapes else ""


def _point_shapes(values: list[float]) -> frozenset[tuple[int, int]]:
    """Every ``kpt_shape`` by which a row would be a box that holds its key points.

    Points that are not labelled, (0, 0) or negative, may lie anywhere. A third number is a state or a share, -1 to 2.
    """
    _, x, y, width, height, *rest = values
    found = set()
    for numbers in (2, 3):
        points = [rest[start : start + numbers] for start in range(0, len(rest), numbers)]
        inside = (
            abs(point[0] - x) <= width / 2 + _POINT_EXCESS and abs(point[1] - y) <= height / 2 + _POINT_EXCESS
            for point in points
            if any(point[:2]) and min(point[:2]) >= 0
        )
        states = [value for point in points for value in point[2:]]
        if points and len(rest) % numbers == 0 and all(-1 <= state <= 2 for state in states) and all(inside):
            found.add((len(points), numbers))
    return frozenset(found)
