"""The errors that reach users, and what their lines share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

#: Characters of an error's text that are shown, and of a word in it.
LONGEST_LINE, LONGEST_WORD = 2000, 400
#: Letters of a name that the closest one is looked for; the time it takes grows with their square.
LONGEST_NAME = 200


def one_line(text: str) -> str:
    """A text as one line that every terminal can show.

    What is typed or comes from a file may hold anything: line breaks, control characters and halves of surrogate pairs
    are written as escapes, and of a very long word or text the middle is left out.
    """
    text = re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: _without_middle(word[0], LONGEST_WORD), text)
    text = _without_middle(text, LONGEST_LINE)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _without_middle(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} [… {len(text) - 2 * half} characters …] {text[-half:]}"


def shown(value: object) -> str:
    """``repr(value)``, and words for a number of so many digits that Python does not write it."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


class YolorepError(Exception):
    """Something went wrong in a way that is understood. Shown as one line; the process exits with code 1."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UserError(YolorepError):
    """The user's input is wrong. Shown as one line; the process exits with code 2.

    The message says what was expected, what was found, where, and what to do.
    """


class OpenCVMissing(UserError, ImportError):
    """OpenCV is not installed, or cannot be loaded on this machine."""


class FuseError(YolorepError):
    """A fold is not exact or not possible: a defect of the block or of how it is used, never of the user's data."""


class ExportError(YolorepError):
    """An exported file does not compute what its model computes, or the format cannot express the model."""


def suggest(name: str, choices: Iterable[str], *, taken: Container[object] = (), alike: float = 0.6) -> str:
    """Returns ``" (did you mean 'X'?)"`` for the closest of ``choices``, or an empty string.

    Args:
        name: what was found.
        choices: what is known.
        taken: what is in its place already, and so was not meant.
        alike: the least likeness, from 0 to 1: more where many names begin alike.
    """
    if len(str(name)) > LONGEST_NAME:
        return ""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=alike)
    return f" (did you mean '{by_lower[close[0]]}'?)" if close and by_lower[close[0]] not in taken else ""


def first_line(error: Exception) -> str:
    """What a library's error says, without the lines it adds below."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def opencv_wanted() -> Iterator[None]:
    """Around what imports OpenCV: says what to install if that fails.

    Raises:
        OpenCVMissing: in place of Python's own error.
    """
    try:
        yield
    except ImportError as error:
        if error.name != "cv2":
            raise
        raise OpenCVMissing(
            f"OpenCV cannot be imported ({error}): pip install opencv-python, "
            "or opencv-python-headless on a machine without a screen"
        ) from error


#: How PyTorch and OpenCV say it: their errors are of no class of their own.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|size calculation overflowed|Insufficient memory")


@contextmanager
def memory_wanted() -> Iterator[None]:
    """Around work whose size the user chose: says in one line that the memory does not suffice.

    Raises:
        YolorepError: in place of the errors of Python, PyTorch and OpenCV.
    """
    try:
        yield
    except (YolorepError, OSError):
        raise
    except Exception as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise YolorepError(
            f"there is not enough memory for this ({first_line(error)}); lower --imgsz or --batch-size"
        ) from error
