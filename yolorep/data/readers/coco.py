"""COCO JSON annotations (``instances_*.json``)."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolorep.console import say
from yolorep.data.annotations import Annotations, Truth
from yolorep.data.cache import cache_file, load_arrays, pack_json, save_arrays, unpack_json
from yolorep.data.readers.base import NamingReader, Places, list_images, spellings
from yolorep.data.readers.probe import first_few, probe_images
from yolorep.data.readers.records import Record, as_number, image_key, is_text, shown
from yolorep.errors import UserError

#: Files above this many bytes take long to parse; what they said is cached.
_CACHE_ABOVE = 1 << 20
#: Coordinates and lengths in pixels are below it.
_LARGEST = 2**31
#: Categories that stand for what is no object, by their letters alone; one of them without any object is no class.
_NO_OBJECTS = re.compile("background|bg|ignored?(regions?)?|dontcare|void|unlabell?ed")


@dataclass(frozen=True)
class CocoReader(NamingReader):
    """A folder of images and a JSON file of their objects.

    Where the data YAML has ``names``, a category that is not among them and has no objects is no class. Where it has
    none, every category is a class, except one that has no objects in any split and is the ``supercategory`` of
    another, as the root that Roboflow adds, or is called background, ignore and the like.
    """

    form = "{images: DIR, annotations: FILE.json}"
    keys = ("images", "annotations")

    def images(self, places: Places) -> list[str]:
        """Every image of the folder, whether the JSON has it or not."""
        return list_images(self.paths[:1], places)

    def names(self, places: Places) -> tuple[str, ...]:
        coco = read_coco(places.find(self.paths[1]))
        # A root named like a class of its own is that class.
        own = self._certain(coco)
        return tuple(
            name for place, name in enumerate(coco.category_names) if place not in coco.doubtful or name not in own
        )

    def doubtful_names(self, places: Places) -> frozenset[str]:
        coco = read_coco(places.find(self.paths[1]))
        return frozenset(coco.category_names) - self._certain(coco)

    @staticmethod
    def _certain(coco: CocoFile) -> set[str]:
        return {name for place, name in enumerate(coco.category_names) if place not in coco.doubtful}

    def read(self, names: tuple[str, ...], places: Places) -> Annotations:
        folder, file = map(places.find, self.paths)
        coco = read_coco(file)
        to_class, category_ids = match_categories(coco, names)
        dropped = [name for name, index in zip(coco.category_names, to_class.tolist(), strict=True) if index < 0]
        if not coco.file_names:
            raise UserError(f"{places.where}: expected images, found none listed in {file}")
        probed = probe_images([_image_file(folder, name) for name in coco.file_names], places.where)
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
                class_id=to_class[coco.objects[:, 1].astype(np.int64)],
                xywh=coco.objects[:, 2:6],
                area=coco.objects[:, 6],
                crowd=coco.objects[:, 7] > 0,
            ),
            where=places.where,
            image_ids=coco.image_ids,
            notes=[
                f"not counted among the classes, without objects: {first_few(dropped)}" if dropped else "",
                f"in {folder}",
            ],
            nothing=f"expected images in {folder}, found none usable",
        )


def _image_file(folder: Path, name: str) -> str:
    paths = [os.path.join(folder, spelling) for spelling in spellings(name)]
    return next(filter(os.path.exists, paths), paths[0])


@dataclass(frozen=True)
class CocoFile:
    """A COCO annotation file, checked.

    Attributes:
        path: the file.
        category_ids: ascending.
        category_names: of these ids.
        parents: positions of those whose name is another one's ``supercategory``.
        image_ids: of the images, in the order of the file, each as it is written.
        file_names: of the images.
        sizes: (n, 2) height and width as the file states them, 0 where it does not.
        objects: (m, 8) ``image position, category position, left, top, width, height, area, crowd``, by image.
    """

    path: Path
    category_ids: list[int]
    category_names: list[str]
    parents: list[int]
    image_ids: list[int | str]
    file_names: list[str]
    sizes: NDArray[np.int64]
    objects: NDArray[np.float64]

    @cached_property
    def used(self) -> frozenset[int]:
        """Positions of categories that have an object."""
        return frozenset(np.unique(self.objects[:, 1]).astype(np.int64).tolist())

    @cached_property
    def doubtful(self) -> frozenset[int]:
        """Positions of those without objects that may be no classes: parents of others, and backgrounds."""
        letters = [re.sub("[^a-z]", "", name.lower()) for name in self.category_names]
        nothing = (place for place, word in enumerate(letters) if _NO_OBJECTS.fullmatch(word))
        return frozenset((*self.parents, *nothing)) - self.used


def read_coco(path: Path) -> CocoFile:
    """Reads a COCO annotation file, a large one from the cache if it is unchanged.

    Numbers may be text: some tools write every value so.

    Raises:
        UserError: if it is no such file, naming the first record at fault.
    """
    cache = cache_file("coco-json", [str(path)])
    if arrays := load_arrays(cache):
        ids, names, parents, image_ids, file_names = unpack_json(arrays["lists"])
        return CocoFile(path, ids, names, parents, image_ids, file_names, arrays["sizes"], arrays["objects"])
    content = _load_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "categories")):
        raise UserError(
            f"{path}: expected COCO JSON with the lists images, annotations and categories, found other content"
        )
    records = content.get("annotations") or []
    if not isinstance(records, list):
        raise UserError(f"{path}: expected a list of annotations, found {shown(records)}")
    categories, parents = _categories(content["categories"], path)
    images = [_image(record, number, path) for number, record in enumerate(content["images"])]
    positions = {image_key(image.id): position for position, image in enumerate(images)}
    if len(positions) != len(images):
        raise UserError(
            f"{path}: expected every image to have its own id, found {len(images) - len(positions)} used again"
        )
    places = {category_id: position for position, category_id in enumerate(categories)}
    rows = [
        _row(Record(record, "annotation", number, path), positions, places) for number, record in enumerate(records)
    ]
    objects = np.array(rows, np.float64).reshape(-1, 8)
    coco = CocoFile(
        path=path,
        category_ids=list(categories),
        category_names=list(categories.values()),
        parents=parents,
        image_ids=[image.id for image in images],
        file_names=[image.file_name for image in images],
        sizes=np.array([image.size for image in images], np.int64).reshape(-1, 2),
        objects=objects[np.argsort(objects[:, 0], kind="stable")],
    )
    if path.stat().st_size > _CACHE_ABOVE:
        lists = [coco.category_ids, coco.category_names, coco.parents, coco.image_ids, coco.file_names]
        save_arrays(cache, {"lists": pack_json(lists), "sizes": coco.sizes, "objects": coco.objects})
    return coco


def match_categories(coco: CocoFile, names: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Matches categories with class names: by name; in order of the ids if there are as many and no name is shared.

    The latter is told, in one line: no more than the number speaks for it. A category without objects that is not
    among the names is no class, such as the root that Roboflow adds.

    Returns:
        (class index of each category or -1, category id of each class).

    Raises:
        UserError: if they match neither way, naming those that differ.
    """
    by_name = {name: index for index, name in enumerate(names)}
    every = range(len(coco.category_ids))
    listed = [place for place in every if place in coco.used or coco.category_names[place] in by_name]
    unknown_names = sorted({coco.category_names[place] for place in listed} - by_name.keys())
    in_order = _in_order(coco, names)
    to_class = [-1 for _ in every]
    if len(by_name) == len(names) and listed and not unknown_names:
        for place in listed:
            to_class[place] = by_name[coco.category_names[place]]
    elif in_order is not None:
        for index, place in enumerate(in_order):
            to_class[place] = index
        if unknown_names:
            pairs = [f"{coco.category_names[place]} -> {name}" for place, name in zip(in_order, names, strict=True)]
            say(f"{coco.path}: no category is named like a class; taken in order of the ids: {first_few(pairs)}")
    else:
        differing = {
            "not among them": unknown_names,
            "classes without a category:": sorted(set(names) - set(coco.category_names)),
            "class names used more than once:": sorted(name for name, count in Counter(names).items() if count > 1),
        }
        found = [f"{what} {first_few(which)}" for what, which in differing.items() if which]
        raise UserError(
            f"{coco.path}: expected categories among the {len(names)} class names, found {len(coco.category_ids)} "
            f"categories, {'; '.join(found)}; correct names in the data YAML or leave them out"
        )
    # Of two categories that are one class, the one with objects has its id.
    places = sorted(every, key=lambda place: place in coco.used)
    to_category = {to_class[place]: coco.category_ids[place] for place in places}
    # A class the file does not know gets an id that no category has.
    unknown = max(coco.category_ids) + 1
    category_ids = tuple(to_category.get(index, unknown + index) for index in range(len(names)))
    return np.array(to_class, np.int64), category_ids


