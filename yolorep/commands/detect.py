"""The ``detect`` command: a source in, annotated copies and result files out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path

from yolorep.console import plural, progress, say, say_line
from yolorep.data.catalog import load_data_config
from yolorep.detections import Detections, class_indices, class_name
from yolorep.drawing import draw
from yolorep.errors import UserError
from yolorep.files import new_run_dir
from yolorep.image_headers import limit_pixels
from yolorep.inference.predictor import Predictor, Timing
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.outputs import PatientSink, Written
from yolorep.media.sinks import (
    CropSink,
    CsvSink,
    ImageSink,
    JsonSink,
    OutputNames,
    Sink,
    TxtSink,
    ViewSink,
)
from yolorep.media.sources import open_source
from yolorep.media.stream_videos import StreamVideoSink
from yolorep.media.urls import is_stream, without_secrets
from yolorep.options import DetectOptions


def run(options: DetectOptions) -> Path | None:
    """Detects objects in everything the source names and writes what the options ask for.

    An input that cannot be read, or a result that cannot be written, is reported and the rest goes on. However the run
    ends (Ctrl-C included), files begun are finished: a video holds the frames done so far and can be played.

    Args:
        options: the flags of ``detect.py``.

    Returns:
        The folder of the results, None if nothing was to be saved.

    Raises:
        UserError: if an option is wrong, or not one input could be read, or not one result written.
        OSError: naming the file, if the disk is full.
    """
    if not options.source:
        raise UserError(
            "--source is missing: expected an image, folder, glob pattern, list file, video, camera index, URL, - or "
            "screen, for example --source street.jpg"
        )
    limit_pixels(options.max_pixels)
    items = open_source(
        options.source, vid_stride=options.vid_stride, reconnect_timeout=options.reconnect_timeout, note=say
    )
    given = load_data_config(options.data).names if options.data else None
    predictor = Predictor(
        options.weights,
        device=options.device,
        image_size=options.imgsz,
        confidence=options.conf_thres,
        iou=options.iou_thres,
        max_detections=options.max_det,
        classes=class_indices(options.classes, given) if options.classes and given else options.classes,
        agnostic_nms=options.agnostic_nms,
        augment=options.augment,
        half=options.half,
        nms_free=options.nms_free,
    )
    names = given or predictor.names
    if len(names) != len(predictor.names):
        raise UserError(
            f"{options.data}: expected names of the {len(predictor.names)} classes of {options.weights}, "
            f"found {len(names)}; leave --data out to use those in the weights"
        )
    with ExitStack() as stack:
        if isinstance(items, Generator):
            stack.enter_context(closing(items))  # last of all: stops the threads of live sources
        view = stack.enter_context(ViewSink()) if options.view_img else None
        items = _skip_unreadable(items, options.source)  # a run folder appears once there is something to put into it
        saves = (not options.nosave, options.save_txt, options.save_csv, options.save_json, options.save_crop)
        folder = new_run_dir(options.project, options.name, exist_ok=options.exist_ok) if any(saves) else None
        if folder:
            stack.callback(say, f"results: {folder}")  # after the sinks are closed, however the run ends
        sinks: list[Sink] = [view] if view else []
        written = Written()
        for sink in _file_sinks(options, folder, names) if folder else ():
            sinks.append(stack.enter_context(PatientSink(sink, written)))
        summaries = _Summaries(names)
        try:
            for path, group in groupby(items, key=_Grouping()):
                if path and not is_stream(path):  # one that is given up ends no file
                    summaries.begin(path)
                _detect_input(
                    group, summaries, predictor=predictor, names=names, sinks=sinks, options=options, view=view
                )
                if view and view.quit:
                    break
        finally:  # a camera is always stopped by Ctrl-C: its line counts too
            summaries.close()
        say(summaries.total.speed())
    if written.problem and not written.count:
        raise UserError(f"not one result could be written, the first: {written.problem}")
    return folder


@dataclass
class _Summary:
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


class _Grouping:
    """Which frames are shown as one: those of a file by its path, and all from the first live one on.

    Frames of live sources come in turn, and beside them those of files.
    """

    def __init__(self) -> None:
        self._live = False

    def __call__(self, item: Frame | Unreadable) -> str:
        self._live = self._live or (isinstance(item, Frame) and item.captured is not None)
        return "" if self._live else item.path


class _Summaries:
    """Says what was found in each input: in a file once the next one begins, in live sources at the end.

    Attributes:
        total: all inputs together.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.total = _Summary("all")
        self._names = names
        self._begun: dict[str, _Summary] = {}
        self._file = ""

    def begin(self, path: str) -> None:
        """Is told of a frame of a file: the one before it is done."""
        if path != self._file:
            self._say(self._file)
            self._file = path

    def update(self, frame: Frame, detections: Detections, timing: Timing) -> None:
        if frame.captured is None:
            self.begin(frame.path)
        for summary in (self.total, self._begun.setdefault(frame.path, _Summary(frame.path))):
            summary.update(frame, detections, timing)

    def close(self) -> None:
        """Says the rest."""
        for path in list(self._begun):
            self._say(path)

    def _say(self, path: str) -> None:
        if path in self._begun:
            say_line(self._begun.pop(path).line(self._names))


