"""The train command as a whole, on a model and a data set that take a second."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from yolorep.engine import checkpoint as checkpoint_module
from yolorep.engine import train as train_module
from yolorep.engine.callbacks import read_results
from yolorep.engine.checkpoint import load_checkpoint, save_checkpoint
from yolorep.engine.train import Run, new_run, read_options, train
from yolorep.engine.trainer import NonFiniteLoss, Trainer
from yolorep.errors import UserError, YolorepError
from yolorep.models.detector import build_model
from yolorep.nn.reparam import fuse
from yolorep.options import TrainOptions

MODEL = {
    "nc": 2,
    "anchors": [[16, 16, 24, 24], [32, 32, 48, 48]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model.yaml and data.yaml, and nothing else."""
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for index in range(count):
            image = np.full((64, 64, 3), 40, np.uint8)
            x, y, kind = rng.integers(0, 32), rng.integers(0, 32), rng.integers(0, 2)
            image[y : y + 30, x : x + 30, kind] = 250
            cv2.imwrite(str(tmp_path / "images" / split / f"{index}.png"), image)
            row = f"{kind} {(x + 15) / 64} {(y + 15) / 64} {30 / 64} {30 / 64}\n"
            (tmp_path / "labels" / split / f"{index}.txt").write_text(row)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(MODEL))
    (tmp_path / "data.yaml").write_text("{train: images/train, val: images/val, names: [blue, green]}")
    return tmp_path


@pytest.fixture(autouse=True)
def plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training here, so only the tests marked for it draw."""
    if "draws" not in request.fixturenames:
        monkeypatch.setattr("yolorep.engine.callbacks.Plots.on_end", lambda self, trainer: None)
        monkeypatch.setattr("yolorep.engine.train.plot_evaluation", lambda *args: None)


@pytest.fixture
def draws() -> None:
    """Makes a test draw its plots."""


def options(work: Path, **changes: object) -> TrainOptions:
    return replace(
        TrainOptions(
            cfg=str(work / "model.yaml"),
            data=str(work / "data.yaml"),
            epochs=3,
            batch_size=2,
            imgsz=64,
            device="cpu",
            workers=0,
            project=str(work / "runs"),
        ),
        **changes,
    )


def files(folder: Path) -> list[str]:
    """Every file of a run; the event file's name holds the time."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted("events" if name.startswith("events.out") else name for name in found)


def test_files_of_a_run(work: Path, draws: None) -> None:
    folder = train(options(work, epochs=2, save_period=1))
    assert folder == work / "runs" / "exp"
    expected = {"args.yaml", "hyp.yaml", "results.csv", "results.png", "labels.png", "metrics.json", "train_batch.jpg"}
    weights = {f"weights/{name}.pt" for name in ("best", "last", "epoch1", "epoch2")}
    assert expected | weights <= set(files(folder))
    assert [row["epoch"] for row in read_results(folder / "results.csv")] == ["1", "2"]
    assert read_options(folder / "args.yaml") == options(work, epochs=2, save_period=1)
    best = load_checkpoint(folder / "weights" / "best.pt")
    assert best.names == ("blue", "green")
    assert best.data == str(work / "data.yaml")
    assert not best.training
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in best.state_dict.values())


def test_same_seed_same_weights(work: Path) -> None:
    first, second, other = (train(options(work, epochs=1, seed=seed, noval=True)) for seed in (1, 1, 2))
    assert same_weights(first, second)
    assert not same_weights(first, other)


def same_weights(first: Path, second: Path) -> bool:
    one, two = (load_checkpoint(folder / "weights" / "last.pt") for folder in (first, second))
    assert one.ema is not None
    assert two.ema is not None
    return all(torch.equal(one.state_dict[name], two.state_dict[name]) for name in one.state_dict) and all(
        torch.equal(one.ema[name], two.ema[name]) for name in one.ema
    )


