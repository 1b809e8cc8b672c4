"""Runs that were interrupted, killed or ran out of disk, and going on with them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.toy_run import StopAfter, files, options, same_weights, train
from yolorep.config import Hyp
from yolorep.errors import UserError
from yolorep.options import TrainOptions
from yolorep.training.inputs import read_options, resume_run
from yolorep.training.loggers.table import read_results
from yolorep.training.optim import Schedule
from yolorep.training.resume import remove_leftovers, remove_run
from yolorep.training.trainer import Callback, NonFiniteLoss, Scores, Trainer
from yolorep.weights.load import load_checkpoint


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_resumed_run_equals_uninterrupted_run(work: Path, optimizer: str) -> None:
    whole = train(options(work, name="whole", optimizer=optimizer))
    with pytest.raises(KeyboardInterrupt, match="--resume .*last.pt"):  # 3 batches an epoch: in the last one
        train(options(work, name="parts", optimizer=optimizer), StopAfter(6))
    parts = work / "runs" / "parts"
    assert len(read_results(parts / "results.csv")) == 2
    (parts / "weights" / ".last.abc.part.pt").write_bytes(b"what a killed process was writing")
    assert train(TrainOptions(resume=str(parts / "weights" / "last.pt"), device="cpu")) == parts

    assert same_weights(whole, parts)
    assert files(whole) == files(parts)
    rows = [read_results(folder / "results.csv") for folder in (whole, parts)]
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]


def test_resume_takes_the_newest_run_and_refuses_a_finished_one(work: Path) -> None:
    folder = train(options(work, epochs=1))
    with pytest.raises(UserError, match="finished after 1 epochs; make it longer with --epochs, or start a new one"):
        train(TrainOptions(resume="", project=str(work / "runs")))
    (folder / "metrics.json").unlink()  # killed after the last epoch, before everything was written
    assert train(TrainOptions(resume=str(folder), device="cpu")) == folder
    assert (folder / "metrics.json").is_file()


def test_resume_without_a_run(work: Path) -> None:
    with pytest.raises(UserError, match=r"expected a run with weights/last\.pt below .*, found none"):
        train(TrainOptions(resume="", project=str(work / "runs")))
    with pytest.raises(UserError, match="found no such file"):
        train(TrainOptions(resume=str(work / "last.pt")))


def test_resume_refuses_other_classes(work: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(options(work), StopAfter(3))
    (work / "data.yaml").write_text("{train: images/train, val: images/val, names: [blue, green, red]}")
    with pytest.raises(UserError, match=r"expected the classes .*\(blue, green\), found blue, green, red"):
        train(TrainOptions(resume="", project=str(work / "runs")))


@pytest.mark.parametrize(
    ("iteration", "changes", "epochs_done"),
    [(0, {}, 0), (3, {"nosave": True}, 1), (3, {"nosave": True, "noval": True}, 1)],
    ids=["first epoch", "nosave", "nosave and noval"],
)
def test_interrupt_without_a_last_checkpoint_saves_one(
    work: Path, iteration: int, changes: dict[str, object], epochs_done: int
) -> None:
    with pytest.raises(KeyboardInterrupt, match="saved; go on with --resume .*last.pt"):
        train(options(work, **changes), StopAfter(iteration))
    folder = work / "runs" / "exp"
    assert load_checkpoint(folder / "weights" / "last.pt").training["progress"]["epochs_done"] == epochs_done
    assert train(TrainOptions(resume=str(folder), device="cpu")) == folder
    assert [row["epoch"] for row in read_results(folder / "results.csv")] == ["1", "2", "3"]
    assert {"weights/best.pt", "weights/last.pt", "metrics.json"} <= set(files(folder))


def test_interrupt_keeps_the_last_checkpoint(work: Path) -> None:
    for name, iteration in (("early", 3), ("late", 5)):
        with pytest.raises(KeyboardInterrupt, match="^go on with --resume .*last.pt"):
            train(options(work, name=name), StopAfter(iteration))
    assert same_weights(work / "runs" / "early", work / "runs" / "late")


def test_interrupt_while_drawing(work: Path) -> None:
    metrics = work / "runs" / "exp" / "metrics.json"

    def press_ctrl_c() -> None:
        while not metrics.is_file():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    class Watched(Callback):
        def on_end(self, trainer: Trainer) -> None:
            threading.Thread(target=press_ctrl_c, daemon=True).start()

    with pytest.raises(KeyboardInterrupt, match="the run is finished"):
        train(options(work, epochs=1), Watched(), plots=True)
    assert metrics.is_file()


def test_divergence_keeps_the_last_checkpoint(work: Path) -> None:
    with pytest.raises(NonFiniteLoss):
        train(options(work), StopAfter(4, NonFiniteLoss("box nan")))
    assert load_checkpoint(work / "runs" / "exp" / "weights" / "last.pt").training["progress"]["epochs_done"] == 1


@pytest.mark.parametrize("real", [True, False])
def test_full_disk_keeps_the_last_checkpoint(work: Path, monkeypatch: pytest.MonkeyPatch, real: bool) -> None:
    """No room for the checkpoints of the second epoch: by a limit of the system, or by an error where torch writes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_room(content: object, file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:

        class Fills(Callback):
            def on_batch(self, trainer: Trainer, batch: object, iteration: int) -> None:
                if iteration == 3 and real:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
                elif iteration == 3:
                    context.setattr(torch, "save", no_room)

        try:
            with pytest.raises(OSError, match="No space left|full disk|too large"):
                train(options(work), Fills())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
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


def test_exist_ok_does_not_resume_the_run_before(work: Path) -> None:
    folder = train(options(work, epochs=1, save_period=1))
    for name in ("pr_curve.png", "confidence_curves.png", "confusion_matrix_normalized.png", "val_batch2.jpg"):
        (folder / name).touch()
    (folder / "notes.txt").write_text("the user's own")
    with pytest.raises(KeyboardInterrupt, match="saved; go on with --resume"):
        train(options(work, exist_ok=True), StopAfter(0), plots=True)
    assert load_checkpoint(folder / "weights" / "last.pt").training["progress"]["epochs_done"] == 0
    left = {"args.yaml", "hyp.yaml", "notes.txt", "train_batch0.jpg", "weights/last.pt"}
    assert {name for name in files(folder) if name != "events"} == left


def test_exist_ok_refuses_an_unfinished_run(work: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(options(work), StopAfter(3))
    before = files(work / "runs" / "exp")
    with pytest.raises(UserError, match="found an unfinished one; go on with --resume .*last.pt"):
        train(options(work, exist_ok=True))
    assert files(work / "runs" / "exp") == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch_size: '3e2'", "args.yaml: batch_size: expected int, found '3e2'"),
        ("epochs: true", r"args.yaml: epochs: expected int \| None, found True"),
        ("data: null", r"args.yaml: data: expected str, found None"),
        ("freeze: 3", r"args.yaml: freeze: expected list\[int\] \| None, found 3"),
        ("optimizer: LION", "args.yaml: --optimizer: expected one of SGD, Adam, AdamW, found 'LION'"),
        ("{epochs: 3}", "args.yaml: expected the options of a run, found none of data"),
        ("epoch: 3", "args.yaml: unknown option 'epoch' .did you mean 'epochs'"),
    ],
)
def test_edited_options(work: Path, line: str, message: str) -> None:
    path = work / "args.yaml"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        read_options(path)
    path.write_text("{data: b.yaml, label_smoothing: 0, freeze: [1, 2], cache: null, cfg: a.yaml}")
    assert read_options(path) == TrainOptions(data="b.yaml", freeze=[1, 2], cfg="a.yaml")


