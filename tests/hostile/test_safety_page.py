"""The limits that the page states are those of the code."""

from __future__ import annotations

from importlib import import_module

import pytest

from yolorep.config import resources_dir


@pytest.mark.parametrize(
    ("module", "name", "stated"),
    [
        ("options", "LARGEST", "| number in an option | {:,};"),
        ("options", "MOST_WORKERS", "| `--workers` | {:,}"),
        ("models.image_size", "LARGEST_IMAGE_SIZE", "| `--imgsz` | {:,} pixels"),
        ("errors", "LONGEST_LINE", "| line of an error | {:,} characters"),
    ],
)
def test_limits_are_those_of_the_code(module: str, name: str, stated: str) -> None:
    page = (resources_dir() / "docs/safety.md").read_text(encoding="utf-8")
    assert stated.format(getattr(import_module(f"yolorep.{module}"), name)) in page
