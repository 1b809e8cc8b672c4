"""Loggers: the table, TensorBoard, and MLflow and W&B with modules that stand in for theirs."""

from __future__ import annotations

import os
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.training.tiny import tiny_trainer
from tests.training.toy_run import options
from yolorep.errors import UserError
from yolorep.training.inputs import new_run
from yolorep.training.loggers import LOGGERS, Logs, make_loggers, result_row
from yolorep.training.loggers.mlflow import MLflow
from yolorep.training.loggers.table import ResultsTable, read_results, read_rows
from yolorep.training.loggers.tensorboard import TensorBoard
from yolorep.training.loggers.wandb import WandB
from yolorep.training.resume import remove_run
from yolorep.training.trainer import EpochResult, Scores


def result(epoch: int, *, ap: float | None = 0.5) -> EpochResult:
    return EpochResult(
        epoch=epoch,
        losses={"box": 0.12345678, "cls": 0.3},
        metrics={} if ap is None else {"AP": ap, "AP50": 2 * ap},
        learning_rates={"bias": 0.1, "norm": 0.01},
        seconds=1.234,
        best=True,
        final=False,
        val_losses={} if ap is None else {"box": 0.2},
    )


def row(epoch: int, *, ap: float | None = 0.5) -> dict[str, float]:
    return result_row(result(epoch, ap=ap))


def started(logger: Any, folder: Path, *, rows: Any = ()) -> Any:
    logger.start(folder, options={"epochs": 3, "cfg": None}, hyp={"lr0": 0.1}, rows=rows)
    return logger


def test_results_table(tmp_path: Path) -> None:
    table = started(ResultsTable(), tmp_path)
    table.epoch(row(0, ap=None))
    table.epoch(row(1))
    first, second = read_results(tmp_path / "results.csv")
    expected = {"epoch": "1", "train/box": "0.123457", "AP": "", "lr/bias": "0.1", "seconds": "1.23"}
    assert {name: first[name] for name in expected} == expected
    assert (second["epoch"], second["AP"], second["AP50"], second["APs"]) == ("2", "0.5", "1", "")
    assert (first["val/box"], second["val/box"], second["val/cls"]) == ("", "0.2", "")
    assert list(first)[:6] == ["epoch", "train/box", "train/cls", "val/box", "val/cls", "AP"]
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
    assert read_rows(tmp_path / "results.csv") == [row(0, ap=None), row(1)]


def test_the_table_goes_on_where_the_checkpoint_is(tmp_path: Path) -> None:
    started(ResultsTable(), tmp_path, rows=[row(0), row(1)]).epoch(row(2, ap=0.7))
    found = [(entry["epoch"], entry["AP"]) for entry in read_results(tmp_path / "results.csv")]
    assert found == [("1", "0.5"), ("2", "0.5"), ("3", "0.7")]


def test_a_table_with_other_columns_goes_on(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("epoch,train/obj,AP,lr/bias,seconds\n1,0.3,,0.1,2.50\n")
    rows = read_rows(tmp_path / "results.csv")
    started(ResultsTable(), tmp_path, rows=rows).epoch(row(1))
    first, second = read_results(tmp_path / "results.csv")
    assert (first["train/obj"], first["train/box"], first["seconds"]) == ("0.3", "", "2.5")
    assert (second["train/obj"], second["train/box"]) == ("", "0.123457")
    assert list(first)[:4] == ["epoch", "train/obj", "train/box", "train/cls"]


def test_no_table_yet(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "results.csv") == []


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    started(TensorBoard(), tmp_path).epoch(row(0))
    log = started(TensorBoard(), tmp_path, rows=[row(0)])  # resumed
    log.epoch(row(1, ap=None))
    log.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("train/box")] == [1, 2]
    assert [event.step for event in events.Scalars("metrics/AP")] == [1]


