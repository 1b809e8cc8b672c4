"""Signals sent to every command, at moments that it announces."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sys
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from tests.hostile.commands import TIMEOUT, Command, half_written
from tests.inference.white_box import write_white_box
from tests.media.files import probe_video, write_video
from tests.training.toy_run import same_weights, write_toy_data
from yolorep.models.detector import build_network
from yolorep.weights.checkpoint import save_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="sends signals as on Linux"),
]
TRAIN = ["train", "--cfg", "model.yaml", "--data", "data.yaml", "--imgsz", 64, "--batch-size", 2, "--device", "cpu"]
TRAIN += ["--epochs", 12, "--workers", 2, "--project", "runs", "--log", "csv"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_toy_data(tmp_path)
    return tmp_path


@pytest.fixture
def weights(work: Path) -> Path:
    network = build_network(work / "model.yaml", names=["blue", "green"])
    save_checkpoint(work / "w.pt", network, data="data.yaml")
    return work / "w.pt"


def resume_flags(out: str) -> list[str]:
    """What the last line says to go on with."""
    found = re.search(r"go on with (--resume .*)$", out.strip())
    assert found, out
    return found[1].split()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happens to."""
    work = tmp_path_factory.mktemp("whole")
    write_toy_data(work)
    assert Command(*TRAIN, folder=work).end()[0] == 0
    return work / "runs/exp"


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("train: 6 images", SIGHUP),
        ("val: 3 images", SIGINT),
        ("results go to", SIGTERM),
        ("epoch 2/12", SIGINT),
        ("epoch 2/12", SIGTERM),
        ("epoch 2/12", SIGHUP),
        ("epoch 12/12", SIGTERM),
    ],
)
def test_training_goes_on_bit_identically(work: Path, whole: Path, line: str, number: signal.Signals) -> None:
    """Data loading processes get the signal too where a terminal sends it."""
    code, out = Command(*TRAIN, folder=work).wait_for(line).send(number, group=number != SIGTERM).end()
    if line == "epoch 12/12" and code == 0:  # the signal came too late, on a busy machine
        return
    assert code == 128 + number
    said = "interrupted" if number == SIGINT else f"ended by {number.name}"
    assert out.strip().splitlines()[-1].startswith(f"{said}: ")
    assert not half_written(work)
    if "start again with the same command" in out:
        assert "images" in line and not list(work.rglob("*.pt"))
        return
    if "the run is finished" not in out:
        assert Command("train", *resume_flags(out), "--device", "cpu", folder=work).end()[0] == 0
    assert same_weights(whole, work / "runs/exp")


@pytest.mark.parametrize("line", ["results go to", "epoch 2/12"])
def test_a_second_signal_ends_training_without_half_a_file(work: Path, line: str) -> None:
    command = Command(*TRAIN, folder=work).wait_for(line).send(SIGTERM).send(SIGTERM)
    code, _ = command.end()
    assert code in (128 + SIGTERM, -SIGTERM)  # the latter in Python's own last moments
    assert not half_written(work)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (SIGKILL, "a data loading process was killed, probably for lack of memory: fewer --workers need less; "),
        (SIGSTOP, "a data loading process was stopped (SIGSTOP) and not continued; "),
        (SIGTERM, "a data loading process was ended by SIGTERM; "),
    ],
)
def test_a_lost_data_loading_process_ends_training(work: Path, number: signal.Signals, said: str) -> None:
    command = Command(*TRAIN, "--epochs", 10_000, "--noval", folder=work).wait_for("epoch 2/")
    children = command.children()
    os.kill(children[0], number)
    start = time.monotonic()
    code, out = command.end()
    assert code == 1 and time.monotonic() - start < TIMEOUT / 2
    assert out.strip().splitlines()[-1].startswith(f"error: {said}go on with --resume ")
    assert resume_flags(out)[-2:] == ["--workers", "1"]
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize("number", [SIGKILL, SIGSTOP], ids=lambda number: number.name)
def test_a_lost_data_loading_process_ends_an_evaluation(work: Path, weights: Path, number: signal.Signals) -> None:
    many_images(work, 3000)
    command = Command("val", "--weights", weights, "--workers", 2, "--batch-size", 1, folder=work)
    command.wait_for("images")
    while not command.children() and command.process.poll() is None:
        time.sleep(0.01)
    os.kill(command.children()[0], number)
    code, out = command.end()
    assert code == 1 and "error: a data loading process was" in out


