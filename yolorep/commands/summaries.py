"""The lines that say what was found, one an input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from yolorep.console import plural, say_line
from yolorep.detections import Detections, class_name
from yolorep.inference.predictor import Timing
from yolorep.media.frames import Frame


@dataclass
class Summary:
    """What was found in one input.

    Attributes:
        path: the input.
        frames: images looked at.
        video: it is no still image.
        counts: how many objects of each class, in a video: how many frames with any. The same object is in many frames.
        timing: all frames together.
    """

    path: str
    frames: int = 0
    video: bool = False
    counts: Counter[int] = field(default_factory=Counter)
    timing: Timing = field(default_factory=Timing)

    def update(self, frame: Frame, detections: Detections, timing: Timing) -> None:
        self.frames += 1
        self.video = frame.is_video
        classes = detections.class_id.tolist()
        self.counts.update(set(classes) if self.video else classes)
        self.timing += timing

    def line(self, names: Sequence[str]) -> str:
        counts = [(class_name(names, class_id), count) for class_id, count in sorted(self.counts.items())]
        milliseconds = f"{1000 * self.timing.total / self.frames:.1f} ms"
        if self.video:
            parts = [plural("frame", self.frames), *(f"{name} in {count}" for name, count in counts)]
            milliseconds += "/frame"
        else:
            parts = [f"{count} {name}" for name, count in counts]
        return f"{self.path}: {', '.join([*parts, *([] if counts else ['nothing found']), milliseconds])}"

    def speed(self) -> str:
        each = 1000 / max(self.frames, 1)
        timing = self.timing
        return (
            f"{plural('image', self.frames)}, each {timing.preprocess * each:.1f} ms pre-process, "
            f"{timing.inference * each:.1f} ms inference, {timing.nms * each:.1f} ms NMS"
        )


class Summaries:
    """Says what was found in each input: in a file once the next one begins, in live sources at the end.

    Attributes:
        total: all inputs together.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.total = Summary("all")
        self._names = names
        self._begun: dict[str, Summary] = {}
        self._file = ""

    def begin(self, path: str) -> None:
        """Is told of a frame of a file: the one before it is done."""
        if path != self._file:
            self._say(self._file)
            self._file = path

    def update(self, frame: Frame, detections: Detections, timing: Timing) -> None:
        if frame.captured is None:
            self.begin(frame.path)
        for summary in (self.total, self._begun.setdefault(frame.path, Summary(frame.path))):
            summary.update(frame, detections, timing)

    def close(self) -> None:
        """Says the rest."""
        for path in list(self._begun):
            self._say(path)

    def _say(self, path: str) -> None:
        if path in self._begun:
            say_line(self._begun.pop(path).line(self._names))