def stop_at(monkeypatch: pytest.MonkeyPatch, iteration: int, error: BaseException) -> None:
    original = Trainer.train_step

    def step(self: Trainer, batch: object, number: int, *, last: bool) -> dict[str, float]:
        if number == iteration:
            raise error
        return original(self, batch, number, last=last)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", step)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_resumed_run_equals_uninterrupted_run(work: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    whole = train(options(work, name="whole", optimizer=optimizer))
    with monkeypatch.context() as context:
        stop_at(context, 7, KeyboardInterrupt())  # 3 batches an epoch: in the middle of the last one
        with pytest.raises(KeyboardInterrupt, match="--resume .*last.pt"):
            train(options(work, name="parts", optimizer=optimizer))
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
    with pytest.raises(UserError, match="finished after 1 epochs; start a new one with --weights"):
        train(TrainOptions(resume="", project=str(work / "runs")))
    (folder / "metrics.json").unlink()  # killed after the last epoch, before everything was written
    assert train(TrainOptions(resume=str(folder), device="cpu")) == folder
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
    assert train(TrainOptions(resume=str(folder), device="cpu")) == folder
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

    monkeypatch.setattr("yolorep.engine.train.plot_evaluation", interrupt)
    with pytest.raises(KeyboardInterrupt, match="the run is finished"):
        train(options(work, epochs=1))
    assert (work / "runs" / "exp" / "metrics.json").is_file()