def many_images(work: Path, count: int) -> None:
    """Gives the toy data set more images to evaluate on."""
    for index in range(3, count):
        (work / f"images/val/{index}.png").hardlink_to(work / "images/val/0.png")
        (work / f"labels/val/{index}.txt").hardlink_to(work / "labels/val/0.txt")


@pytest.mark.parametrize("number", [SIGINT, SIGHUP], ids=lambda number: number.name)
def test_a_video_begun_is_finished(work: Path, number: signal.Signals) -> None:
    write_video(work / "long.mp4", 2000)
    weights = write_white_box(work / "white.torchscript")
    flags = ["--save-json", "--save-csv", "--save-txt", "--project", "runs"]
    command = Command("detect", "--weights", weights, "--source", "long.mp4", *flags, folder=work)
    table = work / "runs/exp/predictions.csv"
    while command.process.poll() is None and not (table.exists() and table.read_text().count("\n") > 50):
        time.sleep(0.01)
    code, out = command.send(number).end()
    assert code == 128 + number
    assert "results: runs/exp" in out and "start again with the same command" in out
    frames = probe_video(work / "runs/exp/long.mp4")[0]
    assert 20 < frames < 2000
    found = json.loads((work / "runs/exp/predictions.json").read_text())
    assert abs(found[-1]["frame"] - frames) <= 1
    assert table.read_text().endswith("\n") and not half_written(work)


def test_a_second_signal_leaves_no_half_video(work: Path) -> None:
    write_video(work / "long.mp4", 2000)
    weights = write_white_box(work / "white.torchscript")
    command = Command(
        "detect", "--weights", weights, "--source", "long.mp4", "--save-json", "--project", "runs", folder=work
    )
    while command.process.poll() is None and not half_written(work / "runs"):
        time.sleep(0.01)
    code, _ = command.send(SIGTERM).send(SIGTERM).end()
    assert code in (128 + SIGTERM, -SIGTERM)
    for video in (work / "runs").rglob("*.mp4"):
        assert probe_video(video)[0] > 0
    for result in (work / "runs").rglob("*.json"):
        json.loads(result.read_text())


COMMANDS = {
    "val": (["val", "--weights", "w.pt", "--save-json", "--project", "runs"], "val: 1500 images"),
    "compare": (["compare", "w.pt", "w.pt", "--project", "runs"], "val: 1500 images"),
    "classify": (["classify", "--weights", "c.pt", "--source", "images/val"], "images/val/0.png"),
    "export": (["export", "--weights", "w.pt", "--imgsz", "64", "--include", "onnx", "torchscript"], "fused"),
    "fuse": (["fuse", "--cfg", "yolov5/x.yaml", "--output", "f.pt"], "yolov5/x.yaml: the packaged"),
    "info": (["info", "--cfg", "yolov5/x.yaml", "--profile"], "yolov5/x.yaml: the packaged"),
}


@pytest.mark.parametrize(
    ("name", "number"), [*((name, SIGTERM) for name in COMMANDS), ("val", SIGHUP), ("compare", SIGINT)]
)
def test_every_command_ends_with_one_line(work: Path, weights: Path, name: str, number: signal.Signals) -> None:
    many_images(work, 1500)
    if name == "classify":
        save_checkpoint(work / "c.pt", build_network("mobileone/s0-cls.yaml"))
    before = {path for path in work.rglob("*") if path.is_file()}
    arguments, line = COMMANDS[name]
    code, out = Command(*arguments, folder=work).wait_for(line).send(number).end()
    assert code == 128 + number
    said = "interrupted" if number == SIGINT else f"ended by {number.name}"
    assert out.strip().splitlines()[-1] == f"{said}: start again with the same command"
    assert not half_written(work)
    left = {path for path in work.rglob("*") if path.is_file() and "cache" not in path.parts} - before
    assert not left, left


def test_what_nohup_ignores_stays_ignored(work: Path) -> None:
    command = Command(*TRAIN, folder=work, before=lambda: signal.signal(SIGHUP, signal.SIG_IGN))
    code, out = command.wait_for("epoch 2/12").send(SIGHUP).end()
    assert code == 0 and "epoch 12/12" in out


def test_a_closed_terminal_finishes_what_was_begun(work: Path) -> None:
    """Its output has nowhere to go, which is no error of finishing."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(work)
        os.execv(sys.executable, [sys.executable, "-m", "yolorep", *map(str, TRAIN), "--epochs", "1000"])
    seen = b""
    while b"epoch 2/" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + SIGHUP
    assert (work / "runs/exp/weights/last.pt").is_file() and not half_written(work)
