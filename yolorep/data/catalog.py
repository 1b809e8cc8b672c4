"""Data YAML files: which images and classes a data set has, and where they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolorep.config import find_config, load_yaml, resources_dir
from yolorep.console import say
from yolorep.data.coco import read_coco
from yolorep.data.download import Download, download_all, parse_downloads
from yolorep.data.shapes import ShapesOptions, parse_shapes, render_shapes
from yolorep.errors import UserError, suggest
from yolorep.images import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
_KEYS = ("path", *SPLITS, "names", "nc", "download", "generate")
#: Written into data YAMLs by annotation tools; tells nothing about the data.
_IGNORED_KEYS = frozenset({"roboflow", "author", "description", "license"})


@dataclass(frozen=True)
class CocoEntry:
    """A split given as COCO JSON, as written in the YAML."""

    images: str
    annotations: str


@dataclass(frozen=True)
class CocoSource:
    """A split given as COCO JSON, found on disk."""

    images: Path
    annotations: Path


@dataclass(frozen=True)
class DataConfig:
    """A data YAML.

    Attributes:
        source: the YAML file.
        names: class names; from the COCO JSON's categories if the YAML has none.
        roots: folders that relative entries are looked up in, best first.
        splits: "train", "val", "test" -> folders and list files, or a COCO entry, as written in the YAML.
        shapes: set when the data is rendered instead of stored.
    """

    source: Path
    names: tuple[str, ...]
    roots: tuple[Path, ...]
    splits: dict[str, tuple[str, ...] | CocoEntry]
    shapes: ShapesOptions | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def resolve(self, split: str) -> list[str] | CocoSource:
        """Finds a split on disk: the image files of folders and lists, or the two places of a COCO entry.

        Rendered data is rendered now if it has not been.

        Raises:
            UserError: if the split is not in the YAML, is not there (naming every path tried) or has no images.
        """
        if split not in self.splits:
            raise UserError(f"{self.source}: expected an entry '{split}', found only {', '.join(self.splits)}")
        roots = (render_shapes(self.shapes),) if self.shapes else self.roots
        entry = self.splits[split]
        where = f"{self.source}: {split}"
        if isinstance(entry, CocoEntry):
            return CocoSource(_find(entry.images, roots, where), _find(entry.annotations, roots, where))
        images: list[str] = []
        for text in entry:
            found = _find(text, roots, where)
            images += _list_folder(found, where) if found.is_dir() else _list_file(found, roots, where)
        return list(dict.fromkeys(images))


def load_data_config(name: str | Path, *, download: bool = False) -> DataConfig:
    """Reads a data YAML.

    Args:
        name: file name, looked up in the working directory, then among the packaged files.
        download: fetch the data the YAML lists under ``download`` if a split is missing.

    Raises:
        UserError: one line listing every fault of the file.
    """
    source = find_config(name)
    content = load_yaml(source)
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected a mapping with train, val and names, found {type(content).__name__}")
    faults = [
        f"{key}: unknown key{suggest(str(key), _KEYS)}"
        for key in content
        if key not in _KEYS and key not in _IGNORED_KEYS
    ]
    names = _parse_names(content.get("names"), content.get("nc"), faults)
    splits = {
        split: entry
        for split in SPLITS
        if content.get(split) is not None and (entry := _parse_entry(split, content[split], faults)) is not None
    }
    root = content.get("path")
    if root is not None and not isinstance(root, str):
        faults.append(f"path: expected a folder, found {root!r}")
        root = None
    shapes = parse_shapes(content["generate"], faults) if content.get("generate") is not None else None
    if content.get("generate") is not None and root is not None:
        faults.append("path: expected none beside generate, which draws into the cache directory")
    downloads: list[Download] = []
    if isinstance(content.get("download"), str):
        say(f"{source}: the download script is ignored; only lists of url, sha256 and to are used")
    elif content.get("download") is not None:
        downloads = parse_downloads(content["download"], faults)
    if not any(content.get(split) is not None for split in SPLITS):
        faults.append("expected at least one of train, val, test")
    if names is None and not any(isinstance(entry, CocoEntry) for entry in splits.values()):
        faults.append("names: missing (a list of class names)")
    if faults:
        raise UserError(f"{source}: {'; '.join(faults)}")

    roots = _roots(source, root)
    if downloads and not _complete(splits, roots):
        if not download:
            say(f"{source}: data is missing; pass --download to fetch {len(downloads)} file(s)")
        else:
            download_all(downloads, _download_root(source, roots))
    if names is None:
        names = _coco_names(source, splits, roots)
    return DataConfig(source=source, names=names, roots=roots, splits=splits, shapes=shapes)


def _parse_names(names: Any, nc: Any, faults: list[str]) -> tuple[str, ...] | None:
    if nc is not None and (not isinstance(nc, int) or isinstance(nc, bool) or nc < 1):
        faults.append(f"nc: expected a number of classes, found {nc!r}")
        nc = None
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            faults.append(
                f"names: expected the keys 0 to {len(names) - 1}, found {', '.join(map(str, list(names)[:10]))}"
            )
            names = list(names.values())
        else:
            names = [names[index] for index in range(len(names))]
    if names is None:
        return None if nc is None else tuple(f"class{index}" for index in range(nc))
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        faults.append(f"names: expected a list of class names, found {str(names)[:80]}")
        return ()
    if booleans := [str(name) for name in names if isinstance(name, bool)]:
        faults.append(
            f"names: expected text, found {', '.join(booleans[:10])}; "
            "quote words that YAML takes for true or false: 'yes', 'no', 'on', 'off'"
        )
    if nc is not None and nc != len(names):
        faults.append(f"nc: expected {len(names)} (the number of names), found {nc}")
    return tuple(map(str, names))


def _parse_entry(split: str, value: Any, faults: list[str]) -> tuple[str, ...] | CocoEntry | None:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    if isinstance(value, dict) and value:
        keys = ("images", "annotations")
        unknown = [f"{split}.{key}: unknown key{suggest(str(key), keys)}" for key in value if key not in keys]
        unknown += [
            f"{split}.{key}: expected a path, found {value.get(key)!r}"
            for key in keys
            if not isinstance(value.get(key), str)
        ]
        faults += unknown
        return None if unknown else CocoEntry(**value)
    faults.append(
        f"{split}: expected a folder, a list file, a list of these, or {{images: DIR, annotations: FILE.json}}, "
        f"found {str(value)[:80]}"
    )
    return None


def _roots(source: Path, path: str | None) -> tuple[Path, ...]:
    places = (source.parent, Path.cwd())
    folder = Path(path or ".").expanduser()
    return tuple(dict.fromkeys(Path(os.path.abspath(place / folder)) for place in places))


def _candidates(text: str, roots: tuple[Path, ...]) -> list[Path]:
    places = [root / Path(text).expanduser() for root in roots]
    if text.startswith("../"):
        # Roboflow writes ../train/images for a folder beside the YAML.
        places.append(roots[0] / text.removeprefix("../"))
    return list(dict.fromkeys(Path(os.path.abspath(place)) for place in places))


def _find(text: str, roots: tuple[Path, ...], where: str) -> Path:
    tried = _candidates(text, roots)
    for path in tried:
        if path.exists():
            return path
    raise UserError(f"{where}: {text} does not exist; tried {', '.join(map(str, tried))}")


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


def _list_file(file: Path, roots: tuple[Path, ...], where: str) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{where}: expected a folder or a text file with one image a line, found {file} ({error})"
        ) from error
    places = tuple(map(str, dict.fromkeys((file.parent, *roots, Path.cwd()))))
    images = []
    for line in filter(None, lines):
        tried = [os.path.abspath(os.path.join(place, line)) for place in places]
        # One that is nowhere is kept: the scan reports it beside the unreadable ones.
        images.append(next(filter(os.path.exists, tried), tried[0]))
    if not any(map(os.path.exists, images)):
        found = f"first line tried as {', '.join(dict.fromkeys(tried))}" if images else "the file is empty"
        raise UserError(f"{where}: expected one image path a line in {file}, found no image that exists; {found}")
    return images


def _complete(splits: dict[str, tuple[str, ...] | CocoEntry], roots: tuple[Path, ...]) -> bool:
    texts = [
        text
        for entry in splits.values()
        for text in ((entry.images, entry.annotations) if isinstance(entry, CocoEntry) else entry)
    ]
    return all(any(path.exists() for path in _candidates(text, roots)) for text in texts)


def _download_root(source: Path, roots: tuple[Path, ...]) -> Path:
    """Where data is put: beside the YAML, but for a packaged YAML in the working directory."""
    packaged = source.resolve().is_relative_to((resources_dir() / "data").resolve())
    return roots[-1] if packaged else roots[0]


def _coco_names(
    source: Path, splits: dict[str, tuple[str, ...] | CocoEntry], roots: tuple[Path, ...]
) -> tuple[str, ...]:
    # val first: its file is usually the smaller one.
    entries = [
        (split, entry) for split in ("val", "test", "train") if isinstance(entry := splits.get(split), CocoEntry)
    ]
    for _, entry in entries:
        for path in _candidates(entry.annotations, roots):
            if path.is_file():
                return tuple(read_coco(path).category_names)
    split, entry = entries[0]
    return tuple(read_coco(_find(entry.annotations, roots, f"{source}: {split}")).category_names)