class FakeMLflow:
    """Stands in for mlflow: a server, and the modules of its client."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self.experiments: list[str] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.away = False

    def modules(self) -> dict[str, ModuleType]:
        server = self
        error = type("MlflowException", (Exception,), {})

        class Client:
            def __init__(self, tracking_uri: str) -> None:
                server.uris.append(tracking_uri)

            def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
                known = name in server.experiments
                return SimpleNamespace(experiment_id=str(server.experiments.index(name))) if known else None

            def create_experiment(self, name: str) -> str:
                if server.away:
                    raise error("no answer\nafter 7 tries")
                server.experiments.append(name)
                return str(len(server.experiments) - 1)

            def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
                run_id = f"run{len(server.runs)}"
                server.runs[run_id] = {"name": run_name, "status": "RUNNING", "params": {}, "points": []}
                return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

            def update_run(self, run_id: str, status: str) -> None:
                server.runs[run_id]["status"] = status

            def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
                if server.away:
                    raise error("no answer\nafter 7 tries")
                server.runs[run_id]["params"] |= dict(params)
                server.runs[run_id]["points"] += [(metric.key, metric.step, metric.value) for metric in metrics]

            def set_terminated(self, run_id: str) -> None:
                server.runs[run_id]["status"] = "FINISHED"

        entities = {
            "Param": namedtuple("Param", "key value"),
            "Metric": namedtuple("Metric", "key value timestamp step"),
        }
        members = {
            "mlflow": {"MlflowClient": Client},
            "mlflow.entities": entities,
            "mlflow.exceptions": {"MlflowException": error},
        }
        modules = {name: ModuleType(name) for name in members}
        for name, module in modules.items():
            vars(module).update(members[name])
        return modules


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    fake = FakeMLflow()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    return fake


def test_mlflow(tmp_path: Path, mlflow: FakeMLflow, capsys: pytest.CaptureFixture[str]) -> None:
    log = started(MLflow(), tmp_path)
    log.epoch(row(0))
    log.close()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert mlflow.uris == [uri] and mlflow.experiments == ["yolorep"]
    assert f"mlflow ui --backend-store-uri {uri}" in capsys.readouterr().out
    run = mlflow.runs["run0"]
    assert (run["name"], run["status"]) == (tmp_path.name, "FINISHED")
    assert run["params"] == {"options/epochs": "3", "options/cfg": "None", "hyp/lr0": "0.1"}
    assert ("metrics/AP", 1, 0.5) in run["points"] and ("train/box", 1, 0.123457) in run["points"]
    assert not [key for key, _, _ in run["points"] if key == "epoch"]

    again = started(MLflow(), tmp_path, rows=[row(0)])  # resumed: the same run, without logging an epoch twice
    assert run["status"] == "RUNNING"
    again.epoch(row(1))
    assert [step for key, step, _ in run["points"] if key == "metrics/AP"] == [1, 2] and len(mlflow.runs) == 1


def test_mlflow_where_the_environment_says(tmp_path: Path, mlflow: FakeMLflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells")
    started(MLflow(), tmp_path)
    assert mlflow.uris == ["http://host:5000"] and mlflow.experiments == ["cells"]


def test_a_server_that_is_away_does_not_stop_the_run(
    tmp_path: Path, mlflow: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    log = started(MLflow(), tmp_path / "one")
    mlflow.away = True
    log.epoch(row(4))
    assert "MLflow: epoch 5 is not logged: no answer\n" in capsys.readouterr().out
    mlflow.experiments.clear()
    with pytest.raises(UserError, match=r"^--log mlflow: sqlite:.*: no answer; see MLFLOW_TRACKING_URI$"):
        started(MLflow(), tmp_path / "two")


class FakeWandB:
    """Stands in for wandb."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.runs: list[SimpleNamespace] = []
        self.on_server: set[str] = set()
        self.module = ModuleType("wandb")
        self.module.Error = type("Error", (Exception,), {})
        self.module.init = self.init

    def init(self, **named: Any) -> SimpleNamespace:
        if named["mode"] == "online" and not os.environ.get("WANDB_API_KEY"):
            raise self.module.Error("api_key not configured\n(no-tty)")
        self.calls.append(named)
        run_id = named["id"] or f"id{len(self.runs)}"
        run = SimpleNamespace(id=run_id, resumed=run_id in self.on_server, points=[], finished=False)
        if named["mode"] == "online":
            self.on_server.add(run_id)
        else:
            (Path(named["dir"]) / "wandb" / f"offline-run-{len(self.runs)}-{run_id}").mkdir(parents=True)
        run.log = lambda values, step: run.points.append((step, values["metrics/AP"]))
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandB:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake.module)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return fake


