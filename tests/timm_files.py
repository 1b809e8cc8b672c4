"""Model files that need the extra ``timm``: left out where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Of the tests of a shipped model file, by its path below ``cfg/``."""
    return [needs_timm] if name.startswith("timm/") else []
