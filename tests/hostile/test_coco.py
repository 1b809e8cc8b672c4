"""COCO JSON that nobody meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.toy import load, write_coco
from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case
from tests.hostile.mutate import HOSTILE_VALUES, mutate_document, rng

#: Python writes numbers of no more digits.
VALUES = [value for value in HOSTILE_VALUES if not (isinstance(value, int) and value > 10**1000)]


@pytest.fixture
def yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    return write_coco(tmp_path)


def case(yaml: Path, name: str, content: bytes) -> Case:
    def write() -> None:
        (yaml.parent / "instances.json").write_bytes(content)

    return Case(name, lambda: load(yaml, "val"), write)


def mutated(yaml: Path, text: str, seed: int) -> Case:
    content = mutate_document(text, rng("coco", seed), seed, parse=json.loads, write=json.dumps, values=VALUES)
    return case(yaml, f"coco {seed}", content)


def test_mutated_files(yaml: Path, hostile: Hostile) -> None:
    text = (yaml.parent / "instances.json").read_text()
    hostile(mutated(yaml, text, seed) for seed in range(45))


@pytest.mark.slow
def test_many_mutated_files(yaml: Path, hostile: Hostile) -> None:
    text = (yaml.parent / "instances.json").read_text()
    hostile(mutated(yaml, text, seed) for seed in range(45, 345))


@pytest.mark.slow
@pytest.mark.parametrize("list_name", ["images", "annotations", "categories"])
def test_every_value_in_every_place(list_name: str, yaml: Path, hostile: Hostile) -> None:
    content = json.loads((yaml.parent / "instances.json").read_text())
    cases = []
    for key in content[list_name][0]:
        for number, value in enumerate(VALUES):
            changed = json.loads(json.dumps(content))
            changed[list_name][0][key] = value
            cases.append(case(yaml, f"{list_name} {key} {number}", json.dumps(changed).encode()))
    hostile(cases)


def test_large_files(yaml: Path, hostile: Hostile) -> None:
    names = [{"id": number, "name": f"n{number}", "supercategory": f"n{number + 1}"} for number in range(101_000)]
    images = [{"id": number, "file_name": "0.png"} for number in range(1)]
    hostile(
        [
            case(yaml, "lists within lists", b"[" * 1_000_000),
            case(yaml, "nearly too deep", b'{"images": ' + b"[" * 900 + b"]" * 900 + b', "categories": []}'),
            case(yaml, "digits", b'{"images": [], "categories": [{"id": ' + b"9" * 20_000 + b"}]}"),
            case(yaml, "categories", json.dumps({"images": images, "categories": names, "annotations": []}).encode()),
        ]
    )
