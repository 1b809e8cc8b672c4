"""Where results go: annotated images and videos, label files, tables, crops, a window."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypeVar
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.detections import Detections, class_name, yolo_text
from yolorep.errors import UserError
from yolorep.files import atomic_write, errors_named, fit_stem, valid_text, write_text
from yolorep.images import WRITTEN_SUFFIXES, write_image
from yolorep.media.frames import Frame, open_capture, opencv_name

Image = NDArray[np.uint8]
SinkT = TypeVar("SinkT", bound="Sink")
#: Frames a second of a video whose source does not tell.
DEFAULT_FPS = 30.0
#: What MPEG-4 can express, and OpenCV takes.
LEAST_FPS, MOST_FPS = 0.0011, 65535


class Sink(ABC):
    """Takes results one by one. A context manager: leaving it, by an exception too, finishes what was begun."""

    def takes(self, frame: Frame) -> bool:
        """Whether it writes anything for such a frame; :meth:`write` passes over any other."""
        return True

    @abstractmethod
    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        """Takes one result.

        Args:
            frame: what was looked at.
            detections: what was found, in pixels of ``frame.image``.
            drawn: ``frame.image`` with boxes, BGR.

        Raises:
            UserError: if this one cannot be written; others may be.
            OSError: if no other can be written either, see :data:`yolorep.files.DISK_ERRORS`.
        """

    def close(self) -> None:  # noqa: B027 (most sinks have nothing to finish)
        """Finishes the files. Called once, however the run ends."""

    def __enter__(self: SinkT) -> SinkT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OutputNames:
    """File names without a folder or suffix, which file systems take, so that no two results share one."""

    def __init__(self) -> None:
        self._of_input: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, path: str) -> str:
        """Returns the name of everything written for an input: its stem, numbered if another input has it already."""
        if path not in self._of_input:
            if "://" in path:
                url = urlsplit(path)
                stem = re.sub(r"[^\w\-.]", "_", Path(url.path).stem or url.netloc.rpartition("@")[2])
            else:
                stem = Path(path).stem
            self._of_input[path] = self.claim(stem)
        return self._of_input[path]

    def of_frame(self, frame: Frame) -> str:
        """Returns the input's name, for a video with the number of the frame, counted from 1."""
        name = self.of(frame.path)
        return self.claim(name, f"_{frame.index + 1}") if frame.is_video else name

    def claim(self, name: str, tail: str = "") -> str:
        """Returns ``name`` and ``tail``, ending in ``_2``, ``_3``, … if that is taken; a name too long is cut."""
        free, number = fit_stem(name, tail), 1
        while free.lower() in self._taken:  # file systems may not tell A from a
            number += 1
            free = fit_stem(name, f"{tail}_{number}")
        self._taken.add(free.lower())
        return free


class ImageSink(Sink):
    """Writes annotated still images under their own names."""

    def __init__(self, folder: Path, names: OutputNames) -> None:
        self._folder = folder
        self._names = names

    def takes(self, frame: Frame) -> bool:
        return not frame.is_video

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        if self.takes(frame):
            suffix = Path(frame.path).suffix.lower()
            suffix = suffix if suffix in WRITTEN_SUFFIXES else ".jpg"
            target = self._folder / f"{self._names.of(frame.path)}{suffix}"
            _spare_originals(target, frame.path)
            write_image(target, drawn)


