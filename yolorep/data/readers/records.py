"""Values of JSON records: numbers and text that is one, by one exact rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from yolorep.data.annotations import ID_LIMIT
from yolorep.errors import UserError

#: Characters of a number that is text.
_LONGEST_NUMBER = 100


class Record(NamedTuple):
    """One entry of a list of the file, whose values are numbers or text that is one: ``12``, ``"12"``, ``12.0``.

    Attributes:
        value: what the file has.
        kind: "annotation", say.
        number: in the list, from 0.
        path: the file.
    """

    value: Any
    kind: str
    number: int
    path: Path

    def get(self, key: str) -> Any:
        """The value of a key; None where it is missing or null."""
        if not isinstance(self.value, dict):
            raise self.fault(f"expected a mapping, found {shown(self.value)}")
        return self.value.get(key)

    def integer(self, key: str) -> int:
        """The number of a key.

        Raises:
            UserError: if it is missing or no whole number of 64 bits.
        """
        found = as_number(value := self.get(key))
        if found is None or found % 1 or abs(found) >= ID_LIMIT:
            raise self.wrong(key, "a whole number", value)
        return int(found)

    def wrong(self, key: str, expected: str, value: Any) -> UserError:
        """The error about the value of a key."""
        return self.fault(f"{key}: expected {expected}, found {shown(value)}")

    def fault(self, told: str) -> UserError:
        """The error about the record."""
        own = self.value.get("id") if isinstance(self.value, dict) else None
        named = f" (id {shown(own)})" if own is not None else ""
        return UserError(f"{self.path}: {self.kind} {self.number + 1}{named}: {told}")


def as_number(value: Any) -> float | None:
    """A finite number, also one that is written as text; None for anything else. Whole ones stay exact."""
    if isinstance(value, str):
        if len(value) > _LONGEST_NUMBER:
            return None
        if re.fullmatch(r"\s*[-+]?[0-9]{1,19}(\.0*)?\s*", value):
            return int(value.partition(".")[0])
        if not re.fullmatch(r"\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*", value):
            return None
        value = float(value)
    # No isinstance: truth values are numbers to it.
    return value if type(value) in (int, float) and abs(value) < 1e300 else None


def image_key(image_id: Any) -> Any:
    """Of an image: a number and the text of it are the same one."""
    if isinstance(image_id, str):
        found = as_number(image_id) if re.fullmatch(r"-?[0-9.]{1,40}", image_id) else None
        own = isinstance(found, int) and str(found) == image_id.partition(".")[0]
        return found if own else image_id
    return image_id if type(image_id) in (int, float) else None


def is_text(value: str) -> bool:
    """Whether it can be printed and be a file's name."""
    return re.search("[\0\ud800-\udfff]", value) is None


def shown(value: Any) -> str:
    """A value in an error, shortened."""
    try:
        return f"{value!r:.80}"
    except RecursionError:
        return "lists within lists"
