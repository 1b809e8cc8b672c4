"""The ablation's files and its table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.test_train_vs_peers import record
from yolorep.config import load_hyp
from yolorep.models.parser import load_config, parse_rows


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, found as when it is run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "ablation", raising=False)
    return importlib.import_module("ablation")


def test_every_change_changes_what_it_says(ablation: ModuleType, tmp_path: Path) -> None:
    args = ablation.parse([])
    keys = {name: ablation.make_key(name, args, data="d.yaml", folder=tmp_path, seed=0) for name in ablation.CHANGES}
    assert len({key.slug for key in keys.values()}) == len(keys)
    default = keys["default"]
    assert load_hyp(default.hyp) == load_hyp("cfg/hyp/yolorep.yaml")
    for name, key in keys.items():
        change = ablation.CHANGES[name]
        changed = {k: v for k, v in load_hyp(key.hyp) if v != getattr(load_hyp(default.hyp), k)}
        assert changed == change.hyp
        head = parse_rows(load_config(key.model))[-1]
        assert head.args == ((80, *change.head[1:]) if change.head else (80, 16))
        assert load_config(key.model).branches == change.model.get("branches")
        assert change == ablation.Change() or name != "default"


def test_table(ablation: ModuleType, tmp_path: Path) -> None:
    args = ablation.parse([])
    records = [
        record(ablation.make_key(name, args, data="d.yaml", folder=tmp_path, seed=seed), ap=ap, **more)
        for name, seed, ap, more in (
            ("SGD", 0, 0.35, {}),
            ("default", 0, 0.4, {}),
            ("default", 1, 0.5, {}),
            ("one-to-one branch beside", 2, 0.4, {"scores_nms_free": {"val": {"AP": 0.3}}}),
        )
    ]
    assert ablation.table(records).splitlines()[2:] == [
        "| default | 2 | 0.450 ±0.050 | – | 3.00 | 2.00 |",
        "| SGD | 1 | 0.350 | -0.050 | 3.00 | 2.00 |",
        "| one-to-one branch beside | 1 | 0.400 | – | 3.00 | 2.00 |",
        "| one-to-one branch beside, NMS-free | 1 | 0.300 | – | – | – |",
    ]


def test_unknown_change(ablation: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--only", "SDG", "--output", str(tmp_path)]) == 2
    assert "error: --only: expected a change, found 'SDG' (did you mean 'SGD'?)" in capsys.readouterr().err
