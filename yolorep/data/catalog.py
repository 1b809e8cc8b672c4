"""Data YAML files: which images and classes a data set has, and where they are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolorep.config import find_config, load_yaml, resources_dir
from yolorep.console import say
from yolorep.data.download import Download, download_all, parse_downloads
from yolorep.data.readers import READERS
from yolorep.data.readers.base import NamingReader, NotThere, Places, Reader, spellings
from yolorep.data.readers.yolo import YoloReader
from yolorep.data.shapes import ShapesOptions, parse_shapes, render_shapes
from yolorep.errors import UserError, suggest
from yolorep.limits import MOST_CLASSES

SPLITS = ("train", "val", "test")
_KEYS = ("path", *SPLITS, "names", "nc", "download", "generate", "kpt_shape")
#: An unknown key as like as this to one of ours that is missing is a slip of the pen.
_TYPO = 0.75


@dataclass(frozen=True)
class DataConfig:
    """A data YAML.

    Attributes:
        source: the YAML file.
        names: class names; from the COCO JSON's categories if the YAML has none.
        roots: folders that relative entries are looked up in, best first.
        splits: "train", "val", "test" -> the reader of its label format.
        shapes: set when the data is rendered instead of stored.
    """

    source: Path
    names: tuple[str, ...]
    roots: tuple[Path, ...]
    splits: dict[str, Reader]
    shapes: ShapesOptions | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def places(self, split: str) -> Places:
        """Where the paths of a split are looked up. Rendered data is rendered now if it has not been.

        Raises:
            UserError: if the split is not in the YAML.
        """
        if split not in self.splits:
            raise UserError(f"{self.source}: expected an entry '{split}', found only {', '.join(self.splits)}")
        roots = (render_shapes(self.shapes),) if self.shapes else self.roots
        return Places(roots, f"{self.source}: {split}")

    def images(self, split: str) -> list[str]:
        """Image files of a split, found without reading labels; ``load_annotations`` tells which of them are usable.

        Raises:
            UserError: if the split is not in the YAML, is not there (naming every path tried) or has no images.
        """
        places = self.places(split)
        return self.splits[split].images(places)


def load_data_config(
    name: str | Path, *, download: bool = False, readers: Sequence[type[Reader]] = (), quiet: bool = False
) -> DataConfig:
    """Reads a data YAML.

    Args:
        name: file name, looked up in the working directory, then among the packaged files.
        download: fetch the data the YAML lists under ``download`` if a split is missing.
        readers: label formats of your own, beside those of ``READERS``.
        quiet: do not tell again what is left out of the file.

    Raises:
        UserError: one line listing every fault of the file.
    """
    source = find_config(name, "data")
    content = load_yaml(source, texts=("names",))
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected a mapping with train, val and names, found {type(content).__name__}")
    faults: list[str] = []
    unused = _unused_keys([str(key) for key in content], faults)
    names = _parse_names(content.get("names"), content.get("nc"), faults)
    given = {split: content[split] for split in SPLITS if content.get(split) is not None}
    splits = {
        split: reader
        for split, entry in given.items()
        if (reader := _parse_entry(split, entry, (*READERS, *readers), faults)) is not None
    }
    kpt_shape = _parse_kpt_shape(content.get("kpt_shape"), faults)
    root = content.get("path")
    if root is not None and not isinstance(root, str):
        faults.append(f"path: expected a folder, found {root!r:.80}")
        root = None
    shapes = parse_shapes(content["generate"], faults) if content.get("generate") is not None else None
    if content.get("generate") is not None and root is not None:
        faults.append("path: expected none beside generate, which draws into the cache directory")
    downloads: list[Download] = []
    if isinstance(content.get("download"), str):
        unused.append("download, a script (only lists of url, sha256 and to are used; the script is ignored)")
    elif content.get("download") is not None:
        downloads = parse_downloads(content["download"], faults)
    if not given:
        faults.append("expected at least one of train, val, test")
    if names is None and not any(isinstance(reader, NamingReader) for reader in splits.values()):
        faults.append("names: missing (a list of class names)")
    told = [f"not used: {', '.join(unused)}"] if unused else []
    if faults:
        raise UserError(f"{source}: {'; '.join(faults + told)}")
    if told and not quiet:
        say(f"{source}: {told[0]}")

    roots = _roots(source, root)
    if downloads and not _complete(splits, roots):
        if not download:
            say(f"{source}: data is missing; pass --download to fetch {len(downloads)} file(s)")
        else:
            download_all(downloads, _download_root(source, roots))
    if names is None:
        names = _names_of_files(source, splits, roots)
    if kpt_shape is not None:
        splits = {
            split: replace(reader, kpt_shape=kpt_shape) if isinstance(reader, YoloReader) else reader
            for split, reader in splits.items()
        }
    return DataConfig(source=source, names=names, roots=roots, splits=splits, shapes=shapes)


def _unused_keys(keys: Sequence[str], faults: list[str]) -> list[str]:
    """Keys that are left out, such as those of other tools; what is nearly one of ours that is missing is a fault."""
    unused = []
    for key in keys:
        if key in _KEYS:
            continue
        if typo := suggest(key, _KEYS, taken=keys, alike=_TYPO):
            faults.append(f"{key:.40}: unknown key{typo}")
        else:
            unused.append(f"{key:.40}{suggest(key, _KEYS, taken=keys)}")
    return unused


def _parse_names(names: Any, nc: Any, faults: list[str]) -> tuple[str, ...] | None:
    """Class names; those of the YAML are text as it is written there."""
    if nc is not None and (not isinstance(nc, int) or isinstance(nc, bool) or not 1 <= nc <= MOST_CLASSES):
        faults.append(f"nc: expected a number of classes from 1 to {MOST_CLASSES}, found {nc!r:.40}")
        nc = None
    if isinstance(names, dict):
        numbers = {int(key): name for key, name in names.items() if re.fullmatch("[0-9]{1,6}", key)}
        if sorted(numbers) != list(range(len(names))):
            faults.append(f"names: expected the keys 0 to {len(names) - 1}, found {', '.join(list(names)[:10]):.80}")
        names = [name for _, name in sorted(numbers.items())] or list(names.values())
    if names is None:
        return None if nc is None else tuple(f"class{index}" for index in range(nc))
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        faults.append(f"names: expected a list of class names, found {str(names)[:80]}")
        return ()
    if len(names) > MOST_CLASSES:
        faults.append(f"names: expected at most {MOST_CLASSES} classes, found {len(names)}")
    if nc is not None and nc != len(names):
        faults.append(f"nc: expected {len(names)} (the number of names), found {nc}")
    return tuple(names)


def _parse_kpt_shape(value: Any, faults: list[str]) -> tuple[int, int] | None:
    """How many key points a row of labels has, and numbers of each."""
    if value is None:
        return None
    if isinstance(value, list) and [type(number) for number in value] == [int, int]:
        points, numbers = value
        if points > 0 and numbers in (2, 3):
            return points, numbers
    faults.append(f"kpt_shape: expected [points, 2 or 3], found {str(value)[:40]}")
    return None


def _parse_entry(split: str, value: Any, readers: Sequence[type[Reader]], faults: list[str]) -> Reader | None:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return next(reader for reader in readers if not reader.keys)(tuple(texts))
    if not isinstance(value, dict) or not value:
        *forms, last = (reader.form for reader in readers)
        faults.append(f"{split}: expected {', '.join(forms)}, or {last}, found {str(value)[:80]}")
        return None
    # The format meant is the one most of whose keys are there: a wrong one is told as such.
    reader = max((reader for reader in readers if reader.keys), key=lambda reader: len(value.keys() & set(reader.keys)))
    wrong = [f"{split}.{key}: unknown key{suggest(str(key), reader.keys)}" for key in value if key not in reader.keys]
    wrong += [
        f"{split}.{key}: expected a path, found {value.get(key)!r:.80}"
        for key in reader.keys
        if not isinstance(value.get(key), str)
    ]
    faults += wrong
    return None if wrong else reader(tuple(value[key] for key in reader.keys))


def _roots(source: Path, path: str | None) -> tuple[Path, ...]:
    places = (source.parent, Path.cwd())
    folders = spellings(path or ".")
    return tuple(dict.fromkeys(Path(os.path.abspath(place / folder)) for folder in folders for place in places))


def _complete(splits: dict[str, Reader], roots: tuple[Path, ...]) -> bool:
    return all(
        any(os.path.exists(path) for path in Places(roots, split).candidates(text))
        for split, reader in splits.items()
        for text in reader.paths
    )


def _download_root(source: Path, roots: tuple[Path, ...]) -> Path:
    """Where data is put: beside the YAML, but for a packaged YAML in the working directory."""
    packaged = source.resolve().is_relative_to((resources_dir() / "data").resolve())
    return roots[-1] if packaged else roots[0]


def _names_of_files(source: Path, splits: dict[str, Reader], roots: tuple[Path, ...]) -> tuple[str, ...]:
    """The names of the first split that is there, without those that are classes in none."""
    missing: list[NotThere] = []
    names: tuple[str, ...] = ()
    doubtful: frozenset[str] = frozenset()
    for split in ("val", "test", "train"):  # val first: its file is usually the smaller one
        if not isinstance(reader := splits.get(split), NamingReader) or (names and not doubtful):
            continue
        places = Places(roots, f"{source}: {split}")
        try:
            if names:
                doubtful -= set(reader.names(places)) - reader.doubtful_names(places)
            else:
                names, doubtful = reader.names(places), reader.doubtful_names(places)
        except NotThere as error:
            missing.append(error)
    if not names:
        raise missing[0]
    if len(names) > MOST_CLASSES:
        raise UserError(f"{source}: expected at most {MOST_CLASSES} classes, found {len(names)} categories")
    return tuple(name for name in names if name not in doubtful) or names