def _in_order(coco: CocoFile, names: tuple[str, ...]) -> list[int] | None:
    """Positions of as many categories as there are names, all or without the doubtful; None where a name is shared."""
    every = range(len(coco.category_ids))
    for places in (list(every), [place for place in every if place not in coco.doubtful]):
        found = [coco.category_names[place] for place in places]
        if len(found) == len(names) and (found == list(names) or set(names).isdisjoint(found)):
            return places
    return None


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a COCO JSON file, found text that is not JSON ({error})") from error


class _Image(NamedTuple):
    id: int | str
    file_name: str
    size: tuple[int, int]


def _image(value: Any, number: int, path: Path) -> _Image:
    record = Record(value, "image", number, path)
    own, name = record.get("id"), record.get("file_name")
    if isinstance(own, float) and own % 1 == 0:
        own = int(own)
    if isinstance(own, bool) or not isinstance(own, int | str):
        raise record.wrong("id", "a number or text", own)
    if not isinstance(name, str) or not name or not is_text(name):
        raise record.wrong("file_name", "the image's path", name)
    height, width = (_length(record, key) for key in ("height", "width"))
    return _Image(own, name, (height, width))


def _length(record: Record, key: str) -> int:
    """Pixels, 0 where they are not stated."""
    value = record.get(key)
    found = 0 if value is None else as_number(value)
    if found is None or found % 1 or not 0 <= found < _LARGEST:
        raise record.wrong(key, "whole pixels", value)
    return int(found)


