"""What a label format is: how a data YAML names a split of it, and how that becomes annotations."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from yolorep.data.annotations import Annotations
from yolorep.errors import UserError
from yolorep.images import IMAGE_SUFFIXES


class NotThere(UserError):
    """A path of a data YAML is in none of the places it was looked for."""


@dataclass(frozen=True)
class Places:
    """Where the paths of a split are looked up.

    Attributes:
        roots: folders, best first.
        where: data YAML and split, which errors begin with.
    """

    roots: tuple[Path, ...]
    where: str

    def candidates(self, text: str) -> list[Path]:
        """Every path that an entry may mean, best first."""
        places = [root / os.path.expanduser(text) for root in self.roots]
        if text.startswith("../"):
            # Roboflow writes ../train/images for a folder beside the YAML.
            places.append(self.roots[0] / text.removeprefix("../"))
        return list(dict.fromkeys(Path(os.path.abspath(place)) for place in places))

    def find(self, text: str) -> Path:
        """The first path that exists.

        Raises:
            NotThere: naming every path tried.
        """
        tried = self.candidates(text)
        for path in tried:
            if path.exists():
                return path
        raise NotThere(f"{self.where}: {text} does not exist; tried {', '.join(map(str, tried))}")


@dataclass(frozen=True)
class Reader(ABC):
    """One split in one label format, as the data YAML gives it. A format is a subclass.

    Attributes:
        form: what an entry looks like, for the error about one that looks otherwise.
        keys: an entry is a mapping of these to paths. YOLO text has none: its entry is a path or a list of paths.
        paths: as written in the YAML, in the order of ``keys``.
    """

    form: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]

    paths: tuple[str, ...]

    @abstractmethod
    def images(self, places: Places) -> list[str]:
        """Image files, found without reading labels; some may turn out to have none, or to be no images.

        Raises:
            UserError: if there are none.
        """

    @abstractmethod
    def read(self, names: tuple[str, ...], places: Places) -> Annotations:
        """Reads labels and image sizes; prints one line about what was found.

        ``probe.py`` has what formats share: probing images, leaving out faulty ones, the line.

        Args:
            names: class names; class ids are indices of them.
            places: where the files are.

        Raises:
            UserError: if there is no usable image or a label is wrong, naming the file and where in it.
        """


class NamingReader(Reader):
    """A format whose files name the classes themselves, so that the data YAML may leave ``names`` out."""

    @abstractmethod
    def names(self, places: Places) -> tuple[str, ...]:
        """Class names as the files give them.

        Raises:
            NotThere: if the files are not there.
            UserError: if they do not give them.
        """


def list_images(paths: Sequence[str], places: Places) -> list[str]:
    """The image files of folders, sorted, and of text files that name one a line, each file once.

    Raises:
        UserError: if a path is not there or has no images.
    """
    images: list[str] = []
    for text in paths:
        found = places.find(text)
        images += _list_folder(found, places.where) if found.is_dir() else _list_file(found, places)
    return list(dict.fromkeys(images))


def _list_folder(folder: Path, where: str) -> list[str]:
    images = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        # A leading dot: AppleDouble files and the like.
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )
    if not images:
        raise UserError(f"{where}: expected images ({' '.join(sorted(IMAGE_SUFFIXES))}), found none in {folder}")
    return images


def _list_file(file: Path, places: Places) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{places.where}: expected a folder or a text file with one image a line, found {file} ({error})"
        ) from error
    roots = tuple(map(str, dict.fromkeys((file.parent, *places.roots, Path.cwd()))))
    images = []
    for line in filter(None, lines):
        tried = [os.path.abspath(os.path.join(root, line)) for root in roots]
        # One that is nowhere is kept: the scan reports it beside the unreadable ones.
        images.append(next(filter(os.path.exists, tried), tried[0]))
    if not any(map(os.path.exists, images)):
        found = f"first line tried as {', '.join(dict.fromkeys(tried))}" if images else "the file is empty"
        raise UserError(
            f"{places.where}: expected one image path a line in {file}, found no image that exists; {found}"
        )
    return images
