"""The anchor-free head from training to detection: runs, files, other classes, flags."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.training import toy_run
from yolorep.cli import main
from yolorep.commands.info import run as info
from yolorep.errors import UserError
from yolorep.models.detector import Detector, build_model
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.options import InfoOptions, TrainOptions
from yolorep.training.inputs import new_run
from yolorep.training.loggers.table import read_results
from yolorep.training.start import starting_model
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint
from yolorep.weights.transfer import transfer_weights

MODEL = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1, 2], 1, "DetectFree", ["nc", 4, True]]],
}


@pytest.fixture
def options(work: Path) -> TrainOptions:
    """Of a run on the toy data."""
    (work / "model.yaml").write_text(yaml.safe_dump(MODEL))
    return toy_run.options(work, epochs=2)


@pytest.mark.parametrize(("reg_max", "terms"), [(4, ["box", "cls", "dfl"]), (1, ["box", "cls", "l1"])])
def test_the_losss_own_terms_are_shown(
    options: TrainOptions,
    tmp_path: Path,
    reg_max: int,
    terms: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = [[[1, 2], 1, "DetectFree", ["nc", reg_max, True]]]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({**MODEL, "head": head}))
    folder = toy_run.train(replace(options, noval=True), plots=True)
    out = capsys.readouterr().out
    assert all(f"  {term} " in out for term in terms)
    rows = read_results(folder / "results.csv")
    assert [name for name in rows[0] if name.startswith("train/")] == [f"train/{term}" for term in terms]
    assert all(float(rows[1][f"train/{term}"]) > 0 for term in terms)
    assert (folder / "results.png").stat().st_size > 1000

    target = starting_model(None, str(folder / "weights" / "best.pt"), names=("blue", "green"))
    best = load_checkpoint(folder / "weights" / "best.pt").state_dict
    assert all(torch.equal(tensor, best[name]) for name, tensor in target.state_dict().items())


@pytest.mark.slow
def test_from_training_to_files(options: TrainOptions, tmp_path: Path) -> None:
    folder = toy_run.train(options)
    best = folder / "weights" / "best.pt"
    values = [f"--weights={best}", f"--data={options.data}", "--imgsz=64", "--workers=0", f"--project={tmp_path}"]
    metrics = []
    for flags in ([], ["--no-fuse"], ["--nms-free"], ["--nms-free", "--no-fuse"]):
        name = "".join(flags) or "plain"
        assert main(["val", *values, f"--name={name}", *flags]) == 0
        metrics.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    assert metrics[0]["AP"] == pytest.approx(metrics[1]["AP"], abs=1e-4)
    assert metrics[2]["AP"] == pytest.approx(metrics[3]["AP"], abs=1e-4)

    assert main(["export", f"--weights={best}", "--imgsz=64", "--dynamic", "--nms-free"]) == 0
    values[0] = f"--weights={best.with_suffix('.onnx')}"
    assert main(["val", *values, "--name=onnx"]) == 0
    exported = json.loads((tmp_path / "onnx" / "metrics.json").read_text())
    assert exported["AP"] == pytest.approx(metrics[2]["AP"], abs=1e-3)
    source = tmp_path / "images" / "val"
    detect = ["detect", f"--source={source}", "--imgsz=64", f"--project={tmp_path}", "--conf-thres=0"]
    assert main([*detect, values[0], "--name=found"]) == 0
    assert main([*detect, f"--weights={best}", "--nms-free", "--name=found2"]) == 0
    assert len(list((tmp_path / "found").iterdir())) == len(list((tmp_path / "found2").iterdir())) == 3


def test_wrong_input_is_told_before_anything_is_created(
    options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--label-smoothing"):
        toy_run.train(replace(options, label_smoothing=0.1))
    assert not (tmp_path / "runs").exists()
    save_checkpoint(tmp_path / "w.pt", model("blue", "green", head=[[[1, 2], 1, "DetectFree", ["nc"]]]))
    shared = [f"--weights={tmp_path / 'w.pt'}", "--nms-free"]
    data = f"--data={options.data}"
    for command in (["val", data], ["detect", f"--source={tmp_path / 'images' / 'val'}"], ["export"]):
        assert main([*command, *shared]) == 2
        error = capsys.readouterr().err
        assert "--nms-free: expected a head with a one-to-one branch" in error and len(error.splitlines()) == 1


def test_no_anchors_to_fit(options: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    for noautoanchor in (True, False):
        run = new_run(replace(options, noautoanchor=noautoanchor))
        assert isinstance(run.model, Detector)
        assert "recall" not in capsys.readouterr().out


def model(*names: str, seed: int = 0, **changes: object) -> Detector:
    torch.manual_seed(seed)
    return build_model({**MODEL, **changes}, names=names)


def test_checkpoints_keep_both_branches(tmp_path: Path) -> None:
    source = model("a", "b").eval()
    save_checkpoint(tmp_path / "w.pt", source)
    save_checkpoint(tmp_path / "fused.pt", fuse(source)[0], fused=True)
    image = source.example_input()
    expected = source(image)
    for name in ("w", "fused"):
        found = load_checkpoint(tmp_path / f"{name}.pt").build()(image)
        for mine, theirs in zip((*found.levels, *found.one2one), (*expected.levels, *expected.one2one), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("names", [("c", "d"), ("c", "d", "e"), ("c",)], ids=len)
def test_other_classes_take_all_but_the_class_rows(names: tuple[str, ...]) -> None:
    source, target = model("a", "b", seed=1), model(*names, seed=2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    report = transfer_weights(target, source.state_dict(), names=source.names, anchors=False)
    rows = {
        f"model.3.{branch}.{level}.4.{kind}"
        for branch in ("cls", "one2one")
        for level in (0, 1)
        for kind in ("weight", "bias")
    }
    assert set(report.missing) == rows and "class rows initialized anew" in str(report)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name] if name in rows else source.state_dict()[name]), name


def test_same_classes_take_everything() -> None:
    source, target = model("a", "b", seed=1), model("a", "b", seed=2)
    report = transfer_weights(target, source.state_dict(), names=source.names, anchors=False)
    assert not report.missing and report.classes_kept


def test_the_backbone_of_another_head(tmp_path: Path) -> None:
    """Weights of an anchor-based model under the anchor-free head."""
    anchored = {"head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]], "anchors": [[10, 20], [30, 40]]}
    source = model("a", "b", seed=1, **anchored)
    target = model("a", "b", seed=2)
    report = transfer_weights(target, source.state_dict(), names=source.names, anchors=False)
    assert report.outside_head == len(report.transferred) == 18
    assert all(name.startswith("model.3.") for name in report.missing)


def test_info_counts_what_is_deployed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "w.pt", model("a", "b"))
    found = info(InfoOptions(weights=str(tmp_path / "w.pt"), imgsz=64, json=True))
    single = model("a", "b", head=[[[1, 2], 1, "DetectFree", ["nc", 4]]]).eval()
    assert found["params"] == count_parameters(model("a", "b"))
    assert (
        found["params_fused"]
        == count_parameters(fuse(single)[0])
        == sum(row["params_fused"] for row in found["layers"])
    )
    assert found["gflops"] > found["gflops_fused"] > 0
