"""The result of detecting objects in one image."""

from __future__ import annotations

import csv
import io
import json
import operator
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from yolorep.checks import share, whole_number
from yolorep.errors import UserError, shown, suggest
from yolorep.files import write_text

if TYPE_CHECKING:
    import pandas
    import supervision

    from yolorep.images import ImageLike

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Image = NDArray[np.uint8]

#: Classes that a Detections names in its repr, and rows that a notebook shows of it.
REPR_CLASSES, HTML_ROWS = 5, 20


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        xyxy: corners ``x1, y1, x2, y2`` in pixels.
        confidence: 0..1.
        class_id: index into the model's class names.
        class_name: its name, or None where it is not known.
        tracker_id: its identity, or None where no tracker ran.
    """

    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    class_name: str | None = None
    tracker_id: int | None = None

    def record(self) -> dict[str, Any]:
        """``class_id, class_name, confidence, x1, y1, x2, y2``, and ``tracker_id`` where there is one."""
        x1, y1, x2, y2 = self.xyxy
        values = {"class_id": self.class_id, "class_name": self.class_name, "confidence": self.confidence}
        tracker = {} if self.tracker_id is None else {"tracker_id": self.tracker_id}
        return {**values, "x1": x1, "y1": y1, "x2": x2, "y2": y2, **tracker}


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes of one image, validated: arrays that are indexed together, and a sequence of :class:`Detection`.

    >>> for one in detections.filter("person", confidence=0.5):
    ...     print(one.class_name, one.confidence, one.xyxy)
    >>> detections.save("street.json")

    Attributes:
        xyxy: (n, 4) float32 corners ``x1, y1, x2, y2`` in pixels.
        confidence: (n,) float32 in 0..1.
        class_id: (n,) int64 indices into the model's class names.
        tracker_id: (n,) int64 identities, or None where no tracker ran.
        names: the model's class names, or None where they are not known.
        image_size: (height, width) of the image in pixels, or None where it is not known.

    Raises:
        ValueError: if lengths, shapes or kinds disagree.
    """

    xyxy: FloatArray
    confidence: FloatArray
    class_id: IntArray
    tracker_id: IntArray | None = None
    names: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4:
            raise ValueError(f"xyxy: expected shape (n, 4), got {self.xyxy.shape}")
        for name in ("confidence", "class_id", "tracker_id"):
            value = getattr(self, name)
            if value is not None and value.shape != (len(self.xyxy),):
                raise ValueError(f"{name}: expected shape ({len(self.xyxy)},), got {value.shape}")
        if self.names is not None and not isinstance(self.names, tuple):
            raise ValueError(f"names: expected a tuple of class names, got {type(self.names).__name__}")
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"image_size: expected (height, width) in pixels, got {self.image_size}")

    @classmethod
    def empty(cls) -> Detections:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.xyxy)

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same; what is compared so has no hash."""
        if not isinstance(other, Detections):
            return NotImplemented
        arrays = ("xyxy", "confidence", "class_id", "tracker_id")
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays)
        return same and (self.names, self.image_size) == (other.names, other.image_size)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> Detections: ...

    def __getitem__(self, index: Any) -> Detection | Detections:
        """One Detection by its number; Detections by a slice, a boolean mask or numbers."""
        if isinstance(index, int | np.integer):
            return next(iter(self[[int(index)]]))
        tracker_id = None if self.tracker_id is None else self.tracker_id[index]
        return Detections(
            self.xyxy[index], self.confidence[index], self.class_id[index], tracker_id, self.names, self.image_size
        )

    def __iter__(self) -> Iterator[Detection]:
        trackers = repeat(None) if self.tracker_id is None else self.tracker_id.tolist()
        for corners, confidence, class_id, tracker_id in zip(
            _floats(self.xyxy), _floats(self.confidence), self.class_id.tolist(), trackers, strict=False
        ):
            yield Detection(tuple(corners), confidence, class_id, self._name(class_id), tracker_id)

    def __repr__(self) -> str:
        """How many of each class, and the most certain one."""
        if not len(self):
            return "Detections(none)"
        common = Counter(self.class_id.tolist()).most_common()
        found = [f"{count} {self._name(class_id) or f'class{class_id}'}" for class_id, count in common[:REPR_CLASSES]]
        if len(common) > REPR_CLASSES:
            found.append(f"{sum(count for _, count in common[REPR_CLASSES:])} of other classes")
        best = self[int(self.confidence.argmax())]
        certain = f"best {best.class_name or f'class{best.class_id}'} {best.confidence:.2f}"
        return f"Detections({len(self)}: {', '.join(found)}; {certain})"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        head = "".join(f"<th>{name}</th>" for name in self._columns)
        rows = (one.record().values() for one in islice(self, HTML_ROWS))
        body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
        rest = f"<p>and {len(self) - HTML_ROWS} more</p>" if len(self) > HTML_ROWS else ""
        return f"<p>{escape(repr(self))}</p>" + (f"<table><tr>{head}</tr>{body}</table>{rest}" if len(self) else "")

    def filter(
        self, classes: int | str | Iterable[int | str] | None = None, *, confidence: float | None = None
    ) -> Detections:
        """Keeps the detections of some classes, those that are certain enough, or both.

        Args:
            classes: names, indices or both mixed; one alone may stand without a list.
            confidence: keep what scores at least this.

        Raises:
            UserError: for a class that does not exist, or a confidence that is not 0 to 1.
        """
        keep = np.ones(len(self), np.bool_)
        if classes is not None:
            keep &= np.isin(self.class_id, class_indices(classes, self.names))
        if confidence is not None:
            keep &= self.confidence >= share("confidence", confidence)
        return self[keep]

    def crop(self, image: ImageLike) -> list[Image]:
        """Cuts every box out of the image that it was found in.

        Args:
            image: a file, a BGR, BGRA or grey uint8 array, a Pillow image, or an RGB tensor.

        Returns:
            One array a detection, a copy of all pixels that its box touches; one without pixels (``array.size == 0``)
            where a box lies outside the image.
        """
        pixels = self._pixels(image)
        corners = np.concatenate((np.floor(self.xyxy[:, :2]), np.ceil(self.xyxy[:, 2:])), axis=1).clip(0).astype(int)
        return [pixels[y1:y2, x1:x2].copy() for x1, y1, x2, y2 in corners.tolist()]

    def plot(
        self,
        image: ImageLike,
        *,
        line_thickness: int | None = None,
        hide_labels: bool = False,
        hide_conf: bool = False,
    ) -> Image:
        """Draws the boxes on a copy of the image that they were found in.

        Args:
            image: as :meth:`crop` takes it.
            line_thickness: box lines in pixels, text grows with them; by image size if None.
            hide_labels: boxes only.
            hide_conf: names without confidences.

        Returns:
            (height, width, 3) uint8 BGR, shown as a picture in notebooks.

        Raises:
            UserError: if it is no image, not one of the size that the boxes are of, or the line is no pixel wide.
        """
        from yolorep.drawing import draw
        from yolorep.images import Picture

        drawn = draw(
            self._pixels(image),
            self,
            self.names or (),
            line_thickness=None if line_thickness is None else whole_number("line_thickness", line_thickness),
            hide_labels=hide_labels,
            hide_conf=hide_conf,
        )
        return drawn.view(Picture)

    def records(self) -> list[dict[str, Any]]:
        """Each detection as a ``Detection.record()``."""
        return [one.record() for one in self]

    def to_json(self, *, indent: int | None = None) -> str:
        """The records as JSON."""
        return json.dumps(self.records(), ensure_ascii=False, indent=indent)

    def to_csv(self) -> str:
        """The records as a table with a head line, comma-separated."""
        text = io.StringIO()
        rows = csv.DictWriter(text, self._columns, lineterminator="\n")
        rows.writeheader()
        rows.writerows(self.records())
        return text.getvalue()

    def to_pandas(self) -> pandas.DataFrame:
        """The records as a table whose columns keep the arrays' types, also where there are none.

        Raises:
            UserError: if pandas is not installed.
        """
        names = np.array([self._name(class_id) for class_id in self.class_id.tolist()], object)
        arrays = (self.class_id, names, self.confidence, *self.xyxy.T, self.tracker_id)
        return _optional("pandas").DataFrame(dict(zip(self._columns, arrays, strict=False)))

    def to_supervision(self) -> supervision.Detections:
        """The same for the supervision library, class names as ``data["class_name"]``.

        Raises:
            UserError: if supervision is not installed.
        """
        names = [class_name(self.names or (), class_id) for class_id in self.class_id.tolist()]
        return _optional("supervision").Detections(
            xyxy=self.xyxy,
            confidence=self.confidence,
            class_id=self.class_id,
            tracker_id=self.tracker_id,
            data={} if self.names is None else {"class_name": np.array(names, np.str_)},
        )

    def save(self, path: str | os.PathLike[str], image: ImageLike | None = None) -> None:
        """Writes one file, whole or not at all; its suffix says what.

        Args:
            path: ``.json`` or ``.csv`` for the records; ``.txt`` for YOLO labels, whose ``class cx cy w h`` are
                relative to ``image_size``; ``.jpg``, ``.png``, ``.webp``, ``.bmp`` or ``.tif`` for the image with the
                boxes on it.
            image: what to draw on, as :meth:`crop` takes it; for pictures only.

        Raises:
            UserError: for any other suffix, or if what it needs is missing or the file cannot be written.
        """
        from yolorep.images import WRITTEN_SUFFIXES, write_image

        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            write_text(path, self.to_json(indent=2) + "\n")
        elif suffix == ".csv":
            write_text(path, self.to_csv())
        elif suffix == ".txt":
            if self.image_size is None:
                raise UserError(
                    f"{path}: YOLO labels are relative to the image, but image_size is None; save .json or .csv"
                )
            write_text(path, yolo_text(self, self.image_size))
        elif suffix in WRITTEN_SUFFIXES:
            if image is None:
                raise UserError(f"{path}: expected the image to draw on; call save(path, image)")
            if isinstance(image, str | os.PathLike) and path.resolve() == Path(image).resolve():
                raise UserError(f"{path}: expected a new file, found the image itself; choose another name")
            write_image(path, self.plot(image))
        else:
            raise UserError(f"{path}: expected .json, .csv, .txt or a picture such as .jpg or .png, got '{suffix}'")

    @property
    def _columns(self) -> list[str]:
        """What a record holds."""
        tracker = [] if self.tracker_id is None else ["tracker_id"]
        return ["class_id", "class_name", "confidence", "x1", "y1", "x2", "y2", *tracker]

    def _name(self, class_id: int) -> str | None:
        names = self.names or ()
        return names[class_id] if 0 <= class_id < len(names) else None

    def _pixels(self, image: ImageLike) -> Image:
        from yolorep.images import as_image

        pixels = as_image(image)
        height, width = pixels.shape[:2]
        if self.image_size not in (None, (height, width)):
            raise UserError(
                f"expected the image of (height, width) {self.image_size} that the boxes are of, got {(height, width)}"
            )
        return pixels


def class_name(names: Sequence[str], class_id: int) -> str:
    """Returns a class's name, or its number where it has none."""
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)


