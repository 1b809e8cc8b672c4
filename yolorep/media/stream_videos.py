"""Annotated videos of sources that are read side by side, which may change their frame size, and skip frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from yolorep.detections import Detections
from yolorep.media.frames import Frame
from yolorep.media.sinks import DEFAULT_FPS, Image, OutputNames, Sink, VideoSink

#: A gap in a stream is this long in its video at most, in seconds.
_LONGEST_GAP = 1.0


@dataclass
class _Video:
    """One that is being written.

    Attributes:
        sink: writes it.
        path: whose name it gets.
        last: its last frame.
        until: where it ends, in seconds since 1970 if its frames have times.
    """

    sink: VideoSink
    path: str
    last: Image
    until: float


class StreamVideoSink(Sink):
    """Writes videos of files as :class:`VideoSink` does, and one for every live source and what is piped in.

    That of a live source runs at its real speed: a frame is repeated until the next was captured. Where the frame size
    changes, another file named after the size begins.
    """

    def __init__(self, folder: Path, names: OutputNames) -> None:
        self._folder, self._names = folder, names
        self._of_files = VideoSink(folder, names)
        self._of_streams: dict[tuple[str, tuple[int, ...]], _Video] = {}

    def takes(self, frame: Frame) -> bool:
        return frame.is_video

    def write(self, frame: Frame, detections: Detections, drawn: Image) -> None:
        if frame.captured is None and frame.fps:  # pictures that are piped in come without a rate
            self._of_files.write(frame, detections, drawn)
            return
        interval = 1 / (frame.fps or DEFAULT_FPS)
        video = self._video(frame, drawn)
        captured = video.until if frame.captured is None else frame.captured
        missing = max(0, round(min(captured - video.until, _LONGEST_GAP) / interval))
        for image in [*[video.last] * missing, drawn]:
            video.sink.write(replace(frame, path=video.path), detections, image)
        video.last, video.until = drawn, max(captured, video.until) + interval

    def close(self) -> None:
        sinks = [self._of_files, *(video.sink for video in self._of_streams.values())]
        self._of_streams = {}
        errors = []
        for sink in sinks:
            try:
                sink.close()
            except Exception as error:  # the others are to be finished all the same
                errors.append(error)
        if errors:
            raise errors[0]

    def _video(self, frame: Frame, drawn: Image) -> _Video:
        key = frame.path, frame.image.shape
        if key not in self._of_streams:
            path = frame.path
            if any(known == path for known, _ in self._of_streams):
                height, width = frame.image.shape[:2]
                path = f"{self._names.of(path)}_{width}x{height}.mp4"
            self._of_streams[key] = _Video(VideoSink(self._folder, self._names), path, drawn, frame.captured or 0.0)
        return self._of_streams[key]
