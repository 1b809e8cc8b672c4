"""The train command as a whole, on a model and a data set that take a second."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from tests.training.toy_run import MODEL, StopAfter, files, options, same_weights, train
from yolorep.config import lasting_name, resources_dir
from yolorep.errors import UserError, YolorepError
from yolorep.models.detector import build_model
from yolorep.nn.reparam import fuse
from yolorep.training.inputs import new_run, read_options
from yolorep.training.loggers.table import read_results
from yolorep.training.recipe import load_hyp
from yolorep.training.trainer import Callback, Scores, Trainer
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint


def test_files_of_a_run(work: Path) -> None:
    folder = train(options(work, epochs=2, save_period=1), plots=True)
    assert folder == work / "runs" / "exp"
    expected = {"args.yaml", "hyp.yaml", "results.csv", "results.png", "labels.png", "metrics.json"}
    expected |= {f"train_batch{number}.jpg" for number in range(3)} | {"val_batch0.jpg", "confidence_curves.png"}
    weights = {f"weights/{name}.pt" for name in ("best", "last", "epoch1", "epoch2")}
    assert expected | weights <= set(files(folder))
    assert [row["epoch"] for row in read_results(folder / "results.csv")] == ["1", "2"]
    recipe = "cfg/hyp/scratch-low.yaml"
    assert read_options(folder / "args.yaml") == options(work, epochs=2, save_period=1, hyp=recipe)
    best = load_checkpoint(folder / "weights" / "best.pt")
    assert best.names == ("blue", "green")
    assert best.data == str(work / "data.yaml")
    assert not best.training
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in best.state_dict.values())


def test_the_head_brings_its_recipe(work: Path) -> None:
    free = work / "free.yaml"
    free.write_text(yaml.safe_dump({**MODEL, "anchors": None, "head": [[[1, 2], 1, "DetectFree", ["nc", 4]]]}))
    run = new_run(options(work, cfg=str(free)))
    assert run.options.hyp == "cfg/hyp/yolorep.yaml"
    assert run.hyp == load_hyp("cfg/hyp/yolorep.yaml")
    norms = [module for module in run.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    run = new_run(options(work))
    assert run.options.hyp == "cfg/hyp/scratch-low.yaml"
    assert {module.momentum for module in run.model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.03}


def test_the_flagship_is_trained_by_default(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(options(work, cfg=None))
    assert run.model.config.source.endswith("cfg/yolorep/n.yaml")
    assert run.model.names == ("blue", "green")


def test_a_run_says_what_its_recipe_comes_to(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(options(work, epochs=1, noval=True))
    assert "cfg/hyp/scratch-low.yaml: SGD at 0.01 to 0.0001, " in capsys.readouterr().out


def test_same_seed_same_weights(work: Path) -> None:
    first, second, other = (train(options(work, epochs=1, seed=seed, noval=True)) for seed in (1, 1, 2))
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_too_little_gpu_memory(work: Path) -> None:
    error = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    with pytest.raises(YolorepError, match=r"out of memory; lower --batch-size \(it is 2\) or --imgsz \(it is 64\)"):
        train(options(work), StopAfter(0, error))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cfg": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"hyp": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"weights": "nowhere.pt"}, "nowhere.pt: no such file"),
        ({"freeze": [9]}, "--freeze: expected layers 0 to 3"),
        ({"freeze": [4]}, "expected a layer left to train"),
        ({"device": "seven"}, "--device"),
        ({"precision": "fp16"}, "--precision fp16: expected a GPU"),
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
    """Packaged files are named from the package's folder; others absolutely."""
    monkeypatch.chdir(work)
    assert new_run(options(work, data="data.yaml")).options.data == str(work / "data.yaml")
    packaged = resources_dir() / "data" / "shapes.yaml"
    for name in (str(packaged), os.path.relpath(packaged), "shapes"):
        assert lasting_name(name, "data") == "data/shapes.yaml"
    beside = resources_dir() / "cfg" / "yolov5" / "n.yaml"
    assert lasting_name(str(beside), "data") == str(beside)


def test_flags(work: Path) -> None:
    """The less usual ones, together."""
    changes = {
        "single_cls": True,
        "cos_lr": True,
        "multi_scale": True,
        "cache": "ram",
        "precision": "bf16",
        "freeze": [1],
    }
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
def test_best_of_the_first_epoch(work: Path, aps: list[float], changes: dict[str, object]) -> None:
    class Judge(Callback):
        """Says what the AP is, and keeps what it is of."""

        def __init__(self) -> None:
            self.seen: list[dict[str, torch.Tensor]] = []

        def on_batch(self, trainer: Trainer, batch: object, iteration: int) -> None:
            trainer.evaluate = self

        def __call__(self, model: nn.Module) -> Scores:
            self.seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return Scores({"AP": aps[len(self.seen) - 1]})

    judge = Judge()
    folder = train(options(work, **changes), judge)
    assert len(judge.seen) == len(aps)
    best = load_checkpoint(folder / "weights" / "best.pt").state_dict
    assert all(torch.equal(best[name], tensor) for name, tensor in judge.seen[0].items())
    assert {"weights/best.pt", "weights/last.pt", "metrics.json"} <= set(files(folder))


def test_nosave_alone(work: Path) -> None:
    folder = train(options(work, nosave=True, save_period=2))
    assert sorted(path.name for path in (folder / "weights").iterdir()) == ["best.pt", "last.pt"]


def test_metrics_come_before_plots(work: Path) -> None:
    class Blocked(Callback):
        """A folder where a picture belongs."""

        def on_end(self, trainer: Trainer) -> None:
            (work / "runs" / "exp" / "pr_curve.png").mkdir()

    with pytest.raises(UserError, match=r"pr_curve\.png"):
        train(options(work, epochs=1), Blocked(), plots=True)
    assert (work / "runs" / "exp" / "metrics.json").is_file()


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
