"""The ``detect`` command: a source in, annotated copies and result files out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, groupby
from pathlib import Path

from yolorep.commands.summaries import Summaries
from yolorep.console import progress, say, say_line
from yolorep.data.catalog import load_data_config
from yolorep.detections import class_indices
from yolorep.drawing import draw
from yolorep.errors import UserError
from yolorep.files import new_run_dir
from yolorep.image_headers import limit_pixels
from yolorep.inference.predictor import Predictor
from yolorep.media.frames import Frame, Unreadable
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
from yolorep.media.tolerant_sink import TolerantSink, Written
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
            sinks.append(stack.enter_context(TolerantSink(sink, written)))
        summaries = Summaries(names)
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


class _Grouping:
    """Which frames are shown as one: those of a file by its path, and all from the first live one on.

    Frames of live sources come in turn, and beside them those of files.
    """

    def __init__(self) -> None:
        self._live = False

    def __call__(self, item: Frame | Unreadable) -> str:
        self._live = self._live or (isinstance(item, Frame) and item.captured is not None)
        return "" if self._live else item.path


def _detect_input(
    items: Iterator[Frame | Unreadable],
    summaries: Summaries,
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
