"""The images of a split, probed: their sizes and faults, and the annotations of those that can be used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from yolorep.console import plural, say
from yolorep.data.annotations import ID_LIMIT, Annotations, Truth
from yolorep.data.cache import Arrays, cache_file, load_arrays, pack_json, save_arrays, unpack_json
from yolorep.data.threads import for_images
from yolorep.errors import UserError, one_line
from yolorep.images import ImageError, ImageReadError, probe_image

#: How many of them a line names.
_SHOWN = 5

Item = TypeVar("Item")
Result = TypeVar("Result")


class Probe(NamedTuple):
    """Height and width of an image, or its fault, and whether that lies in the image itself.

    Unusual numbers are no fault; the note says how they are taken.
    """

    size: tuple[int, int]
    fault: str = ""
    lasting: bool = True
    note: str = ""


def probe(path: str) -> Probe:
    """Decodes an image file."""
    notes: list[str] = []
    try:
        return Probe(probe_image(path, note=notes.append), note="; ".join(notes))
    except ImageError as error:
        return Probe((0, 0), str(error), lasting=not isinstance(error, ImageReadError))


def pack_probes(probes: Sequence[Probe]) -> tuple[Arrays, bool]:
    """Returns sizes and faults as cached, and whether they hold until the files change."""
    arrays: Arrays = {
        "sizes": np.array([probe.size for probe in probes], np.int32).reshape(-1, 2),
        "faults": pack_json({index: probe.fault for index, probe in enumerate(probes) if probe.fault}),
        "notes": pack_json(Counter(probe.note for probe in probes if probe.note)),
    }
    return arrays, all(probe.lasting for probe in probes)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], where: str) -> list[Result]:
    """Calls a function that reads files for every item, showing how far it is."""
    return for_images(function, items, desc=f"{where}: reading")


@dataclass(frozen=True)
class ProbedImages:
    """Image files and what they turned out to be.

    Attributes:
        paths: of the files.
        sizes: (n, 2) int32 height and width in pixels, EXIF orientation applied; 0 where it is no image.
        faults: number of an image -> why it is left out.
        notes: how unusual numbers were taken -> of how many images.
    """

    paths: list[str]
    sizes: NDArray[np.int32]
    faults: dict[int, str]
    notes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def unpack(cls, paths: list[str], arrays: Arrays) -> ProbedImages:
        """From arrays of :func:`pack_probes`."""
        faults = {int(index): fault for index, fault in unpack_json(arrays["faults"]).items()}
        return cls(paths, arrays["sizes"], faults, unpack_json(arrays["notes"]))

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(n,) bool, False for images left out."""
        usable = np.ones(len(self.paths), bool)
        usable[list(self.faults)] = False
        return usable

    def annotations(
        self,
        names: tuple[str, ...],
        category_ids: tuple[int, ...],
        *,
        truth: Truth,
        where: str,
        image_ids: Sequence[int | str] | None = None,
        notes: Sequence[str] = (),
        nothing: str = "expected images, found none that can be read",
    ) -> Annotations:
        """The annotations of the usable images; prints one line about them and those left out.

        Args:
            names: class names.
            category_ids: the data set's own id of each class.
            truth: objects of all images.
            where: data YAML and split, which the line and errors begin with.
            image_ids: the data set's own id of every image; from the file names when None.
            notes: parts of the line; empty ones are left out.
            nothing: the error if no image is usable.

        Raises:
            UserError: if no image is usable.
        """
        usable = self.usable
        if not usable.any():
            raise UserError(f"{where}: {nothing}; {self._left_out()}")
        chosen = np.flatnonzero(usable).tolist()
        paths = [self.paths[index] for index in chosen]
        truth = truth.of_images(usable)
        crowds = f"{truth.crowd.sum()} of them crowds" if truth.crowd.any() else ""
        taken = [f"{note} in {plural('image', count)}" for note, count in self.notes.items()]
        told = [f"{len(paths)} images, {len(truth.image)} boxes", crowds, *taken, *notes, self._left_out()]
        say(one_line(f"{where}: {'; '.join(filter(None, told))}"))
        ids = ids_of_files(paths) if image_ids is None else [image_ids[index] for index in chosen]
        return Annotations.of(names, category_ids, paths=paths, sizes=self.sizes[usable], image_ids=ids, truth=truth)

    def _left_out(self) -> str:
        if not self.faults:
            return ""
        named = [f"{Path(self.paths[index]).name} ({fault})" for index, fault in self.faults.items()]
        return f"{len(named)} skipped: {first_few(named)}; the first is {self.paths[next(iter(self.faults))]}"


def first_few(texts: Sequence[str]) -> str:
    """The first few of what is told in a line."""
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def probe_images(paths: list[str], where: str) -> ProbedImages:
    """Probes image files, or knows them from the cache."""
    cache = cache_file("sizes", paths)
    arrays = load_arrays(cache)
    if arrays is None:
        arrays, lasting = pack_probes(in_threads(probe, paths, where))
        if lasting:
            save_arrays(cache, arrays)
    return ProbedImages.unpack(paths, arrays)


def ids_of_files(paths: Sequence[str]) -> list[int] | list[str]:
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
