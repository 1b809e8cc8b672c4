"""The ablation's files and its table."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.test_train_vs_peers import OURS, record
from yolorep.models.model_file import load_config
from yolorep.models.parser import parse_rows
from yolorep.training.recipe import load_hyp


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, found as when it is run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "ablation", raising=False)
    return importlib.import_module("ablation")


def test_every_change_changes_what_it_says(ablation: ModuleType, tmp_path: Path) -> None:
    args = ablation.parse([])
    files = {name: ablation.write_files(name, args, folder=tmp_path) for name in ablation.CHANGES}
    assert len(set(files.values())) == len(files)
    default = load_hyp(files["default"][1])
    assert default == load_hyp("cfg/hyp/yolorep.yaml")
    for name, (model, recipe) in files.items():
        change = ablation.CHANGES[name]
        assert {k: v for k, v in load_hyp(recipe) if v != getattr(default, k)} == change.hyp
        head = parse_rows(load_config(model))[-1]
        assert head.args == ((80, *change.head[1:]) if change.head else (80, 16))
        assert load_config(model).branches == change.model.get("branches")
        assert change != ablation.Change() or name == "default"


def test_another_model_or_recipe_is_another_run(ablation: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lr0: 0.1")
    others: list[list[str]] = [[], ["--cfg", "cfg/yolorep/s.yaml"], ["--hyp", str(tmp_path / "own.yaml")]]
    files = [ablation.write_files("SGD", ablation.parse(other), folder=tmp_path) for other in others]
    assert len(set(files)) == 3
    assert files[0] == ablation.write_files("SGD", ablation.parse([]), folder=tmp_path)


def test_table(ablation: ModuleType) -> None:
    runs = {
        "default": [record(replace(OURS, seed=seed), ap=ap) for seed, ap in ((0, 0.4), (1, 0.5))],
        "SGD": [record(ap=0.35)],
        "cosine": [],
        "one-to-one branch beside": [record(replace(OURS, seed=2), scores_nms_free={"val": {"AP": 0.3}})],
    }
    assert ablation.table(runs).splitlines()[2:] == [
        "| default | 2 | 0.450 ±0.050 | – | 3.00 | 2.00 |",
        "| SGD | 1 | 0.350 | -0.050 | 3.00 | 2.00 |",
        "| one-to-one branch beside | 1 | 0.400 | – | 3.00 | 2.00 |",
        "| one-to-one branch beside, NMS-free | 1 | 0.300 | – | – | – |",
    ]


def test_unknown_change(ablation: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--only", "SDG", "--output", str(tmp_path)]) == 2
    assert "error: --only: expected a change, found 'SDG' (did you mean 'SGD'?)" in capsys.readouterr().err