def class_indices(classes: int | str | Iterable[int | str], names: Sequence[str] | None) -> list[int]:
    """Looks classes up.

    Args:
        classes: names, indices or both mixed; one alone may stand without a list. Digits are an index, also as text and
            also where a class is called that.
        names: class names by index, or None where they are not known and only indices will do.

    Returns:
        Their indices; several where classes share a name.

    Raises:
        UserError: for a name or index that does not exist.
    """
    found: list[int] = []
    for item in classes if isinstance(classes, Iterable) and not isinstance(classes, str) else [classes]:
        if not isinstance(item, str) or item.isdecimal():
            try:
                index = int(item) if isinstance(item, str) else operator.index(item)
            except (TypeError, ValueError):  # Python reads no more than 4300 digits
                raise UserError(f"classes: expected names or indices, found {item!r}") from None
            if names is not None and not 0 <= index < len(names):
                raise UserError(f"classes: expected indices from 0 to {len(names) - 1}, got {shown(index)}")
            found.append(index)
            continue
        if names is None:
            raise UserError(f"classes: expected indices, as there are no class names here, got {item!r}")
        same = [index for index, name in enumerate(names) if name == item]
        if not same:
            hint = suggest(item, names) or textwrap.shorten(f"; there are {', '.join(names)}", 200, placeholder=" …")
            raise UserError(f"classes: there is no {item!r}{hint}")
        found += same
    return found


def yolo_text(detections: Detections, size: tuple[int, int], *, with_confidence: bool = False) -> str:
    """Detections of an image of ``size`` (height, width) as YOLO label lines ``class cx cy w h [confidence]``."""
    height, width = size
    low, high = detections.xyxy[:, :2], detections.xyxy[:, 2:]
    boxes = np.concatenate(((low + high) / 2, high - low), axis=1) / np.array([width, height] * 2, np.float32)
    lines = []
    for class_id, box, confidence in zip(detections.class_id, boxes, detections.confidence, strict=True):
        values = [*box, confidence] if with_confidence else [*box]
        lines.append(" ".join([str(class_id), *(f"{value:.6g}" for value in values)]) + "\n")
    return "".join(lines)


def _floats(values: FloatArray) -> Any:
    """Nested lists of the shortest numbers that are these float32: 0.9, not 0.8999999761581421."""
    return values.astype(np.str_).astype(np.float64).tolist()


def _cell(value: Any) -> str:
    """A value as HTML."""
    return f"{value:.2f}" if isinstance(value, float) else escape("" if value is None else str(value))


def _optional(package: str) -> Any:
    """Imports a package that yolorep does not depend on.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"this needs {package}: pip install {package}") from error
