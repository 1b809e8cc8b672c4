"""Where a program may find itself: without a home, without streams, in a folder that is gone.

Each case has a process of its own, for it changes what belongs to the whole process.
"""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case, Limits, command
from tests.hostile.workplace import Workplace
from yolorep.cli import main
from yolorep.config import cache_dir
from yolorep.data.catalog import load_data_config
from yolorep.errors import UserError, YolorepError

Run = Callable[[Callable[[], object]], None]


@pytest.fixture
def alone(hostile: Hostile, request: pytest.FixtureRequest) -> Run:
    """Runs a function in a process of its own, where it must not raise, not even an error for users."""

    def must_work(call: Callable[[], object]) -> None:
        try:
            call()
        except YolorepError as error:
            raise AssertionError(str(error)) from error

    def run(call: Callable[[], object]) -> None:
        hostile([Case(request.node.name, lambda: must_work(call))], limits=Limits(cpu=20.0))

    return run


def leave_home(temporary: Path) -> None:
    """As in a container whose user has a number only."""

    def nobody(_: object) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "USER", "LOGNAME", "YOLOREP_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    pwd.getpwuid = pwd.getpwnam = nobody  # type: ignore[assignment]
    tempfile.tempdir = str(temporary)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "val", "compare", "detect", "export", "fuse", "info"])
def test_commands_without_a_home_folder(name: str, alone: Run, workplace: Workplace, tmp_path: Path) -> None:
    def look() -> None:
        leave_home(tmp_path)
        os.chdir(workplace.folder)
        command(name, *workplace.lines[name])

    alone(look)


def test_the_cache_of_a_user_without_a_home_folder(alone: Run, tmp_path: Path) -> None:
    def look() -> None:
        leave_home(tmp_path)
        assert cache_dir() == tmp_path / f"yolorep-{os.getuid()}"

    alone(look)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder another user's")
def test_the_cache_of_another_user_is_not_used(alone: Run, tmp_path: Path) -> None:
    def look() -> None:
        leave_home(tmp_path)
        os.mkdir(tmp_path / "yolorep-0")
        os.chown(tmp_path / "yolorep-0", 1, 1)
        with pytest.raises(UserError, match="found another user's; set YOLOREP_CACHE"):
            cache_dir()

    alone(look)


@pytest.mark.parametrize("line", ["path: ~nosuchuser/data\ntrain: images", "train: ~nosuchuser/images"])
def test_the_home_of_nobody_is_a_folder_that_is_missing(line: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(f"{line}\nnames: [a]\n")
    with pytest.raises(UserError, match="~nosuchuser/"):
        load_data_config(tmp_path / "data.yaml").images("train")


def test_a_removed_working_folder_is_said(alone: Run, tmp_path: Path) -> None:
    def look() -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(YolorepError, match="expected a working directory, found that it was removed"):
            command("info", "--cfg", "yolov5n")

    alone(look)


@pytest.mark.parametrize("line", [["info"], ["detect"], ["compare", "--json", "a.pt", "b.pt", "--data", "x"]])
def test_without_streams_no_file_gets_their_numbers(line: list[str], alone: Run) -> None:
    def look() -> None:
        sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
        for number in range(3):
            os.close(number)
        assert main(line) == 2
        assert os.open(os.devnull, os.O_RDONLY) > 2

    alone(look)


def test_nobody_reads_any_more_what_is_printed(alone: Run, workplace: Workplace) -> None:
    def look() -> None:
        reading, writing = os.pipe()
        os.close(reading)
        sys.stdout = open(writing, "w")  # noqa: SIM115
        os.chdir(workplace.folder)
        assert main(["detect", *workplace.lines["detect"]]) == 141  # 128 + SIGPIPE, as of any program
        sys.stdout.close()

    alone(look)
