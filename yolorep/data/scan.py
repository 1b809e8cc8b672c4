"""Reading a whole split: every image probed, every label parsed, remembered in the user's cache directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from yolorep.console import progress, say
from yolorep.data.annotations import ID_LIMIT, Annotations, Truth
from yolorep.data.cache import Arrays, cache_file, load_arrays, pack_json, save_arrays, unpack_json
from yolorep.data.catalog import CocoSource, DataConfig
from yolorep.data.coco import match_categories, read_coco
from yolorep.data.labels import YoloLabels, label_path, read_yolo_labels
from yolorep.errors import UserError
from yolorep.images import ImageError, ImageReadError, probe_image

#: Files named in the summary line.
_SHOWN = 5

Item = TypeVar("Item")
Result = TypeVar("Result")


def load_annotations(config: DataConfig, split: str, *, single_class: bool = False) -> Annotations:
    """Reads the labels of a split and the sizes of its images; prints one line about what was found.

    Images that do not decode are left out and named in that line. Nothing is written beside the data: what was read is
    kept in the cache directory, keyed by path, size and modification time of every file.

    Args:
        config: the data YAML.
        split: "train", "val" or "test".
        single_class: treat all classes as one.

    Raises:
        UserError: if there is no usable image or a label is wrong (naming file and line).
    """
    source = config.resolve(split)
    where = f"{config.source}: {split}"
    if isinstance(source, CocoSource):
        annotations = _load_coco(source, config.names, where)
    else:
        annotations = _load_yolo(source, config.names, where)
    return annotations.single_class() if single_class else annotations


def _load_yolo(images: list[str], names: tuple[str, ...], where: str) -> Annotations:
    labels = [label_path(image) for image in images]
    cache = cache_file("yolo", [*images, *labels])
    arrays = load_arrays(cache)
    if arrays is None:
        arrays, lasting = _scan_yolo(images, labels, where)
        if lasting:
            save_arrays(cache, arrays)
    counts, boxes = arrays["counts"], arrays["boxes"]
    if len(boxes) and boxes[:, 0].max() >= len(names):
        # Read again for the line number.
        first = int(np.repeat(np.arange(len(images)), counts)[boxes[:, 0] >= len(names)][0])
        read_yolo_labels(labels[first], len(names))
    sizes, faults = arrays["sizes"], unpack_json(arrays["faults"])
    usable = sizes[:, 0] > 0
    if not usable.any():
        raise UserError(f"{where}: expected images, found none that can be read; {_name_faults(images, faults)}")
    truth = _yolo_truth(arrays, usable)
    paths = [path for path, good in zip(images, usable.tolist(), strict=True) if good]
    missing = int((~arrays["labelled"][usable]).sum())
    notes = [
        f"{missing} without a label file" if missing else "",
        f"{arrays['duplicates']} duplicate rows removed" if arrays["duplicates"] else "",
        f"{arrays['empty']} boxes without area ignored" if arrays["empty"] else "",
        _name_faults(images, faults),
    ]
    _summarize(where, len(paths), len(truth.image), notes)
    if missing == len(paths):
        say(f"{where}: no image has a label file; expected for example {labels[0]}")
    ids = tuple(range(len(names)))
    return Annotations.of(names, ids, paths=paths, sizes=sizes[usable], image_ids=_image_ids(paths), truth=truth)


def _scan_yolo(images: list[str], labels: list[str], where: str) -> tuple[Arrays, bool]:
    """Returns what was found, and whether it holds until the files change."""

    def read(pair: tuple[str, str]) -> tuple[_Probe, YoloLabels | UserError, bool]:
        image, label = pair
        parsed: YoloLabels | UserError
        try:
            parsed = read_yolo_labels(label)
        except UserError as error:
            parsed = error
        return _probe(image), parsed, os.path.exists(label)

    found = _in_threads(read, list(zip(images, labels, strict=True)), where)
    wrong = [parsed for _, parsed, _ in found if isinstance(parsed, UserError)]
    if wrong:
        more = f" (and {len(wrong) - 1} more label files with faults)" if len(wrong) > 1 else ""
        raise UserError(f"{wrong[0]}{more}")
    parsed = [labels for _, labels, _ in found if isinstance(labels, YoloLabels)]
    probed, lasting = _pack_probes([probe for probe, _, _ in found])
    return {
        **probed,
        "labelled": np.array([labelled for _, _, labelled in found], bool),
        "counts": np.array([len(labels.boxes) for labels in parsed], np.int64),
        "boxes": np.concatenate([np.zeros((0, 5)), *(labels.boxes for labels in parsed)]),
        "duplicates": np.int64(sum(labels.duplicates for labels in parsed)),
        "empty": np.int64(sum(labels.empty for labels in parsed)),
    }, lasting


def _yolo_truth(arrays: Arrays, usable: NDArray[np.bool_]) -> Truth:
    """Boxes of the usable images in pixels; as YOLO labels have no area or crowd, the area is the box's."""
    image = np.repeat(np.arange(len(usable)), arrays["counts"])
    boxes, image = arrays["boxes"][usable[image]], image[usable[image]]
    scale = arrays["sizes"][image][:, ::-1].astype(np.float64)
    size = boxes[:, 3:] * scale
    return Truth(
        image=(np.cumsum(usable) - 1)[image],
        class_id=boxes[:, 0].astype(np.int64),
        xywh=np.concatenate([boxes[:, 1:3] * scale - size / 2, size], axis=1),
        area=size.prod(axis=1),
        crowd=np.zeros(len(boxes), bool),
    )


