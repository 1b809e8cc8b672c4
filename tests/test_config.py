"""YAML files: found, read, checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from yolorep.config import Hyp, cache_dir, find_config, load_yaml, resources_dir, validate
from yolorep.errors import UserError


def test_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("data/shapes.yaml") == resources_dir() / "data/shapes.yaml"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shapes.yaml").write_text("")
    assert find_config("data/shapes.yaml") == Path("data/shapes.yaml")


def test_a_missing_file_names_what_was_tried() -> None:
    with pytest.raises(UserError, match=r"tried data/shape\.yaml and .*did you mean 'data/shapes\.yaml'"):
        find_config("data/shape.yaml")


def test_all_faults_in_one_line() -> None:
    with pytest.raises(UserError) as raised:
        validate(Hyp, {"lr": 0.1, "lrf": -1, "mosaic": 2}, source="hyp.yaml")
    message = str(raised.value)
    assert "\n" not in message
    for part in ("lr: unknown key (did you mean", "lrf: expected", "mosaic: expected"):
        assert part in message, message


@pytest.mark.parametrize("key", ["momentum", "warmup_momentum"])
def test_momentum_is_below_one(key: str) -> None:
    assert getattr(Hyp(**{key: 0.0}), key) == 0
    for value in (-0.1, 1.0):
        with pytest.raises(ValidationError, match=key):
            Hyp(**{key: value})


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [1", "expected YAML"), (b"\xff\xfe\x00", "expected a YAML text file"), (b"- 1", "expected a mapping")],
)
def test_what_is_no_yaml(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        validate(Hyp, load_yaml(path), source=path)


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_yaml(tmp_path)


def test_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOREP_CACHE", "/somewhere")
    assert cache_dir() == Path("/somewhere")
    monkeypatch.delenv("YOLOREP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/yolorep")
