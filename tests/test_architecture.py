"""docs/architecture.md says which room imports which; here it is held against the imports themselves."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import pytest

from yolorep.config import resources_dir

ROOT = resources_dir()
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
#: Modules that are no folder: they lie below everything, or above it.
TOP = ("cli", "api")


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Room -> the rooms it imports; the single files of the lowest layer are one room, ``base``."""
    graph = grimp.build_graph("yolorep", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            source, target = room(importer), room(imported)
            if source and target and source != target:
                found.setdefault(source, set()).add(target)
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return None  # the package itself lists the public names
    if (ROOT / "yolorep" / parts[1]).is_dir() or parts[1] in TOP:
        return parts[1]
    return "base"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_room_imports_what_the_page_says(imports: dict[str, set[str]]) -> None:
    stated = {row[0].strip("`/"): set(re.findall(r"`(\w+)`", row[2])) for row in table("Rooms")}
    folders = {path.name for path in (ROOT / "yolorep").iterdir() if (path / "__init__.py").is_file()}
    assert stated.keys() == folders | {*TOP, "base"}
    assert stated == {name: imports.get(name, set()) for name in stated}


def test_rooms_are_listed_from_the_top(imports: dict[str, set[str]]) -> None:
    order = [row[0].strip("`/") for row in table("Rooms")]
    upwards = [(a, b) for a in order for b in imports.get(a, ()) if order.index(b) < order.index(a)]
    assert not upwards


def test_files_and_names_on_the_page_exist() -> None:
    files = re.findall(r"`((?:yolorep|cfg|docs|tests)?/?[\w/]+\.(?:py|md|toml|yaml))`", PAGE)
    assert len(files) > 20
    missing = [name for name in files if not (ROOT / name).exists() and not (ROOT / "yolorep" / name).exists()]
    assert not missing


def test_steps_of_a_walk_are_in_the_files_named() -> None:
    steps = re.findall(r"`(\w+(?:\.\w+)*)` \(`([\w/]+\.py)`\)", PAGE)
    assert len(steps) > 12
    missing = []
    for name, file in steps:
        path = next(path for path in (ROOT / "yolorep" / file, ROOT / file) if path.exists())
        text = path.read_text(encoding="utf-8")
        leaf = name.rpartition(".")[2]
        if not re.search(rf"(?:def|class) {leaf}\b|^{leaf}\b", text, re.MULTILINE):
            missing.append((name, file))
    assert not missing


def test_no_room_is_called_what_says_nothing() -> None:
    vague = {"utils", "util", "general", "common", "misc", "helpers"}
    assert not [path for path in Path(ROOT / "yolorep").rglob("*.py") if path.stem in vague]