class VideoSink(Sink):
    """Writes annotated videos as MP4 (MPEG-4 part 2, without sound), at the frame rate of what was read."""

    def __init__(self, folder: Path, names: OutputNames) -> None:
        self._folder = folder
        self._names = names
        self._source: str | None = None  # the video being written
        self._target = self._temporary = folder
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._count = 0
        self._file = ExitStack()

    def takes(self, frame: Frame) -> bool:
        return frame.is_video

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        if not self.takes(frame):
            return
        if frame.path != self._source:
            self.close()
            self._open(frame)
        assert self._writer is not None
        self._writer.write(self._fit(drawn))
        self._count += 1

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.release()
        self._writer = self._source = None
        # Renames the temporary file, however the run ended: what is written can be played. A damaged one is removed.
        with self._file:
            written = max(_count_frames(self._temporary), 0)
            if written < self._count:
                raise OSError(errno.ENOSPC, f"{written} of {self._count} frames are in it; is the disk full?")

    def _open(self, frame: Frame) -> None:
        self._target = self._folder / f"{self._names.of(frame.path)}.mp4"
        _spare_originals(self._target, frame.path)
        # MPEG-4 with its 4:2:0 chroma has even sides only; OpenCV would cut the odd row off.
        height, width = frame.image.shape[:2]
        self._size = (width + width % 2, height + height % 2)
        self._count = 0
        self._temporary = self._file.enter_context(atomic_write(self._target))
        # mp4v is encoded by every build of OpenCV; H.264 by few, for its licence.
        writer = cv2.VideoWriter(
            opencv_name(str(self._temporary)), cv2.VideoWriter.fourcc(*"mp4v"), _encoded_rate(frame.fps), self._size
        )
        if not writer.isOpened():
            with self._file:  # removes the empty file
                raise UserError(f"{self._target}: OpenCV cannot write this video ({width}x{height}); use --nosave")
        self._writer = writer
        self._source = frame.path

    def _fit(self, image: Image) -> Image:
        """Brings a frame to the size of the file; OpenCV drops any other silently."""
        width, height = self._size
        right, bottom = width - image.shape[1], height - image.shape[0]
        if (right, bottom) == (0, 0):
            return image
        if right in (0, 1) and bottom in (0, 1):
            return np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8)
        return np.asarray(cv2.resize(image, self._size), dtype=np.uint8)  # a stream changed its resolution


class TxtSink(Sink):
    """Writes labels as YOLO text: ``class cx cy w h [confidence]``, normalized to 0..1, one file an image or frame.

    An image without detections gets no file: that is how the format says "background".
    """

    def __init__(self, folder: Path, names: OutputNames, *, save_conf: bool = False) -> None:
        self._folder = folder
        self._names = names
        self._save_conf = save_conf

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        if not len(detections):
            return
        height, width = frame.image.shape[:2]
        text = yolo_text(detections, (height, width), with_confidence=self._save_conf)
        write_text(self._folder / f"{self._names.of_frame(frame)}.txt", text)


class CsvSink(Sink):
    """Writes every detection as a row of one table; rows are readable while the run goes on."""

    COLUMNS = ("path", "frame", "class_id", "class", "confidence", "x1", "y1", "x2", "y2")

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        self._path = path
        self._file = _open_text(path)
        self._rows = csv.writer(self._file, lineterminator="\n")
        with errors_named(path):
            self._rows.writerow(self.COLUMNS)

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        for box, confidence, class_id in zip(
            detections.xyxy, detections.confidence, detections.class_id.tolist(), strict=True
        ):
            number = frame.index + 1 if frame.is_video else ""
            corners = [f"{value:.2f}" for value in box]
            name = class_name(self._class_names, class_id)
            self._rows.writerow([frame.path, number, class_id, name, f"{confidence:.4f}", *corners])
        with errors_named(self._path):
            self._file.flush()

    def close(self) -> None:
        with errors_named(self._path):
            self._file.close()


