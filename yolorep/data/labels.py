"""The two label formats: YOLO text files beside the images, and COCO JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolorep.errors import UserError

#: Coordinates written with few digits may end a little outside 0..1.
_ROUNDING = 1e-4


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
        raise UserError(f"{path}: expected a text file of 'class cx cy w h' rows, found one that cannot be read ({error})") from None
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
    wrong = [field for field, value in zip(fields[1:], coordinates, strict=True) if not -_ROUNDING <= value <= 1 + _ROUNDING]
    if wrong:
        raise UserError(
            f"{where}: expected coordinates normalized to 0..1 (divided by image width and height), found {', '.join(wrong[:4])}"
        )
    coordinates = [min(max(value, 0.0), 1.0) for value in coordinates]
    if len(coordinates) > 4:
        xs, ys = coordinates[0::2], coordinates[1::2]
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
        coordinates = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return (class_id, *coordinates)


@dataclass(frozen=True)
class CocoFile:
    """A COCO annotation file, checked.

    Attributes:
        category_ids: ascending.
        category_names: of these ids.
        images: records with ``id``, ``file_name`` and perhaps ``height`` and ``width``.
        objects: image id -> rows ``category id, left, top, width, height, area, crowd`` in pixels.
    """

    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    images: list[dict[str, Any]]
    objects: dict[int | str, list[tuple[float, ...]]]


def read_coco(path: Path) -> CocoFile:
    """Reads ``instances_*.json``.

    Raises:
        UserError: if the file is no such JSON, naming the first record at fault.
    """
    content = _load_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "categories")):
        raise UserError(f"{path}: expected COCO JSON with the lists images, annotations and categories, found neither")
    categories = _categories(content["categories"], path)
    images = content["images"]
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("id"), int | str) or not isinstance(image.get("file_name"), str):
            raise UserError(f"{path}: expected every image to have 'id' and 'file_name', found {str(image)[:120]}")
    objects: dict[int | str, list[tuple[float, ...]]] = {image["id"]: [] for image in images}
    if len(objects) != len(images):
        raise UserError(f"{path}: expected every image to have its own id, found {len(images) - len(objects)} used again")
    for record in content.get("annotations") or []:
        try:
            left, top, width, height = map(float, record["bbox"])
            category_id = record["category_id"]
            row = (category_id, left, top, width, height, float(record.get("area", width * height)), bool(record.get("iscrowd", 0)))
            rows = objects[record["image_id"]]
            known = category_id in categories and all(map(math.isfinite, row)) and width >= 0 and height >= 0
        except (KeyError, TypeError, ValueError, AttributeError):
            known = False
        if not known:
            raise UserError(
                f"{path}: expected every annotation to have a known image_id and category_id and a bbox "
                f"[left, top, width, height], found {str(record)[:120]}"
            )
        rows.append(row)
    return CocoFile(tuple(categories), tuple(categories.values()), images, objects)


def read_coco_categories(path: Path) -> tuple[str, ...]:
    """The category names of a COCO file in the order of their ids."""
    content = _load_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected COCO JSON with a list of categories, found {type(content).__name__}")
    return tuple(_categories(content.get("categories"), path).values())


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a COCO JSON file, found text that is not JSON ({error})") from error


def _categories(records: Any, path: Path) -> dict[int, str]:
    try:
        names = {record["id"]: str(record["name"]) for record in records}
        complete = bool(names) and len(names) == len(records) and all(isinstance(key, int) for key in names)
    except (KeyError, TypeError):
        complete = False
    if not complete:
        raise UserError(f"{path}: expected categories with distinct integer 'id' and a 'name', found {str(records)[:120]}")
    return dict(sorted(names.items()))


def category_indices(names: tuple[str, ...], coco: CocoFile, path: Path) -> tuple[dict[int, int], tuple[int, ...]]:
    """Matches a COCO file's categories with class names: by name, or if the names differ but not their number, by order.

    Returns:
        (category id -> class index, category id of each class).

    Raises:
        UserError: if they match neither way.
    """
    by_name = {name: index for index, name in enumerate(names)}
    if len(by_name) == len(names) and set(coco.category_names) <= set(names):
        to_class = {key: by_name[name] for key, name in zip(coco.category_ids, coco.category_names, strict=True)}
    elif len(names) == len(coco.category_ids):
        to_class = {category_id: index for index, category_id in enumerate(coco.category_ids)}
    else:
        other = sorted(set(coco.category_names) - set(names))
        raise UserError(
            f"{path}: expected the {len(names)} classes of the data YAML, found {len(coco.category_ids)} categories, "
            f"of which {', '.join(other[:5])} not among them"
        )
    # A class the file does not know gets an id that no category has.
    spare = iter(range(max(coco.category_ids) + 1, max(coco.category_ids) + 1 + len(names)))
    to_category = {index: category_id for category_id, index in to_class.items()}
    return to_class, tuple(to_category[index] if index in to_category else next(spare) for index in range(len(names)))