def test_resume_names_the_options_it_ignores(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(options(work, epochs=2), StopAfter(3))
    capsys.readouterr()
    resume = TrainOptions(
        resume="", project=str(work / "runs"), device="cpu", epochs=2, batch_size=4, workers=1, log=["csv"]
    )
    train(resume)
    assert "without effect: --batch-size, --log\n" in capsys.readouterr().out


def test_resume_takes_as_many_workers_as_asked_for(work: Path) -> None:
    """Two, the usual number, too."""
    with pytest.raises(KeyboardInterrupt):
        train(options(work, epochs=1, workers=0), StopAfter(0))
    for asked, expected in ((None, 0), (0, 0), (2, 2), (5, 5)):
        resume = TrainOptions(resume=str(work / "runs/exp"), workers=asked)
        assert resume_run(resume).options.workers == expected


@pytest.mark.parametrize("remove", [remove_run, remove_leftovers])
def test_what_a_killed_process_was_writing_is_removed(remove: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    for name in (".abc.part", ".abc.part.jpg", "weights/.abc.part.pt", "mine.txt", ".part"):
        (tmp_path / name).touch()
    (tmp_path / "weights/.def.part/new").mkdir(parents=True)
    remove(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".part", "mine.txt", "weights"]


def test_resume_needs_the_run_folder(work: Path) -> None:
    last = train(options(work, epochs=1)) / "weights" / "last.pt"
    copied = shutil.copy(last, work / "last.pt")
    with pytest.raises(
        UserError, match=r"beside args\.yaml and hyp\.yaml, found none in .*; go on there, or .*--weights"
    ):
        train(TrainOptions(resume=str(copied)))


def test_resume_from_within_the_run_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(options(work, epochs=2), StopAfter(3))
    monkeypatch.chdir(work / "runs" / "exp" / "weights")
    assert train(TrainOptions(resume="last.pt", device="cpu")) == work / "runs" / "exp"


def test_a_finished_run_is_made_longer(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(options(work, epochs=2))
    before = load_checkpoint(folder / "weights" / "last.pt")
    before_best = (folder / "weights" / "best.pt").read_bytes()
    seen: dict[str, Any] = {}

    class Watch(Callback):
        """The state that the third epoch begins with, and an AP that never gets better."""

        def on_batch(self, trainer: Trainer, batch: object, iteration: int) -> None:
            seen.setdefault("lr", trainer.optimizer.param_groups[1]["lr"])
            seen.setdefault("updates", trainer.ema.updates)
            seen.setdefault("moments", len(trainer.optimizer.state))
            trainer.evaluate = lambda model: Scores({"AP": 0.0})

    capsys.readouterr()
    assert train(TrainOptions(resume=str(folder), epochs=5, device="cpu", seed=9), Watch()) == folder
    out = capsys.readouterr().out
    assert "without effect: --seed\n" in out
    schedule = Schedule(Hyp(), epochs=5, batches=3, batch_size=2)
    rate = schedule.lr_at(6)
    assert (
        f"extending from 2 to 5 epochs: the learning rate follows the new schedule from epoch 3 at {rate:.4g}\n" in out
    )
    assert seen["lr"] == pytest.approx(rate)
    assert seen["updates"] >= before.training["ema_updates"] > 0 and seen["moments"] > 0
    assert read_options(folder / "args.yaml") == replace(options(work, epochs=5), hyp="cfg/hyp/scratch-low.yaml")
    rows = read_results(folder / "results.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert (folder / "weights" / "best.pt").read_bytes() == before_best
    assert json.loads((folder / "metrics.json").read_text())["AP"] == pytest.approx(float(rows[1]["AP"]), abs=1e-4)
    with pytest.raises(UserError, match="finished after 5 epochs; make it longer with --epochs"):
        train(TrainOptions(resume=str(folder), device="cpu"))


def test_an_interrupted_run_is_made_longer(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(options(work, epochs=2), StopAfter(4))
    folder = train(TrainOptions(resume="", project=str(work / "runs"), epochs=3, device="cpu"))
    assert (
        "extending from 2 to 3 epochs: the learning rate follows the new schedule from epoch 2"
        in capsys.readouterr().out
    )
    assert len(read_results(folder / "results.csv")) == 3


@pytest.mark.parametrize("key", [True, False], ids=["now", "checkpoint of before"])
@pytest.mark.parametrize("iteration", [6, 10])
def test_an_interrupted_extension_is_resumed_plainly(work: Path, iteration: int, key: bool) -> None:
    """In its first epoch, where the checkpoint still is that of the finished run, and later."""
    whole, parts = (train(options(work, epochs=2, name=name)) for name in ("whole", "parts"))
    train(TrainOptions(resume=str(whole), epochs=4, device="cpu"))
    if not key:
        for folder in (whole, parts):
            last = folder / "weights" / "last.pt"
            content = torch.load(last, weights_only=True)
            del content["training"]["epochs"]
            torch.save(content, last)
    extend = TrainOptions(resume=str(parts), epochs=4, device="cpu")
    with pytest.raises(KeyboardInterrupt, match="go on with --resume .*last.pt"):
        train(extend, StopAfter(iteration))
    assert not (parts / "metrics.json").exists() and read_options(parts / "args.yaml").epochs == 4
    with pytest.raises(UserError, match="found an unfinished one"):
        train(options(work, name="parts", exist_ok=True))
    train(TrainOptions(resume=str(parts), device="cpu") if key or iteration > 8 else extend)
    assert same_weights(whole, parts)
    assert files(whole) == files(parts)


def test_killed_between_the_numbers_and_the_options(work: Path) -> None:
    """An extension that got no further than removing metrics.json: the run is finished again."""
    folder = train(options(work, epochs=1))
    before = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    train(TrainOptions(resume=str(folder), device="cpu"))
    assert json.loads((folder / "metrics.json").read_text())["AP"] == before["AP"]
    assert len(read_results(folder / "results.csv")) == 1


@pytest.mark.parametrize(
    ("stopped", "epochs", "message"),
    [
        (None, 1, "--epochs 1: expected at least 3, for .* has done 2 of 2 epochs"),
        (None, 2, "--epochs 2: expected at least 3, for .* has done 2 of 2 epochs"),
        (3, 1, "--epochs 1: expected at least 2, for .* has done 1 of 2 epochs"),
    ],
)
def test_a_run_gets_no_shorter(work: Path, stopped: int | None, epochs: int, message: str) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        train(options(work, epochs=2), *([] if stopped is None else [StopAfter(stopped)]))
    folder = work / "runs" / "exp"
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    with pytest.raises(UserError, match=message):
        train(TrainOptions(resume=str(folder), epochs=epochs, device="cpu"))
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_patience_begins_anew_with_an_extension(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Falling(Callback):
        def on_batch(self, trainer: Trainer, batch: object, iteration: int) -> None:
            trainer.evaluate = lambda model: Scores({"AP": 0.9 / (1 + iteration)})

    folder = train(options(work, epochs=9, patience=2), Falling())
    assert len(read_results(folder / "results.csv")) == 3
    with pytest.raises(UserError, match="finished after 3 epochs"):
        train(TrainOptions(resume=str(folder), device="cpu"))
    train(TrainOptions(resume=str(folder), device="cpu", epochs=9), Falling())
    assert len(read_results(folder / "results.csv")) == 5
    assert "extending" not in capsys.readouterr().out