class JsonSink(Sink):
    """Writes a list of COCO results: ``image_id, category_id, bbox [x, y, width, height], score``.

    ``image_id`` is the name of the file without suffix, a number where it is one, with the frame's number for videos;
    ``file_name`` holds the whole path. ``category_id`` is the class index of the model, counted from 0.
    """

    def __init__(self, path: Path, names: OutputNames) -> None:
        self._path = path
        self._names = names
        self._stack = ExitStack()
        temporary = self._stack.enter_context(atomic_write(path))  # no list without its closing bracket
        self._file = self._stack.enter_context(_open_text(temporary))
        self._separator = "[\n"

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        name, path = valid_text(self._names.of(frame.path)), valid_text(frame.path)
        image_id: str | int = int(name) if name.isdecimal() else name
        entry = {"image_id": image_id, "file_name": path}
        if frame.is_video:
            entry = {"image_id": f"{name}_{frame.index + 1}", "file_name": path, "frame": frame.index + 1}
        for (x1, y1, x2, y2), score, class_id in zip(
            detections.xyxy.tolist(), detections.confidence.tolist(), detections.class_id.tolist(), strict=True
        ):
            bbox = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            text = json.dumps({**entry, "category_id": class_id, "bbox": bbox, "score": round(score, 5)})
            with errors_named(self._path):
                self._file.write(self._separator + text)  # at once, for Ctrl-C may come at any moment
            self._separator = ",\n"

    def close(self) -> None:
        with self._stack:  # a file that cannot be finished is removed
            self._file.write("\n]\n" if self._file.tell() else "[]\n")


class CropSink(Sink):
    """Writes each detection as a picture of its own: ``<folder>/<class>/<name>.jpg``."""

    def __init__(self, folder: Path, names: OutputNames, class_names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names
        self._class_names = class_names
        self._of_class: defaultdict[str, OutputNames] = defaultdict(OutputNames)

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        number = f"_{frame.index + 1}" if frame.is_video else ""
        for crop, class_id in zip(detections.crop(frame.image), detections.class_id.tolist(), strict=True):
            if crop.size:
                # Names come from the weights file: they must not lead out of the folder.
                label = re.sub(r"[^\w\- ]", "_", class_name(self._class_names, class_id)).strip() or str(class_id)
                label = fit_stem(label)
                name = self._of_class[label.lower()].claim(self._names.of(frame.path), number)
                write_image(self._folder / label / f"{name}.jpg", crop)


class ViewSink(Sink):
    """Shows results in a window. Still images wait for a key; ``q`` or Escape sets ``quit``.

    Raises:
        UserError: if no window can be opened.
    """

    TITLE = "yolorep"

    def __init__(self) -> None:
        self.quit = False
        problem = window_problem()
        if problem:
            raise UserError(f"--view-img: no window can be opened ({problem}); leave it out and open the saved files")

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        cv2.imshow(self.TITLE, drawn)
        key = cv2.waitKey(1)
        while not frame.is_video and key < 0 and cv2.getWindowProperty(self.TITLE, cv2.WND_PROP_VISIBLE) > 0:
            key = cv2.waitKey(50)
        self.quit = key in (ord("q"), 27)

    def close(self) -> None:
        cv2.destroyAllWindows()


def window_problem() -> str | None:
    """Returns why OpenCV cannot open a window here, or None."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set"
    # Tried by another process: with a display it cannot reach, Qt aborts the process that asks.
    probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('probe')"]
    if subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode != 0:
        return "the display cannot be reached, or this OpenCV is built without windows: opencv-python-headless is"
    return None


def _spare_originals(target: Path, source: str) -> None:
    """Refuses to replace the source, or a file beside it: an original too, perhaps yet to be looked at.

    Raises:
        UserError: if ``target`` is such a file.
    """
    # A URL or camera index is no file.
    if not (os.path.exists(target) and os.path.exists(source)):
        return
    if os.path.samefile(target, source) or os.path.samefile(target.parent, Path(source).parent):
        raise UserError(
            f"{target}: expected a new file, found one among the originals, which would be overwritten; "
            "choose another --project or --name"
        )


def _encoded_rate(fps: float | None) -> float:
    """The nearest rate that the encoder takes: thousandths whose reduced fraction has a numerator of 16 bits."""
    if fps is None or not 0 < fps < math.inf:
        return DEFAULT_FPS
    rates = (Fraction(round(Fraction(fps) * scale), scale) for scale in (1000, 100, 10, 1))
    rate = next((rate for rate in rates if rate.numerator <= MOST_FPS), MOST_FPS)
    return float(max(rate, LEAST_FPS))


def _open_text(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error


def _count_frames(path: Path) -> int:
    capture = open_capture(str(path))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