def _categories(values: list[Any], path: Path) -> tuple[dict[int, str], list[int]]:
    """Names by id, in order of the ids, and positions of those that are another one's supercategory."""
    names: dict[int, str] = {}
    parents: dict[int, str] = {}
    for number, value in enumerate(values):
        record = Record(value, "category", number, path)
        own, name, parent = record.integer("id"), record.get("name"), record.get("supercategory")
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not is_text(name):
            raise record.wrong("name", "text", name)
        if own in names:
            raise record.wrong("id", "one of its own", own)
        names[own], parents[own] = name, parent if isinstance(parent, str) else ""
    if not names:
        raise UserError(f"{path}: expected categories, found none")
    names = dict(sorted(names.items()))
    count = Counter(parents.values())
    return names, [place for place, (own, name) in enumerate(names.items()) if count[name] > (parents[own] == name)]


def _row(record: Record, positions: dict[int | str, int], categories: dict[int, int]) -> tuple[float, ...]:
    image = positions.get(image_key(record.get("image_id")))
    if image is None:
        raise record.wrong("image_id", "the id of an image", record.get("image_id"))
    category = categories.get(record.integer("category_id"))
    if category is None:
        raise record.wrong("category_id", "the id of a category", record.get("category_id"))
    box = record.get("bbox")
    numbers = [as_number(value) for value in box] if isinstance(box, list) else []
    left, top, width, height = numbers if len(numbers) == 4 else [None] * 4
    if left is None or top is None or width is None or height is None or max(map(abs, (left, top))) >= _LARGEST:
        raise record.wrong("bbox", "numbers [left, top, width, height]", box)
    if not (0 <= width < _LARGEST and 0 <= height < _LARGEST):
        raise record.wrong("bbox", "a width and a height of 0 or more", box)
    stated = record.get("area")
    area = width * height if stated is None else as_number(stated)
    if area is None or area < 0:
        raise record.wrong("area", "a number of pixels", stated)
    return image, category, left, top, width, height, area, _crowd(record)


def _crowd(record: Record) -> bool:
    value = record.get("iscrowd")
    words = {"true": 1, "false": 0}
    found = value if isinstance(value, bool) else as_number(value)
    if isinstance(value, str):
        found = words.get(value.strip().lower(), found)
    if value is not None and found not in (0, 1):
        raise record.wrong("iscrowd", "0 or 1", value)
    return bool(found)