def test_wandb_is_offline(tmp_path: Path, wandb: FakeWandB) -> None:
    log = started(WandB(), tmp_path)
    log.epoch(row(0))
    log.close()
    named = wandb.calls[0]
    assert (named["mode"], named["project"], named["name"]) == ("offline", "yolorep", tmp_path.name)
    assert named["config"] == {"options": {"epochs": 3, "cfg": None}, "hyp": {"lr0": 0.1}}
    assert wandb.runs[0].points == [(1, 0.5)] and wandb.runs[0].finished

    started(WandB(), tmp_path, rows=[row(0), row(1, ap=0.6)])  # resumed: written anew, as one run
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["offline-run-1-id0"]
    assert wandb.runs[1].points == [(1, 0.5), (2, 0.6)]


def test_wandb_where_the_environment_says(tmp_path: Path, wandb: FakeWandB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "cells")
    with pytest.raises(UserError, match=r"^--log wandb: api_key not configured; see WANDB_MODE$"):
        started(WandB(), tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    started(WandB(), tmp_path).epoch(row(0))
    started(WandB(), tmp_path, rows=[row(0)]).epoch(row(1))  # goes on with the run there
    assert [named["mode"] for named in wandb.calls] == ["online"] * 2 and wandb.calls[0]["project"] == "cells"
    assert [run.points for run in wandb.runs] == [[(1, 0.5)], [(2, 0.5)]]


@pytest.mark.parametrize(
    ("names", "absent", "kinds"),
    [
        (None, [], [ResultsTable, TensorBoard]),
        (None, ["torch.utils.tensorboard"], [ResultsTable]),
        (["csv"], [], [ResultsTable]),
        (["wandb", "csv", "wandb"], [], [ResultsTable, WandB]),
        (["mlflow", "tensorboard"], [], [ResultsTable, MLflow, TensorBoard]),
    ],
)
def test_which_loggers(
    names: list[str] | None,
    absent: list[str],
    kinds: list[type],
    mlflow: FakeMLflow,
    wandb: FakeWandB,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", ModuleType("torch.utils.tensorboard"))
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    assert [type(logger) for logger in make_loggers(names)] == kinds


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlflow", r"^--log mlflow: mlflow is not installed: pip install 'yolorep\[mlflow\]'$"),
        ("wandb", r"^--log wandb: wandb is not installed: pip install 'yolorep\[wandb\]'$"),
        ("tensorbord", r"^--log tensorbord: expected csv, .* \(did you mean 'tensorboard'\?\)$"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_created(
    work: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=message):
        new_run(options(work, log=[name]))
    assert not (work / "runs").exists()


def test_no_call_home_unless_asked(mlflow: FakeMLflow, wandb: FakeWandB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")  # the user's own word holds
    make_loggers(["mlflow", "wandb"])
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["WANDB_ERROR_REPORTING"] == "true"


def test_loggers_are_closed_however_a_run_ends(tmp_path: Path, wandb: FakeWandB) -> None:
    trainer = tiny_trainer(epochs=2, evaluate=lambda model: Scores({"AP": 0.5}))
    trainer.callbacks = [Logs([started(WandB(), tmp_path)])]
    step = trainer.train_step

    def interrupted(batch: Any, iteration: int, *, last: bool) -> dict[str, float]:
        if iteration == 7:
            raise KeyboardInterrupt
        return step(batch, iteration, last=last)

    trainer.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert wandb.runs[0].points == [(1, 0.5)] and wandb.runs[0].finished


def test_a_new_run_in_the_folder_finds_nothing_of_the_old_one(
    tmp_path: Path, mlflow: FakeMLflow, wandb: FakeWandB
) -> None:
    (tmp_path / "notes.txt").touch()
    for logger in (ResultsTable(), MLflow(), WandB()):
        started(logger, tmp_path).epoch(row(0))
    (tmp_path / "mlflow.db").touch()
    assert len(list(tmp_path.iterdir())) == 6
    remove_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_every_logger_says_what_it_leaves() -> None:
    assert all(logger.leaves for logger in LOGGERS.values())
