"""Reading the labels of a split, whatever their format."""

from __future__ import annotations

from yolorep.data.annotations import Annotations
from yolorep.data.catalog import DataConfig
from yolorep.files import real_paths


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
    places = config.places(split)
    annotations = config.splits[split].read(config.names, places)
    return annotations.single_class() if single_class else annotations


def count_linked(first: Annotations, second: Annotations) -> int:
    """How many images of the second split are, through links, images of the first; those of equal paths are meant."""
    paths = set(first.paths)
    real = set(real_paths(paths))
    others = [path for path in second.paths if path not in paths]
    return sum(path in real for path in real_paths(others))
