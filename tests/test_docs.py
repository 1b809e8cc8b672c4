"""The documents point at files that exist and hold no unfilled figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from yolorep.config import resources_dir

ROOT = resources_dir()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    commands = re.findall(r"(?:cfg|benchmarks|examples)/[\w./-]+\.(?:yaml|py)", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    missing += [name for name in commands if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_figure_is_left_open(path: Path) -> None:
    words = set(re.findall(r"\b[A-Z]{3,}_[A-Z]{3,}\b", path.read_text(encoding="utf-8")))
    assert words <= {"YOLOREP_CACHE"}
