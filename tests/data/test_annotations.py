from __future__ import annotations

import os

import pytest

from yolorep.data.annotations import FlatStrings


def test_flat_strings() -> None:
    texts = ["", "a", "ümläut/日本.jpg", "b" * 300, os.fsdecode(b"bad\xff.jpg")]
    strings = FlatStrings.of(texts)
    assert list(strings) == texts
    assert strings[-1] == texts[-1]
    with pytest.raises(IndexError):
        strings[5]
    assert len(FlatStrings.of([])) == 0