def test_too_little_gpu_memory(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 0, torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    with pytest.raises(YolorepError, match=r"out of memory; lower --batch-size \(it is 2\) or --imgsz \(it is 64\)"):
        train(options(work))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cfg": None}, "expected --cfg .* or --weights"),
        ({"cfg": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"hyp": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such file"),
        ({"freeze": [9]}, "--freeze: expected layers 0 to 3"),
        ({"freeze": [4]}, "expected a layer left to train"),
        ({"device": "seven"}, "--device"),
        ({"data": "bare_train.yaml"}, "bare_train.yaml: train: expected objects to learn, found images without any"),
        ({"data": "bare_val.yaml"}, "bare_val.yaml: val: expected objects .*, found images without any.* --noval"),
        ({"cfg": "placeholder.yaml", "noautoanchor": True}, "--noautoanchor: expected anchors in placeholder.yaml"),
    ],
)
def test_bad_input_creates_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(work)
    add_bare_data(work)
    (work / "placeholder.yaml").write_text(yaml.safe_dump({**MODEL, "anchors": 3}))
    with pytest.raises(UserError, match=message):
        train(options(work, **changes))
    assert not (work / "runs").exists()


def add_bare_data(work: Path) -> None:
    """Data files of which one split has no labels."""
    (work / "bare").mkdir()
    cv2.imwrite(str(work / "bare" / "0.png"), np.full((64, 64, 3), 40, np.uint8))
    (work / "bare_train.yaml").write_text("{train: bare, val: images/val, names: [blue, green]}")
    (work / "bare_val.yaml").write_text("{train: images/train, val: bare, names: [blue, green]}")


def test_nothing_to_find_in_val_is_fine_with_noval(work: Path) -> None:
    add_bare_data(work)
    folder = train(options(work, epochs=2, data=str(work / "bare_val.yaml"), noval=True))
    best, last = (load_checkpoint(folder / "weights" / f"{name}.pt") for name in ("best", "last"))
    assert last.ema is not None
    assert all(torch.equal(best.state_dict[name], tensor) for name, tensor in last.ema.items())


def test_where_the_data_is_stays_known(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packaged files are named from the package's folder; others absolutely, even those beside the package."""
    monkeypatch.setattr("yolorep.engine.train.resources_dir", lambda: work)
    monkeypatch.chdir(work)
    assert new_run(options(work, data="data.yaml")).options.data == str(work / "data.yaml")
    (work / "data").mkdir()
    text = (work / "data.yaml").read_text().replace("images/", "../images/")
    (work / "data" / "own.yaml").write_text(text)
    monkeypatch.chdir(work / "data")
    monkeypatch.setattr("yolorep.config.resources_dir", lambda: work)
    hyp = work / "hyp.yaml"
    hyp.write_text("{}")
    assert new_run(options(work, data="own.yaml", hyp=str(hyp))).options.data == "data/own.yaml"


def test_flags(work: Path) -> None:
    """The less usual ones, together."""
    changes = {"single_cls": True, "cos_lr": True, "multi_scale": True, "cache": "ram", "bf16": True, "freeze": [1]}
    folder = train(options(work, epochs=1, imgsz=60, rect=True, label_smoothing=0.1, optimizer="Adam", **changes))
    best = load_checkpoint(folder / "weights" / "best.pt")
    assert best.names == ("item",)
    assert read_options(folder / "args.yaml").imgsz == 64
    torch.manual_seed(0)
    fresh = build_model(str(work / "model.yaml"), names=("item",))
    changed = {n for n, p in fresh.named_parameters() if not torch.allclose(p, best.state_dict[n], atol=1e-7)}
    assert "model.1.conv.conv.weight" in changed
    assert not {name for name in changed if name.startswith("model.0.")}


def test_nosave_and_noval(work: Path) -> None:
    folder = train(options(work, epochs=2, nosave=True, noval=True))
    rows = read_results(folder / "results.csv")
    assert rows[0]["AP"] == ""
    assert rows[1]["AP"] != ""
    assert {"weights/best.pt", "weights/last.pt"} <= set(files(folder))


@pytest.mark.parametrize(
    ("aps", "changes"),
    [
        ([0.5, 0.1, 0.2], {"nosave": True}),
        ([0.5, 0.1, 0.2], {}),
        ([0.5, 0.1], {"nosave": True, "patience": 1}),
    ],
    ids=["nosave", "saved", "early stop"],
)
def test_best_of_the_first_epoch(
    work: Path, monkeypatch: pytest.MonkeyPatch, aps: list[float], changes: dict[str, object]
) -> None:
    seen = []

    def score(model: torch.nn.Module, run: Run) -> Mapping[str, float]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"AP": aps[len(seen) - 1]}

    monkeypatch.setattr("yolorep.engine.train._score", score)
    folder = train(options(work, **changes))
    assert len(seen) == len(aps)
    best = load_checkpoint(folder / "weights" / "best.pt").state_dict
    assert all(torch.equal(best[name], tensor) for name, tensor in seen[0].items())
    assert {"weights/best.pt", "weights/last.pt", "metrics.json"} <= set(files(folder))


def test_nosave_alone(work: Path) -> None:
    folder = train(options(work, nosave=True, save_period=2))
    assert sorted(path.name for path in (folder / "weights").iterdir()) == ["best.pt", "last.pt"]


def test_metrics_come_before_plots(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("yolorep.engine.train.plot_evaluation", fail)
    with pytest.raises(RuntimeError):
        train(options(work, epochs=1))
    assert (work / "runs" / "exp" / "metrics.json").is_file()


def test_vanished_images_are_not_drawn(work: Path, draws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    original = train_module.table

    def table(*args: object, **named: object) -> str:  # between the evaluation and the plots
        for path in (work / "images" / "val").iterdir():
            path.unlink()
        return original(*args, **named)

    monkeypatch.setattr("yolorep.engine.train.table", table)
    folder = train(options(work, epochs=1))
    assert "confusion_matrix.png" in files(folder)
    assert "predictions.jpg" not in files(folder)


def test_weights_of_other_classes(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = build_model(str(work / "model.yaml"), names=("a", "b", "c"))
    source.head.anchors *= 1.1
    save_checkpoint(work / "w.pt", source)
    folder = train(options(work, epochs=1, cfg=None, weights=str(work / "w.pt"), noautoanchor=True))
    out = capsys.readouterr().out
    assert "the data set's 2 classes replace the 3 of" in out
    assert "transferred 23/23 tensors, class rows initialized anew" in out
    best = load_checkpoint(folder / "weights" / "best.pt")
    assert torch.equal(best.state_dict["model.3.anchors"], source.head.anchors)


def test_fused_weights_are_refused(work: Path) -> None:
    source = fuse(build_model(str(work / "model.yaml")).eval())[0]
    save_checkpoint(work / "fused.pt", source, fused=True)
    with pytest.raises(UserError, match="expected a trainable model, found a fused one"):
        train(options(work, cfg=None, weights=str(work / "fused.pt")))


def test_weights_that_fit_nothing(work: Path) -> None:
    other = {**MODEL, "backbone": [[-1, 1, "Focus", [8, 3]]] * 3, "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]]}
    save_checkpoint(work / "w.pt", build_model(other))
    with pytest.raises(UserError, match="found none of the same name and shape"):
        train(options(work, weights=str(work / "w.pt")))


def test_exist_ok_does_not_resume_the_run_before(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(options(work, epochs=1, save_period=1))
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
        ("optimizer: LION", "args.yaml: optimizer: expected one of SGD, Adam, AdamW, found 'LION'"),
        ("epoch: 3", "args.yaml: expected the options of a run, found 'epoch'"),
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
