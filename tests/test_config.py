"""YAML files: found, read, checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from yolorep.config import Hyp, Kind, cache_dir, find_config, load_yaml, resources_dir, validate
from yolorep.errors import UserError


def test_working_directory_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("data/shapes.yaml", "data") == resources_dir() / "data/shapes.yaml"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shapes.yaml").write_text("")
    assert find_config("data/shapes.yaml", "data") == Path("data/shapes.yaml")
    for name in ("yolov5n.yaml", "n.yaml"):
        (tmp_path / name).write_text("")
        for spelling in (name, name.removesuffix(".yaml")):
            assert find_config(spelling, "model") == Path(name)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "name", "packaged"),
    [
        ("data", "coco128.yaml", "data/coco128.yaml"),
        ("data", "coco128", "data/coco128.yaml"),
        ("hyp", "scratch-low.yaml", "cfg/hyp/scratch-low.yaml"),
        ("hyp", "hyp.scratch-low.yaml", "cfg/hyp/scratch-low.yaml"),  # its name in YOLOv5
        ("hyp", "yolorep", "cfg/hyp/yolorep.yaml"),
        ("model", "yolov5n", "cfg/yolov5/n.yaml"),
        ("model", "yolov5n.yaml", "cfg/yolov5/n.yaml"),
        ("model", "yolov5/n.yaml", "cfg/yolov5/n.yaml"),
        ("model", "yolov5s-ghost", "cfg/yolov5/s-ghost.yaml"),
        ("model", "yolorep/n", "cfg/yolorep/n.yaml"),
        ("model", "v3-tiny", "cfg/yolov5/v3-tiny.yaml"),
        ("model", "repvgg_a0", "cfg/repvgg/a0.yaml"),
        ("model", "RepVGG-A0", "cfg/repvgg/a0.yaml"),
        ("model", "yolov5n_mobileone", "cfg/yolov5n_mobileone.yaml"),
    ],
)
def test_bare_names_of_packaged_files(
    kind: Kind,
    name: str,
    packaged: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name, kind) == resources_dir() / packaged
    assert capsys.readouterr().err == f"{name}: the packaged {packaged}\n"


def test_paths_of_packaged_files_are_taken_silently(capsys: pytest.CaptureFixture[str]) -> None:
    for folder, kind in (("cfg/hyp", "hyp"), ("data", "data"), ("cfg/yolov5", "model"), ("cfg/fastvit/parts", "model")):
        for path in (resources_dir() / folder).glob("*.yaml"):
            name = path.relative_to(resources_dir())
            found = {find_config(spelling, kind).resolve() for spelling in (name, name.with_suffix(""), path)}
            assert found == {path.resolve()}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("data", "coco12", "did you mean 'coco128'"),
        ("model", "yolov5nn", "did you mean 'yolov5n'"),
        ("data", "data/shape.yaml", r"tried data/shape\.yaml and .*did you mean 'data/shapes\.yaml'"),
        ("data", "yolov5n", r"yolov5n: no such file; tried yolov5n and yolov5n\.yaml and "),
        ("model", "n", r"write one of cfg/yolorep/n\.yaml, cfg/yolov5/n\.yaml$"),
        ("model", "yolorep", "no such file"),  # a recipe has this name, which is no model
        ("model", "detect", "no such file"),  # a part of models
        ("model", "../yolov5n.yaml", "no such file"),
        ("model", "/yolov5n.yaml", "no such file"),
        ("model", "some/yolov5/n.yaml", "no such file"),
    ],
)
def test_what_is_not_found(
    kind: Kind, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        find_config(name, kind)


def test_all_faults_in_one_line() -> None:
    with pytest.raises(UserError) as raised:
        validate(Hyp, {"hsv": 0.1, "lr": 0.1, "lrf": -1, "mosaic": 2}, source="hyp.yaml")
    message = str(raised.value)
    assert "\n" not in message
    for part in ("hsv: unknown key (did you mean", "lr: unknown key", "lrf: expected", "mosaic: expected"):
        assert part in message, message
    assert "'lrf'" not in message  # it is in its place


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