def _load_coco(source: CocoSource, names: tuple[str, ...], where: str) -> Annotations:
    coco = read_coco(source.annotations)
    to_class, category_ids = match_categories(coco, names)
    images = [os.path.join(source.images, name) for name in coco.file_names]
    if not images:
        raise UserError(f"{where}: expected images, found none listed in {source.annotations}")
    cache = cache_file("sizes", images)
    arrays = load_arrays(cache)
    if arrays is None:
        arrays, lasting = _pack_probes(_in_threads(_probe, images, where))
        if lasting:
            save_arrays(cache, arrays)
    sizes, faults = arrays["sizes"], unpack_json(arrays["faults"])
    for index in np.flatnonzero(((sizes != coco.sizes) & (coco.sizes > 0)).any(axis=1) & (sizes[:, 0] > 0)).tolist():
        # Its boxes are in pixels of another image.
        (height, width), stated = sizes[index].tolist(), coco.sizes[index].tolist()
        faults[str(index)] = f"{width}x{height} pixels, {stated[1]}x{stated[0]} in the JSON"
    usable = np.ones(len(images), bool)
    usable[[int(index) for index in faults]] = False
    if not usable.any():
        raise UserError(
            f"{where}: expected images in {source.images}, found none usable; {_name_faults(images, faults)}"
        )
    objects = coco.objects[usable[coco.objects[:, 0].astype(np.int64)]]
    truth = Truth(
        image=(np.cumsum(usable) - 1)[objects[:, 0].astype(np.int64)],
        class_id=np.array([to_class[int(category_id)] for category_id in objects[:, 1]], np.int64),
        xywh=objects[:, 2:6],
        area=objects[:, 6],
        crowd=objects[:, 7] > 0,
    )
    good = np.flatnonzero(usable).tolist()
    crowds = int(truth.crowd.sum())
    notes = [f"{crowds} of them crowds" if crowds else "", _name_faults(images, faults)]
    _summarize(where, len(good), len(objects), notes)
    return Annotations.of(
        names,
        category_ids,
        paths=[images[index] for index in good],
        sizes=sizes[usable],
        image_ids=[coco.image_ids[index] for index in good],
        truth=truth,
    )


class _Probe(NamedTuple):
    """Height and width of an image, or its fault, and whether that lies in the image itself."""

    size: tuple[int, int]
    fault: str = ""
    lasting: bool = True


def _probe(path: str) -> _Probe:
    try:
        return _Probe(probe_image(path))
    except ImageError as error:
        return _Probe((0, 0), str(error), lasting=not isinstance(error, ImageReadError))


def _pack_probes(probes: list[_Probe]) -> tuple[Arrays, bool]:
    """Returns sizes and faults as stored, and whether they hold until the files change."""
    arrays: Arrays = {
        "sizes": np.array([probe.size for probe in probes], np.int32).reshape(-1, 2),
        "faults": pack_json({index: probe.fault for index, probe in enumerate(probes) if probe.fault}),
    }
    return arrays, all(probe.lasting for probe in probes)


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item], where: str) -> list[Result]:
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        return list(progress(pool.map(function, items), total=len(items), desc=f"{where}: reading", unit="images"))


def _image_ids(paths: list[str]) -> list[int] | list[str]:
    """Numbers if every file name is a different one, as in COCO; else the names; else paths that tell them apart.

    Names of more digits than 64 bits hold are names.
    """
    stems = [Path(path).stem for path in paths]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) < ID_LIMIT:
            return numbers
    if len(set(stems)) == len(stems):
        return stems
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Path(os.path.relpath(path, common)).as_posix() for path in paths]


def _summarize(where: str, images: int, boxes: int, notes: list[str]) -> None:
    say(f"{where}: {'; '.join([f'{images} images, {boxes} boxes', *filter(None, notes)])}")


def _name_faults(images: list[str], faults: dict[str, str]) -> str:
    if not faults:
        return ""
    named = [f"{Path(images[int(index)]).name} ({fault})" for index, fault in list(faults.items())[:_SHOWN]]
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return f"{len(faults)} skipped: {', '.join(named)}{more}"
