"""Going on where a result cannot be written."""

from __future__ import annotations

from dataclasses import dataclass

from yolorep.console import say_line
from yolorep.detections import Detections
from yolorep.errors import UserError
from yolorep.files import DISK_ERRORS
from yolorep.media.frames import Frame
from yolorep.media.sinks import Image, Sink


@dataclass
class Written:
    """What became of the results of a run, in all its sinks together.

    Attributes:
        count: results written.
        problem: what was wrong with the first that could not be written; empty if all could.
    """

    count: int = 0
    problem: str = ""


class TolerantSink(Sink):
    """Passes results to another sink. What that cannot write is said in one line an input, and the rest goes on.

    Args:
        sink: what writes; entered and closed by this one.
        written: what is counted in.
    """

    def __init__(self, sink: Sink, written: Written) -> None:
        self._sink = sink
        self._written = written
        self._given_up: set[str] = set()

    def takes(self, frame: Frame) -> bool:
        return frame.path not in self._given_up and self._sink.takes(frame)

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        if not self.takes(frame):
            return
        try:
            self._sink.write(frame, detections, drawn)
        except (UserError, OSError) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            problem = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            say_line(f"{frame.path}: not written: {problem}")
            self._written.problem = self._written.problem or problem
            self._given_up.add(frame.path)
        else:
            self._written.count += 1

    def close(self) -> None:
        self._sink.close()
