"""Text files of other people: in UTF-8, or in what their byte order mark tells."""

from __future__ import annotations

import os
from pathlib import Path

#: What a file may begin with to tell its encoding. UTF-32's comes before UTF-16's, which it begins with.
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)


class NotText(ValueError):
    """Bytes that are no text; the message says which, and in which line."""


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file.

    Raises:
        OSError: if it cannot be read.
        NotText: if it is none.
    """
    return decode_text(Path(path).read_bytes())


def decode_text(data: bytes) -> str:
    """The text of a file's bytes, without the byte order mark.

    Raises:
        NotText: if it is none.
    """
    mark, encoding = next((row for row in _MARKS if data.startswith(row[0])), (b"", "utf-8"))
    try:
        return data[len(mark) :].decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].decode(encoding, "ignore").count("\n") + 1, error.object[error.start]
        raise NotText(
            f"the byte 0x{byte:02x} in line {line}, which is no {encoding.upper()}; save the file as UTF-8"
        ) from error
