"""What an exported file says about itself, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolorep.errors import UserError
from yolorep.ops.letterbox import BORDER, Geometry
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
            values = {key: json.loads(strings[key]) for key in ("yolorep", "names", "stride", "strides", "fuse")}
            image_size, batch_size = json.loads(strings["image_size"]), json.loads(strings["batch_size"])
            if int(values["stride"]) < 1:
                raise ValueError(f"stride {values['stride']}")
            return cls(
                names=tuple(str(name) for name in values["names"]),
                stride=int(values["stride"]),
                strides=tuple(int(stride) for stride in values["strides"]),
                image_size=None if image_size is None else (int(image_size[0]), int(image_size[1])),
                batch_size=None if batch_size is None else int(batch_size),
                version=str(values["yolorep"]),
                nms_free=_flag(strings.get("nms_free", "false")),  # files of before there was a choice need NMS
                fuse=dict(values["fuse"]),
                geometry=Geometry(**json.loads(strings.get("geometry", "{}"))),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: expected the metadata of 'yolorep export', found a fault in it: {error}"
            ) from error


def _flag(text: str) -> bool:
    value = json.loads(text)
    if not isinstance(value, bool):
        raise ValueError(f"nms_free {text}")
    return value
