"""What a label format is: how a data YAML names a split of it, and how that becomes annotations."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from yolorep.console import plural
from yolorep.data.annotations import Annotations
from yolorep.errors import UserError
from yolorep.files import distinct_files, is_device_or_pipe, walk_files
from yolorep.images import IMAGE_SUFFIXES, passed_over
from yolorep.texts import NotText, read_text

#: Of an animation the first frame is taken.
_SUFFIXES = IMAGE_SUFFIXES | {".gif"}


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
        places = [root / spelling for spelling in spellings(text) for root in self.roots]
        # Roboflow writes ../train/images for a folder beside the YAML.
        beside = [self.roots[0] / spelling[3:] for spelling in spellings(text) if spelling.startswith("../")]
        return list(dict.fromkeys(Path(os.path.abspath(place)) for place in (*beside, *places)))

    def find(self, text: str) -> Path:
        """The first path that exists.

        Raises:
            NotThere: naming every path tried.
            UserError: if it is a device or pipe.
        """
        tried = self.candidates(text)
        for path in tried:
            if is_device_or_pipe(path):
                raise UserError(f"{self.where}: expected a file or folder, found {path}, a device or pipe")
            if os.path.exists(path):  # unlike Path.exists, also for names that no file can have
                return path
        hint = "" if text.isprintable() else " (in double quotes, YAML takes \\t for a tab: write / in paths)"
        raise NotThere(f"{self.where}: {text} does not exist{hint}; tried {', '.join(map(str, tried))}")


def spellings(text: str) -> list[str]:
    """A path as it is written, ``~`` as the home folder, and with ``/`` for the backslashes of another system."""
    paths = (text, text.replace("\\", "/"))
    return list(dict.fromkeys(map(os.path.expanduser, paths)))


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

    def doubtful_names(self, places: Places) -> frozenset[str]:
        """Those of the names that are no classes, unless another split has objects of them."""
        return frozenset()


class Found(NamedTuple):
    """The image files of a split, and what is to be told about those left out."""

    paths: list[str]
    notes: list[str]


def list_images(paths: Sequence[str], places: Places) -> list[str]:
    """The image files of folders, sorted, and of text files that name one a line, each file once.

    Raises:
        UserError: if a path is not there or has no images.
    """
    return find_images(paths, places).paths


def find_images(paths: Sequence[str], places: Places) -> Found:
    """As :func:`list_images`, with a note on files that are not read and one on links to images already there.

    Raises:
        UserError: if a path is not there or has no images.
    """
    images: list[str] = []
    others: list[str] = []
    notes: list[str] = []
    for text in paths:
        found = places.find(text)
        images += _list_folder(found, places.where, others, notes) if found.is_dir() else _list_file(found, places)
    named = dict.fromkeys(images)
    distinct = distinct_files(named)
    again = len(named) - len(distinct)
    notes += [passed_over(others), f"{plural('link', again)} to images already there left out" if again else ""]
    return Found(distinct, [note for note in notes if note])


def _list_folder(folder: Path, where: str, others: list[str], notes: list[str]) -> list[str]:
    """The images below a folder; other files are added to ``others``, folders that cannot be read to ``notes``."""
    images: list[str] = []
    for path in walk_files(str(folder), lambda error: notes.append(f"{error.filename}: {error.strerror}")):
        name = os.path.basename(path)
        # A leading dot: AppleDouble files and the like.
        wanted = os.path.splitext(name)[1].lower() in _SUFFIXES and not name.startswith(".")
        (images if wanted else others).append(path)
    if not images:
        told = "".join(f"; {note}" for note in (passed_over(others), *notes) if note)
        raise UserError(f"{where}: expected images ({' '.join(sorted(_SUFFIXES))}), found none in {folder}{told}")
    return sorted(images)


def _list_file(file: Path, places: Places) -> list[str]:
    try:
        lines = [line for text in read_text(file).splitlines() if (line := text.strip())]
    except (OSError, NotText) as error:
        reason = error if isinstance(error, NotText) else error.strerror
        raise UserError(
            f"{places.where}: expected a folder or a text file with one image a line, found {file} ({reason})"
        ) from error
    roots = tuple(map(str, dict.fromkeys((file.parent, *places.roots, Path.cwd()))))

    def candidates(line: str) -> Iterator[str]:
        return (os.path.abspath(os.path.join(root, path)) for path in spellings(line) for root in roots)

    found = [next(filter(os.path.exists, candidates(line)), "") for line in lines]
    if not any(found):
        told = f"first line tried as {', '.join(dict.fromkeys(candidates(lines[0])))}" if lines else "the file is empty"
        raise UserError(f"{places.where}: expected one image path a line in {file}, found no image that exists; {told}")
    # One that is nowhere is kept: the scan reports it beside the unreadable ones.
    return [path or next(candidates(line)) for path, line in zip(found, lines, strict=True)]