def _detect_input(
    items: Iterator[Frame | Unreadable],
    summaries: _Summaries,
    *,
    predictor: Predictor,
    names: Sequence[str],
    sinks: Sequence[Sink],
    options: DetectOptions,
    view: ViewSink | None,
) -> None:
    """Looks at the frames of one input, or of all live ones."""
    first = next(items)
    rest: Iterable[Frame | Unreadable] = chain([first], items)
    if isinstance(first, Frame) and first.is_video:
        rest = progress(rest, total=first.total, desc=Path(first.path).name, unit="frames")
    for item in rest:
        if isinstance(item, Unreadable):
            say_line(_problem(item))
            continue
        detections = predictor(item.image)
        summaries.update(item, detections, predictor.timing)
        drawn = item.image
        if view or not options.nosave:
            drawn = draw(
                item.image,
                detections,
                names,
                line_thickness=options.line_thickness,
                hide_labels=options.hide_labels,
                hide_conf=options.hide_conf,
            )
        for sink in sinks:
            sink.write(item, detections, drawn)
        if view and view.quit:
            return


def _file_sinks(options: DetectOptions, folder: Path, names: Sequence[str]) -> Iterator[Sink]:
    outputs = OutputNames()
    if not options.nosave:
        yield ImageSink(folder, outputs)
        yield StreamVideoSink(folder, outputs)
    if options.save_txt:
        yield TxtSink(folder / "labels", outputs, save_conf=options.save_conf)
    if options.save_csv:
        yield CsvSink(folder / "predictions.csv", names)
    if options.save_json:
        yield JsonSink(folder / "predictions.json", outputs)
    if options.save_crop:
        yield CropSink(folder / "crops", outputs, names)


def _skip_unreadable(items: Iterator[Frame | Unreadable], source: str) -> Iterator[Frame | Unreadable]:
    """Reports inputs up to the first readable one.

    Raises:
        UserError: if there is none.
    """
    problems: list[Unreadable] = []
    for item in items:
        if isinstance(item, Frame):
            for problem in problems:
                say_line(_problem(problem))
            return chain([item], items)
        problems.append(item)
    if len(problems) == 1:
        raise UserError(f"{problems[0].path}: {problems[0].reason}; give a --source that can be read")
    raise UserError(
        f"--source {without_secrets(source)}: none of {len(problems)} inputs can be read, "
        f"the first is {problems[0].path}: {problems[0].reason}"
    )


def _problem(item: Unreadable) -> str:
    return f"{item.path}: not read: {item.reason}"
