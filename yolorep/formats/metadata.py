"""What an exported file says about itself, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolorep.errors import UserError, first_line
from yolorep.limits import LARGEST_IMAGE_SIZE, are_class_names
from yolorep.ops.letterbox import BORDER, Geometry, is_geometry
from yolorep.version import __version__

if TYPE_CHECKING:
    from yolorep.models.detector import Detector

#: How an image becomes the file's input, for programs that know nothing of yolorep.
PREPROCESSING = {
    "layout": "NCHW",
    "colour": "RGB",
    "range": [0, 1],
    "resize": "letterbox: aspect ratio kept, centred, bilinear",
    "border": BORDER,
}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a runtime needs to know beside the network itself.

    Attributes:
        names: class names by index.
        stride: what image sides are multiples of.
        strides: pixels per cell of each output level.
        image_size: the only (height, width) in pixels the file takes; None if any multiples of ``stride``.
        batch_size: the only batch size the file takes; None if any.
        version: the yolorep that wrote the file.
        nms_free: there is one candidate an object: the best scores are the detections, without NMS.
        fuse: the report of the fuse the file was made from.
        geometry: of the images that the network was trained on.
    """

    names: tuple[str, ...]
    stride: int
    strides: tuple[int, ...]
    image_size: tuple[int, int] | None
    batch_size: int | None
    version: str
    nms_free: bool = False
    fuse: Mapping[str, Any] = field(default_factory=dict)
    geometry: Geometry = field(default_factory=Geometry)

    @classmethod
    def of(
        cls,
        model: Detector,
        *,
        image_size: tuple[int, int] | None = None,
        batch_size: int | None = None,
        fuse: Mapping[str, Any] | None = None,
    ) -> Metadata:
        """What a file of this model says, written by this version.

        Args:
            model: what is written.
            image_size: the only (height, width) in pixels the file takes; None if any.
            batch_size: the only batch size it takes; None if any.
            fuse: the report of the fuse.
        """
        return cls(
            names=model.names,
            stride=model.max_stride,
            strides=model.strides,
            image_size=image_size,
            batch_size=batch_size,
            version=__version__,
            nms_free=model.nms_free,
            fuse=fuse or {},
            geometry=model.geometry,
        )

    def to_strings(self) -> dict[str, str]:
        """As key → JSON text, which every export format can carry."""
        values = {
            "yolorep": self.version,
            "names": self.names,
            "stride": self.stride,
            "strides": self.strides,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "dynamic": self.image_size is None,
            "nms_free": self.nms_free,
            "preprocessing": PREPROCESSING,
            "fuse": dict(self.fuse),
            "geometry": asdict(self.geometry),
        }
        return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str], *, path: Path) -> Metadata:
        """Reads what ``to_strings`` wrote.

        Args:
            strings: key → JSON text; further keys are ignored.
            path: the file they are from, for the error.

        Raises:
            UserError: if a key is missing or no such value.
        """
        if "yolorep" not in strings:
            raise UserError(f"{path}: expected a file written by 'yolorep export', found one without its metadata")
        try:
            values: dict[str, Any] = {key: json.loads(text) for key, text in strings.items() if key in _FORM}
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: {_EXPECTED}, found a fault in it: {first_line(error)[:200]}") from error
        values = {"nms_free": False, "geometry": {}, **values}  # which files of before lack
        for key, fits in _FORM.items():
            if key not in values or not fits(values[key]):
                found = repr(values[key])[:80] if key in values else "none"
                raise UserError(f"{path}: {_EXPECTED}, found a fault in it: {key}: {found}; export it again")
        size = values["image_size"]
        return cls(
            names=tuple(values["names"]),
            stride=values["stride"],
            strides=tuple(values["strides"]),
            image_size=None if size is None else (size[0], size[1]),
            batch_size=values["batch_size"],
            version=values["yolorep"],
            nms_free=values["nms_free"],
            fuse=values["fuse"],
            geometry=Geometry(**values["geometry"]),
        )


_EXPECTED = "expected the metadata of 'yolorep export'"
#: Images a batch that a file may have at most.
_MAX_BATCH = 1 << 16


def _is_count(value: Any, *, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


#: What a file says, key by key.
_FORM: dict[str, Callable[[Any], bool]] = {
    "yolorep": lambda value: isinstance(value, str) and value.isascii() and len(value) <= 100,
    "names": are_class_names,
    "stride": lambda value: _is_count(value, most=1024),
    "strides": lambda value: (
        isinstance(value, list) and 1 <= len(value) <= 16 and all(_is_count(stride, most=1024) for stride in value)
    ),
    "image_size": lambda value: (
        value is None
        or (
            isinstance(value, list)
            and len(value) == 2
            and all(_is_count(side, most=LARGEST_IMAGE_SIZE) for side in value)
        )
    ),
    "batch_size": lambda value: value is None or _is_count(value, most=_MAX_BATCH),
    "nms_free": lambda value: isinstance(value, bool),
    "fuse": lambda value: isinstance(value, dict),
    "geometry": is_geometry,
}
