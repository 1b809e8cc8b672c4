"""Atomic writes and run folders."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from yolorep.errors import UserError
from yolorep.files import SteadyFile, atomic_write, errors_named, new_run_dir, write_text


def test_replaces_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "a" / "file.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_the_suffix_is_kept_for_writers_that_look_at_it(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "é" * 125 + ".json", "a." + "b" * 253])
def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a" * 256, "a\0b"])
def test_a_name_that_the_file_system_does_not_take(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be written .* choose another name"):
        write_text(tmp_path / name, "text")
    assert not list(tmp_path.iterdir())


def test_text_that_is_none(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "b\udce9")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "b\\udce9"


def test_run_folders_count_up(tmp_path: Path) -> None:
    assert [new_run_dir(tmp_path, "exp").name for _ in range(3)] == ["exp", "exp2", "exp3"]
    assert new_run_dir(tmp_path, "exp", exist_ok=True).name == "exp"


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="--project"):
        new_run_dir(tmp_path / "runs", "exp")


def test_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(UserError, match="--project"):
        new_run_dir("/proc/nothing", "exp")
    with pytest.raises(UserError, match="choose a writable folder"):
        write_text(Path("/proc/nothing/file"), "x")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_steady_file_keeps_an_error_for_later(error: BaseException) -> None:
    """A writer in C++ would end the process."""

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise error

    file = SteadyFile(Full())
    assert file.write(b"half") == 4 and file.write(b"a file") == 6
    with pytest.raises(type(error)):
        file.check()


def test_errors_name_the_file_as_the_user_knows_it(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"could not be written \(No space left\): '.*/a.csv'"),
        errors_named(tmp_path / "a.csv"),
    ):
        raise OSError(28, "No space left")


def test_a_run_folder_of_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot create the results folder .*surrogates"):
        new_run_dir(tmp_path, "\ud800")
