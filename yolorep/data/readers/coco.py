"""COCO JSON annotations (``instances_*.json``)."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolorep.console import say
from yolorep.data.annotations import Annotations, Truth
from yolorep.data.cache import cache_file, load_arrays, pack_json, save_arrays, unpack_json
from yolorep.data.readers.base import NamingReader, Places, list_images
from yolorep.data.readers.probe import probe_images
from yolorep.errors import UserError

#: Files above this many bytes take long to parse; what they said is cached.
_CACHE_ABOVE = 1 << 20
#: Names told in a line.
_SHOWN = 5


@dataclass(frozen=True)
class CocoReader(NamingReader):
    """A folder of images and a JSON file of their objects."""

    form = "{images: DIR, annotations: FILE.json}"
    keys = ("images", "annotations")

    def images(self, places: Places) -> list[str]:
        """Every image of the folder, whether the JSON has it or not."""
        return list_images(self.paths[:1], places)

    def names(self, places: Places) -> tuple[str, ...]:
        return tuple(read_coco(places.find(self.paths[1])).category_names)

    def read(self, names: tuple[str, ...], places: Places) -> Annotations:
        folder, file = map(places.find, self.paths)
        coco = read_coco(file)
        to_class, category_ids = match_categories(coco, names)
        if not coco.file_names:
            raise UserError(f"{places.where}: expected images, found none listed in {file}")
        probed = probe_images([os.path.join(folder, name) for name in coco.file_names], places.where)
        sizes = probed.sizes
        for index in np.flatnonzero(((sizes != coco.sizes) & (coco.sizes > 0)).any(axis=1) & (sizes[:, 0] > 0)):
            # Its boxes are in pixels of another image.
            (height, width), stated = sizes[index], coco.sizes[index]
            probed.faults[int(index)] = f"{width}x{height} pixels, {stated[1]}x{stated[0]} in the JSON"
        return probed.annotations(
            names,
            category_ids,
            truth=Truth(
                image=coco.objects[:, 0].astype(np.int64),
                class_id=np.array([to_class[int(category_id)] for category_id in coco.objects[:, 1]], np.int64),
                xywh=coco.objects[:, 2:6],
                area=coco.objects[:, 6],
                crowd=coco.objects[:, 7] > 0,
            ),
            where=places.where,
            image_ids=coco.image_ids,
            nothing=f"expected images in {folder}, found none usable",
        )


@dataclass(frozen=True)
class CocoFile:
    """A COCO annotation file, checked.

    Attributes:
        path: the file.
        category_ids: ascending.
        category_names: of these ids.
        image_ids: of the images, in the order of the file.
        file_names: of the images.
        sizes: (n, 2) height and width as the file states them, 0 where it does not.
        objects: (m, 8) ``image position, category id, left, top, width, height, area, crowd`` in pixels, by image.
    """

    path: Path
    category_ids: list[int]
    category_names: list[str]
    image_ids: list[int] | list[str]
    file_names: list[str]
    sizes: NDArray[np.int64]
    objects: NDArray[np.float64]


def read_coco(path: Path) -> CocoFile:
    """Reads a COCO annotation file, a large one from the cache if it is unchanged.

    Raises:
        UserError: if it is no such file, naming the first record at fault.
    """
    cache = cache_file("coco", [str(path)])
    if arrays := load_arrays(cache):
        ids, names, image_ids, file_names = unpack_json(arrays["lists"])
        return CocoFile(path, ids, names, image_ids, file_names, arrays["sizes"], arrays["objects"])
    content = _load_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "categories")):
        raise UserError(
            f"{path}: expected COCO JSON with the lists images, annotations and categories, found other content"
        )
    categories = _categories(content["categories"], path)
    images = content["images"]
    for image in images:
        if not _is_image(image):
            raise UserError(f"{path}: expected every image to have 'id' and 'file_name', found {str(image)[:120]}")
        stated = image.get("height"), image.get("width")
        if not all(map(_is_length, stated)):
            raise UserError(
                f"{path}: expected height and width of {image['file_name']} in whole pixels, "
                f"found {stated[0]!r:.40} and {stated[1]!r:.40}"
            )
    positions = {image["id"]: position for position, image in enumerate(images)}
    if len(positions) != len(images):
        raise UserError(
            f"{path}: expected every image to have its own id, found {len(images) - len(positions)} used again"
        )
    rows = [_row(record, positions, categories, path) for record in content.get("annotations") or []]
    objects = np.array(rows, np.float64).reshape(-1, 8)
    coco = CocoFile(
        path=path,
        category_ids=list(categories),
        category_names=list(categories.values()),
        image_ids=[image["id"] for image in images],
        file_names=[image["file_name"] for image in images],
        sizes=np.array([(image.get("height") or 0, image.get("width") or 0) for image in images], np.int64).reshape(
            -1, 2
        ),
        objects=objects[np.argsort(objects[:, 0], kind="stable")],
    )
    if path.stat().st_size > _CACHE_ABOVE:
        lists = [coco.category_ids, coco.category_names, coco.image_ids, coco.file_names]
        save_arrays(cache, {"lists": pack_json(lists), "sizes": coco.sizes, "objects": coco.objects})
    return coco


def match_categories(coco: CocoFile, names: tuple[str, ...]) -> tuple[dict[int, int], tuple[int, ...]]:
    """Matches categories with class names: by name; in order of the ids if there are as many and no name is shared.

    The latter is told, in one line: no more than the number speaks for it.

    Returns:
        (category id -> class index, category id of each class).

    Raises:
        UserError: if they match neither way, naming those that differ.
    """
    by_name = {name: index for index, name in enumerate(names)}
    unknown_names = sorted(set(coco.category_names) - set(names))
    if len(by_name) == len(names) and not unknown_names:
        to_class = {key: by_name[name] for key, name in zip(coco.category_ids, coco.category_names, strict=True)}
    elif len(names) == len(coco.category_ids) and (
        list(names) == coco.category_names or set(names).isdisjoint(coco.category_names)
    ):
        to_class = {category_id: index for index, category_id in enumerate(coco.category_ids)}
        if unknown_names:
            pairs = [f"{category} -> {name}" for category, name in zip(coco.category_names, names, strict=True)]
            say(f"{coco.path}: no category is named like a class; taken in order of the ids: {_shorten(pairs)}")
    else:
        differing = {
            "not among them": unknown_names,
            "classes without a category:": sorted(set(names) - set(coco.category_names)),
            "class names used more than once:": sorted(name for name in by_name if names.count(name) > 1),
        }
        found = [f"{what} {_shorten(which)}" for what, which in differing.items() if which]
        raise UserError(
            f"{coco.path}: expected categories among the {len(names)} class names, found {len(coco.category_ids)} "
            f"categories, {'; '.join(found)}; correct names in the data YAML or leave them out"
        )
    to_category = {index: category_id for category_id, index in to_class.items()}
    # A class the file does not know gets an id that no category has.
    unknown = max(coco.category_ids) + 1
    return to_class, tuple(to_category.get(index, unknown + index) for index in range(len(names)))


def _shorten(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


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
        raise UserError(
            f"{path}: expected categories with distinct integer 'id' and a 'name', found {str(records)[:120]}"
        )
    return dict(sorted(names.items()))


def _is_image(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("id"), int | str)
        and isinstance(record.get("file_name"), str)
    )


def _is_length(value: Any) -> bool:
    """Whether it is a whole number of pixels, 480.0 too, or not stated."""
    return not value or (isinstance(value, int | float) and value % 1 == 0 and abs(value) < 1 << 31)


def _row(record: Any, positions: dict[int | str, int], categories: dict[int, str], path: Path) -> tuple[float, ...]:
    try:
        left, top, width, height = map(float, record["bbox"])
        area, crowd = float(record.get("area", width * height)), bool(record.get("iscrowd", 0))
        row = (positions[record["image_id"]], record["category_id"], left, top, width, height, area, crowd)
        good = row[1] in categories and all(map(math.isfinite, row)) and width >= 0 and height >= 0
    except (KeyError, TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise UserError(
            f"{path}: expected every annotation to have the image_id of an image, the category_id of a category and a "
            f"bbox [left, top, width, height], found {str(record)[:160]}"
        )
    return row
