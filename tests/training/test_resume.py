"""Runs that were interrupted, killed or ran out of disk, and going on with them."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.toy_run import files, options, same_weights, stop_at
from yolorep.errors import UserError
from yolorep.options import TrainOptions
from yolorep.training.loggers.table import read_results
from yolorep.training.run import read_options, train
from yolorep.training.trainer import NonFiniteLoss, Trainer
from yolorep.weights import checkpoint as checkpoint_module
from yolorep.weights.load import load_checkpoint

pytestmark = pytest.mark.usefixtures("plots")


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_resumed_run_equals_uninterrupted_run(work: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    whole = train(options(work, name="whole", optimizer=optimizer)).folder
    with monkeypatch.context() as context:
        stop_at(context, 7, KeyboardInterrupt())  # 3 batches an epoch: in the middle of the last one
        with pytest.raises(KeyboardInterrupt, match="--resume .*last.pt"):
            train(options(work, name="parts", optimizer=optimizer))
    parts = work / "runs" / "parts"
    assert len(read_results(parts / "results.csv")) == 2
    (parts / "weights" / ".last.abc.part.pt").write_bytes(b"what a killed process was writing")
    assert train(TrainOptions(resume=str(parts / "weights" / "last.pt"), device="cpu")).folder == parts

    assert same_weights(whole, parts)
    assert files(whole) == files(parts)
    rows = [read_results(folder / "results.csv") for folder in (whole, parts)]
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]


def test_resume_takes_the_newest_run_and_refuses_a_finished_one(work: Path) -> None:
    folder = train(options(work, epochs=1)).folder
    with pytest.raises(UserError, match="finished after 1 epochs; start a new one with --weights"):
        train(TrainOptions(resume="", project=str(work / "runs")))
    (folder / "metrics.json").unlink()  # killed after the last epoch, before everything was written
    assert train(TrainOptions(resume=str(folder), device="cpu")).folder == folder
    assert (folder / "metrics.json").is_file()


def test_resume_without_a_run(work: Path) -> None:
    with pytest.raises(UserError, match=r"expected a run with weights/last\.pt below .*, found none"):
        train(TrainOptions(resume="", project=str(work / "runs")))
    with pytest.raises(UserError, match="found no such file"):
        train(TrainOptions(resume=str(work / "last.pt")))


def test_resume_refuses_other_classes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        stop_at(context, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(options(work))
    (work / "data.yaml").write_text("{train: images/train, val: images/val, names: [blue, green, red]}")
    with pytest.raises(UserError, match=r"expected the classes .*\(blue, green\), found blue, green, red"):
        train(TrainOptions(resume="", project=str(work / "runs")))


@pytest.mark.parametrize(
    ("iteration", "changes", "epochs_done"),
    [(1, {}, 0), (4, {"nosave": True}, 1), (4, {"nosave": True, "noval": True}, 1)],
    ids=["first epoch", "nosave", "nosave and noval"],
)
def test_interrupt_without_a_last_checkpoint_saves_one(
    work: Path, monkeypatch: pytest.MonkeyPatch, iteration: int, changes: dict[str, object], epochs_done: int
) -> None:
    with monkeypatch.context() as context:
        stop_at(context, iteration, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt, match="saved; go on with --resume .*last.pt"):
            train(options(work, **changes))
    folder = work / "runs" / "exp"
    assert load_checkpoint(folder / "weights" / "last.pt").training["progress"]["epochs_done"] == epochs_done
    assert train(TrainOptions(resume=str(folder), device="cpu")).folder == folder
    assert [row["epoch"] for row in read_results(folder / "results.csv")] == ["1", "2", "3"]
    assert {"weights/best.pt", "weights/last.pt", "metrics.json"} <= set(files(folder))


def test_interrupt_keeps_the_last_checkpoint(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, iteration in (("exact", 3), ("cut", 4)):
        with monkeypatch.context() as context:
            stop_at(context, iteration, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt, match="^go on with --resume .*last.pt"):
                train(options(work, name=name))
    assert same_weights(work / "runs" / "cut", work / "runs" / "exact")


def test_interrupt_while_drawing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("yolorep.training.run.plot_evaluation", interrupt)
    with pytest.raises(KeyboardInterrupt, match="the run is finished"):
        train(options(work, epochs=1))
    assert (work / "runs" / "exp" / "metrics.json").is_file()


def test_divergence_keeps_the_last_checkpoint(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 4, NonFiniteLoss("box nan"))
    with pytest.raises(NonFiniteLoss):
        train(options(work))
    assert load_checkpoint(work / "runs" / "exp" / "weights" / "last.pt").training["progress"]["epochs_done"] == 1


@pytest.mark.parametrize("real", [True, False])
def test_full_disk_keeps_the_last_checkpoint(work: Path, monkeypatch: pytest.MonkeyPatch, real: bool) -> None:
    """No room for the checkpoints of the second epoch: by a limit of the system, or by an error where torch writes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = Trainer.train_step

    def step(self: Trainer, batch: object, number: int, *, last: bool) -> dict[str, float]:
        if number == 3 and real:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        elif number == 3:
            monkeypatch.setattr(checkpoint_module.torch, "save", no_room)
        return original(self, batch, number, last=last)  # type: ignore[arg-type]

    def no_room(content: object, file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(Trainer, "train_step", step)
        try:
            with pytest.raises(OSError, match="No space left|full disk|too large"):
                train(options(work))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            monkeypatch.undo()
    monkeypatch.setenv("YOLOREP_CACHE", str(work / "cache"))
    weights = work / "runs" / "exp" / "weights"
    assert sorted(path.name for path in weights.iterdir()) == ["best.pt", "last.pt"]
    assert load_checkpoint(weights / "best.pt").build()
    assert load_checkpoint(weights / "last.pt").training["progress"]["epochs_done"] == 1
    train(TrainOptions(resume=str(weights / "last.pt"), device="cpu"))
    assert len(read_results(weights.parent / "results.csv")) == 3


@pytest.mark.slow
def test_killed_at_any_moment(work: Path) -> None:
    """kill -9, again and again: what is there is readable, and the run ends as if nothing had happened."""
    flags = ["--cfg", "model.yaml", "--data", "data.yaml", "--imgsz", "64", "--batch-size", "2", "--epochs", "30"]
    flags += ["--device", "cpu", "--workers", "1", "--project", "runs"]
    command = [sys.executable, "-m", "yolorep", "train"]
    subprocess.run([*command, *flags, "--name", "whole"], cwd=work, check=True)
    whole, parts = work / "runs" / "whole", work / "runs" / "parts"
    last = parts / "weights" / "last.pt"
    arguments = [*flags, "--name", "parts"]
    for rows in (2, 9, 20):
        process = subprocess.Popen([*command, *arguments], cwd=work, start_new_session=True)
        while len(read_results(parts / "results.csv")) < rows:
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if last.is_file():
            assert load_checkpoint(last).training["progress"]["epochs_done"] >= rows - 1
            arguments = ["--resume", str(last)]
    subprocess.run([*command, *arguments], cwd=work, check=True)
    assert [row["epoch"] for row in read_results(parts / "results.csv")] == [str(epoch) for epoch in range(1, 31)]
    assert files(whole) == files(parts)
    assert same_weights(whole, parts)


def test_exist_ok_does_not_resume_the_run_before(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(options(work, epochs=1, save_period=1)).folder
    (folder / "pr_curve.png").touch()
    (folder / "notes.txt").write_text("the user's own")
    stop_at(monkeypatch, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="saved; go on with --resume"):
        train(options(work, exist_ok=True))
    assert load_checkpoint(folder / "weights" / "last.pt").training["progress"]["epochs_done"] == 0
    left = {"args.yaml", "hyp.yaml", "notes.txt", "train_batch.jpg", "weights/last.pt"}
    assert {name for name in files(folder) if name != "events"} == left


def test_exist_ok_refuses_an_unfinished_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        stop_at(context, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(options(work))
    before = files(work / "runs" / "exp")
    with pytest.raises(UserError, match="found an unfinished one; go on with --resume .*last.pt"):
        train(options(work, exist_ok=True))
    assert files(work / "runs" / "exp") == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs: '3e2'", "args.yaml: epochs: expected int, found '3e2'"),
        ("epochs: true", "args.yaml: epochs: expected int, found True"),
        ("data: null", r"args.yaml: data: expected str, found None"),
        ("freeze: 3", r"args.yaml: freeze: expected list\[int\] \| None, found 3"),
        ("optimizer: LION", "args.yaml: --optimizer: expected one of SGD, Adam, AdamW, found 'LION'"),
        ("epoch: 3", "args.yaml: unknown option 'epoch' .did you mean 'epochs'"),
    ],
)
def test_edited_options(work: Path, line: str, message: str) -> None:
    path = work / "args.yaml"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        read_options(path)
    path.write_text("{label_smoothing: 0, freeze: [1, 2], cache: null, cfg: a.yaml}")
    assert read_options(path) == TrainOptions(freeze=[1, 2], cfg="a.yaml")


def test_resume_names_the_options_it_ignores(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as context:
        stop_at(context, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(options(work, epochs=2))
    capsys.readouterr()
    train(TrainOptions(resume="", project=str(work / "runs"), device="cpu", epochs=7, batch_size=4))
    out = capsys.readouterr().out
    assert "without effect: --epochs, --batch-size\n" in out
