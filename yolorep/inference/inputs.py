"""Whatever a Predictor is given, as frames."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from yolorep.errors import UserError
from yolorep.images import as_image, from_tensor
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.sources import is_live, is_one_image, open_source
from yolorep.media.urls import is_stream

Array: TypeAlias = NDArray[np.uint8]
#: What :func:`open_input` takes.
Input: TypeAlias = Union[str, "os.PathLike[str]", int, Array, Image.Image, Tensor, Iterable["Input"]]

COLOURS = ("bgr", "rgb")


def open_input(
    source: Input,
    *,
    colour: str = "bgr",
    vid_stride: int = 1,
    reconnect_timeout: float | None = None,
    nested: bool = True,
) -> Iterator[Frame | Unreadable]:
    """Reads images from files, from memory, or from any mixture of them.

    Args:
        source: one of

            - what :func:`yolorep.media.sources.open_source` takes: a path, folder, pattern, URL, … or camera index
            - a (height, width), (height, width, 1), (height, width, 3) or (height, width, 4) uint8 array: grey, or
              colours in the order of ``colour``, whose alpha is dropped
            - a Pillow image of any mode, turned upright as its EXIF says
            - a (3, height, width) or (n, 3, height, width) tensor, **RGB** whatever ``colour`` says, uint8 or floats
              of 0 to 1, which are rounded to 1/255
            - a list, a generator or any other iterable of these, read one after the other; a list of URLs and camera
              indices alone is read side by side
        colour: ``"bgr"``, as OpenCV reads files, or ``"rgb"``: of arrays.
        vid_stride: use every N-th frame of videos and streams.
        reconnect_timeout: seconds without a frame after which a live stream is given up; for ever if None.
        nested: what an iterable yields may be several images itself.

    Returns:
        An iterator over frames. Images in memory have the path "" (Pillow's the file's name). The ``index`` of an image
        is its position in the folder, list, batch or iterable that it is in.

    Raises:
        UserError: at the call for a single input, at its turn for one of several, if it is none of these.
    """
    if colour not in COLOURS:
        raise UserError(f"colour: expected {' or '.join(map(repr, COLOURS))}, got {colour!r}")
    if isinstance(source, bool | bytes | bytearray | dict):
        raise UserError(_expected(type(source).__name__))
    if isinstance(source, str | os.PathLike | int):
        path = os.fspath(source) if isinstance(source, os.PathLike) else str(source)
        return open_source(path, vid_stride=vid_stride, reconnect_timeout=reconnect_timeout)
    if isinstance(source, np.ndarray | Tensor | Image.Image):
        images = from_tensor(source) if isinstance(source, Tensor) else [as_image(source, colour=colour)]
        return iter([_frame(image, source, index) for index, image in enumerate(images)])
    if nested and isinstance(source, list | tuple) and source and all(map(_is_stream, source)):
        return open_source([str(one) for one in source], vid_stride=vid_stride, reconnect_timeout=reconnect_timeout)
    if isinstance(source, Iterable):
        return _each(source, colour, vid_stride, reconnect_timeout, nested)
    raise UserError(_expected(type(source).__name__))


def is_single(source: Input) -> bool:
    """Whether it is one image, for which there is one result."""
    if isinstance(source, str | os.PathLike):
        return is_one_image(os.fspath(source))
    return isinstance(source, np.ndarray | Image.Image) or (isinstance(source, Tensor) and source.ndim == 3)


def is_endless(source: Input) -> bool:
    """Whether its frames have no end as far as one can tell: a camera, the screen, a live stream."""
    return isinstance(source, str | os.PathLike | int) and is_live(str(source))


def _each(
    sources: Iterable[Input], colour: str, vid_stride: int, reconnect_timeout: float | None, nested: bool
) -> Iterator[Frame | Unreadable]:
    for index, source in enumerate(sources):
        items = open_input(source, colour=colour, vid_stride=vid_stride, reconnect_timeout=reconnect_timeout)
        if not is_single(source):
            if not nested:
                found = source if isinstance(source, str | os.PathLike | int) else type(source).__name__
                raise UserError(
                    f"item {index}: expected one image an item, found {found}; pass it alone, or use stream()"
                )
            yield from items
            continue
        for item in items:
            yield replace(item, index=index) if isinstance(item, Frame) else item


def _is_stream(source: Input) -> bool:
    return isinstance(source, str | int) and not isinstance(source, bool) and is_stream(str(source))


def _frame(image: Array, source: Array | Tensor | Image.Image, index: int) -> Frame:
    return Frame(image, str(getattr(source, "filename", "")), index, 1, None, is_video=False)


def _expected(found: str) -> str:
    return (
        "expected a path, folder, pattern, URL or camera index, a numpy array, a Pillow image, a tensor, or an "
        f"iterable of these, got {found}"
    )
