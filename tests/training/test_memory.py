"""Freed memory is kept where the C library can be asked."""

from __future__ import annotations

import pytest

from yolorep.training.memory import keep_freed_memory


@pytest.mark.parametrize("library", [("glibc", "2.36"), ("", "")])
def test_freed_memory_is_kept_where_that_can_be_asked_for(
    library: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    class Libc:
        def mallopt(self, name: int, value: int) -> int:
            asked.append((name, value))
            return 1

    monkeypatch.setattr("platform.libc_ver", lambda: library)
    monkeypatch.setattr("ctypes.CDLL", lambda name: Libc())
    keep_freed_memory()
    assert asked == ([(-3, 2**25), (-1, 2**31 - 1)] if library[0] else [])
