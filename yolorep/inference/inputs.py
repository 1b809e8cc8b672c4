"""Whatever a Predictor is given, as frames."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias, Union

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from yolorep.errors import UserError
from yolorep.images import ImageError, from_pillow
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.sources import is_live, is_one_image, open_source

Array: TypeAlias = NDArray[np.uint8]
#: What :func:`open_input` takes.
Input: TypeAlias = Union[str, "os.PathLike[str]", int, Array, Image.Image, Tensor, Iterable["Input"]]

COLOURS = ("bgr", "rgb")


def open_input(source: Input, *, colour: str = "bgr", vid_stride: int = 1) -> Iterator[Frame | Unreadable]:
    """Reads images from files, from memory, or from any mixture of them.

    Args:
        source: one of

            - what :func:`yolorep.media.sources.open_source` takes: a path, folder, pattern, URL, … or camera index
            - a (height, width), (height, width, 1), (height, width, 3) or (height, width, 4) uint8 array: grey, or
              colours in the order of ``colour``, whose alpha is dropped
            - a Pillow image of any mode, turned upright as its EXIF says
            - a (3, height, width) or (n, 3, height, width) tensor, **RGB** whatever ``colour`` says, uint8 or floats
              of 0 to 1, which are rounded to 1/255
            - a list, a generator or any other iterable of these
        colour: ``"bgr"``, as OpenCV reads files, or ``"rgb"``: of arrays.
        vid_stride: use every N-th frame of videos and streams.

    Returns:
        An iterator over frames. Images in memory have the path "" (Pillow's the file's name) and are counted by
        ``index`` within their iterable.

    Raises:
        UserError: at the call for a single input, at its turn for one of several, if it is none of these.
    """
    if colour not in COLOURS:
        raise UserError(f"colour: expected {' or '.join(map(repr, COLOURS))}, got {colour!r}")
    if isinstance(source, bool | bytes | bytearray | dict):
        raise UserError(_expected(type(source).__name__))
    if isinstance(source, str | os.PathLike | int):
        return open_source(os.fspath(source) if isinstance(source, os.PathLike) else str(source), vid_stride=vid_stride)
    if isinstance(source, np.ndarray | Tensor | Image.Image):
        return iter([_frame(image, source, index) for index, image in enumerate(_images(source, colour))])
    if isinstance(source, Iterable):
        return _each(source, colour, vid_stride)
    raise UserError(_expected(type(source).__name__))


def is_single(source: Input) -> bool:
    """Whether it is one image, for which there is one result."""
    if isinstance(source, str | os.PathLike):
        return is_one_image(os.fspath(source))
    return isinstance(source, np.ndarray | Image.Image) or (isinstance(source, Tensor) and source.ndim == 3)


def is_endless(source: Input) -> bool:
    """Whether its frames have no end as far as one can tell: a camera, the screen, a live stream."""
    return isinstance(source, str | os.PathLike | int) and is_live(str(source))


def _each(sources: Iterable[Input], colour: str, vid_stride: int) -> Iterator[Frame | Unreadable]:
    for index, source in enumerate(sources):
        if isinstance(source, np.ndarray | Tensor | Image.Image) and is_single(source):
            (image,) = _images(source, colour)
            yield _frame(image, source, index)
        else:
            yield from open_input(source, colour=colour, vid_stride=vid_stride)


def _frame(image: Array, source: Array | Tensor | Image.Image, index: int) -> Frame:
    return Frame(image, str(getattr(source, "filename", "")), index, 1, None, is_video=False)


def _images(source: Array | Tensor | Image.Image, colour: str) -> list[Array]:
    """BGR images."""
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return [_from_array(source, colour)]
    try:
        return [from_pillow(source)]
    except ImageError as error:
        raise UserError(f"expected a Pillow image that can be loaded, found one that is {error}") from error


def _from_array(array: Array, colour: str) -> Array:
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or channels not in (1, 3, 4) or array.size == 0:
        raise UserError(
            f"expected a uint8 array (height, width), grey, or (height, width, 3 or 4), {colour.upper()} or "
            f"{colour.upper()}A, got {array.shape} {array.dtype}"
        )
    if channels == 3 and colour == "bgr":
        return array
    codes = {1: cv2.COLOR_GRAY2BGR, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_BGRA2BGR}
    return np.asarray(cv2.cvtColor(array, cv2.COLOR_RGBA2BGR if channels == 4 and colour == "rgb" else codes[channels]))


def _from_tensor(tensor: Tensor) -> list[Array]:
    batch = tensor[None] if tensor.ndim == 3 else tensor
    floating = tensor.is_floating_point()
    if batch.ndim != 4 or batch.shape[1] != 3 or batch.numel() == 0 or not (floating or tensor.dtype == torch.uint8):
        raise UserError(
            "expected an RGB tensor (3, height, width) or (n, 3, height, width) of uint8, or of floats from 0 to 1, "
            f"got {tuple(tensor.shape)} {tensor.dtype}"
        )
    batch = batch.detach().cpu()
    if floating:
        low, high = batch.float().aminmax()
        if not (low >= 0 and high <= 1):  # nor NaN
            raise UserError(f"expected a tensor of floats from 0 to 1, got {low:g} to {high:g}; divide pixels by 255")
        batch = (batch.float() * 255).round().to(torch.uint8)
    return [np.ascontiguousarray(image[::-1].transpose(1, 2, 0)) for image in batch.numpy()]


def _expected(found: str) -> str:
    return (
        "expected a path, folder, pattern, URL or camera index, a numpy array, a Pillow image, a tensor, or an "
        f"iterable of these, got {found}"
    )
