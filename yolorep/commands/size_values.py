"""``--imgsz 640`` and ``--imgsz 480 640``: a long side, or height and width."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence

#: How the flag is written.
_FLAG = r"--im(?:gsz|g|g-size)"


def join_sizes(argv: Sequence[str]) -> list[str]:
    """Numbers that follow the flag as one value, ``--imgsz=480,640``: argparse would take the files after them too."""
    joined: list[str] = []
    for argument in argv:
        if re.fullmatch(r"\d+", argument) and joined and re.fullmatch(rf"{_FLAG}(=\d+(,\d+)*)?", joined[-1]):
            joined[-1] += f"{',' if '=' in joined[-1] else '='}{argument}"
        else:
            joined.append(argument)
    return joined


def parse_size(text: str) -> int | tuple[int, int]:
    """A long side, or (height, width), of which commas or an x may stand between.

    Raises:
        ArgumentTypeError: if it is neither.
    """
    numbers = re.fullmatch(r"[(\[]?(\d{1,9})(?:[,x](\d{1,9}))?[)\]]?", text.replace(" ", ""))
    if numbers is None:
        found = text.replace(",", " ")
        raise ArgumentTypeError(f"expected pixels, one number or height and width such as 480 640, found {found!r}")
    height, width = numbers.groups()
    return int(height) if width is None else (int(height), int(width))


def parse_side(text: str) -> int:
    """A long side where nothing else is possible.

    Raises:
        ArgumentTypeError: if it is no number, or there are two.
    """
    try:
        return int(text)
    except ValueError:
        found = text.replace(",", " ")
        raise ArgumentTypeError(f"expected one number here, the side in pixels, found {found!r}") from None
