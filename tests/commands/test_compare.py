"""Models side by side: the table, the file, what noise is, and weights that cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.commands.conftest import SIZES
from tests.inference.white_box import WhiteBoxBackend
from tests.training.toy_run import MODEL, write_toy_data
from yolorep.cli import main
from yolorep.commands.candidate import Candidate
from yolorep.commands.compare import compare, run
from yolorep.errors import UserError
from yolorep.models.detector import build_model
from yolorep.ops.decode import Decoded
from yolorep.options import CompareOptions
from yolorep.weights.checkpoint import save_checkpoint


class Shaky(WhiteBoxBackend):
    """Boxes that are off by a share of the image."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def _run(self, images: Tensor) -> Decoded:
        found = super()._run(images)
        return Decoded(found.boxes + self.share * images.shape[3], found.scores)


@pytest.fixture
def options(data: Path, tmp_path: Path) -> CompareOptions:
    return CompareOptions(data=str(data), imgsz=320, project=str(tmp_path / "runs"), workers=0, resamples=200)


def candidates(options: CompareOptions, *shares: float) -> list[Candidate]:
    return [Candidate.of(Shaky(share), f"{share}.pt", options) for share in shares]


def test_a_worse_model_is_told_from_the_baseline(options: CompareOptions, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare(candidates(options, 0, 0.05, 0), options)
    out = capsys.readouterr().out
    worse, same = (entry["metrics"]["AP"] for entry in comparison["differences"])
    first, second, third = (model["AP"] for model in comparison["models"])
    assert worse["value"] == pytest.approx(second - first) and first == third
    low, high = worse["interval"]
    assert low < worse["value"] < high < -0.1 and worse["share"] == 0
    assert same == {"value": 0, "interval": (0, 0), "share": 0.5}
    assert "a is better by" in out and "do not tell c from a" in out
    written = json.loads((Path(options.project) / "exp" / "comparison.json").read_text())
    assert written == json.loads(json.dumps(comparison))
    assert written["images"] == len(SIZES) and written["resamples"] == 200 and written["data"] == options.data


def test_the_twelve_numbers_and_every_class(options: CompareOptions, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = compare(candidates(options, 0.05, 0), options)["differences"]
    out = capsys.readouterr().out
    assert found["weights"] == "0.pt" and len(found["metrics"]) == 12
    assert {name for name, entry in found["metrics"].items() if entry["interval"]} == {"AP", "AP50", "AP75"}
    rectangle, square = found["per_class"]
    assert rectangle == {"name": "rectangle", "value": None, "interval": None, "share": None}  # there are none
    assert square["name"] == "square" and square["share"] == 1 and square["value"] > 0.1
    (row,) = (line.split() for line in out.splitlines() if line.startswith("square"))
    assert row[1] == str(len(SIZES)) and row[4] == f"{square['value']:+.4f}" and row[-1] == "100.0%"
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_draws_are_seeded(options: CompareOptions) -> None:
    found = [
        compare(candidates(options, 0.05, 0.02), replace(options, seed=seed))["differences"][0]["metrics"]["AP"]
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints of untrained models beside their data."""
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_toy_data(tmp_path)
    for name, classes in {
        "a": ("blue", "green"),
        "b": ("blue", "green"),
        "renamed": ("blue", "red"),
        "turned": ("green", "blue"),
        "three": ("blue", "green", "red"),
    }.items():
        save_checkpoint(tmp_path / f"{name}.pt", build_model(MODEL, names=classes).eval(), data="data.yaml")
    return tmp_path


def test_json_is_all_that_stdout_holds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--imgsz", "64", "--workers", "0", "--resamples", "100", "--device", "cpu"]
    assert main(["compare", "a.pt", "b.pt", *flags, "--json"]) == 0
    captured = capsys.readouterr()
    comparison = json.loads(captured.out)
    assert [model["weights"] for model in comparison["models"]] == ["a.pt", "b.pt"]
    assert comparison["data"] == "data.yaml" and "which a.pt was trained on" in captured.err
    assert json.loads((files / "runs/compare/exp/comparison.json").read_text()) == comparison


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        ([], {}, "expected 2 to 26 weights to compare, found 0"),
        (["a.pt"], {}, "expected 2 to 26 weights to compare, found 1"),
        (["a.pt", "nowhere.pt"], {}, "nowhere.pt: no such file"),
        (["a.pt", "three.pt"], {}, "has 2 classes, but three.pt predicts 3"),
        (["a.pt", "renamed.pt"], {}, "renamed.pt: class 1: expected 'green' as in data.yaml, found 'red'"),
        (["turned.pt", "a.pt"], {}, "turned.pt: class 0: expected 'blue' as in data.yaml, found 'green'"),
        (["a.pt", "b.pt"], {"task": "test"}, "expected an entry 'test'"),
        (["a.pt", "b.pt"], {"data": "nowhere.yaml"}, "nowhere.yaml: no such file"),
    ],
)
def test_what_cannot_be_compared(files: Path, weights: list[str], changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        run(CompareOptions(weights=weights, imgsz=64, workers=0, device="cpu", **changes))
    assert "\n" not in str(raised.value)
    assert not (files / "runs").exists()


def test_classes_may_differ_where_all_are_one(files: Path) -> None:
    options = CompareOptions(weights=["a.pt", "three.pt"], imgsz=64, workers=0, single_cls=True, resamples=100)
    (found,) = run(options)["differences"]
    assert len(found["per_class"]) == 1 and np.isfinite(found["metrics"]["AP"]["value"])
