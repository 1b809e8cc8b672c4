from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.latency import Latency
from benchmarks.peers.plots import plot_latency, plot_wall_time
from benchmarks.peers.process import ProgramFailed, environment, run_logged
from benchmarks.peers.program import score
from benchmarks.peers.report import DASH, class_table, make_rows, markdown_table, spread
from benchmarks.peers.store import Key, Record, Store, complete_sitting
from benchmarks.peers.view import copy_data, read_boxes
from tests.data.toy import load, write_coco, write_yolo
from yolorep.config import resources_dir
from yolorep.errors import UserError

THEIRS = Key(program="ultralytics", model="yolov8n.yaml", data="d.yaml", imgsz=320, batch_size=16, epochs=40, seed=0)
OURS = replace(THEIRS, program="yolorep", model="cfg/yolorep/n.yaml")
SETTING = {"data": "d.yaml", "imgsz": 320, "batch_size": 16}


def record(key: Key = OURS, *, sitting: str = "1", ap: float = 0.4, wall: float = 100.0, **more: Any) -> Record:
    scores = {"val": {"AP": ap, "AP50": 2 * ap, "per_class": [{"name": "cell", "AP": ap}]}}
    return Record(
        key=key,
        sitting=sitting,
        date="2025-01-01",
        wall_seconds=wall,
        threads=2,
        params=3_000_000,
        params_deployed=2_000_000,
        weights="best.pt",
        scores=scores,
        **more,
    )


# ---- the store ------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    assert store.find(OURS) is None
    assert store.all(**SETTING) == []
    store.save(record(scores_nms_free={"val": {"AP": 0.39}}))
    assert store.find(OURS) == record(scores_nms_free={"val": {"AP": 0.39}})
    store.save(record(ap=0.5))
    assert [found.scores["val"]["AP"] for found in store.all(**SETTING)] == [0.5]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 20},
        {"imgsz": 640},
        {"batch_size": 8},
        {"hyp": "other.yaml"},
        {"model": "cfg/yolorep/s.yaml"},
        {"data": "/elsewhere/d.yaml"},  # of the same name
    ],
)
def test_another_setting_is_another_run(change: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(record())
    assert store.find(replace(OURS, **change)) is None


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(OURS).write_text('{"key": {}}')
    with pytest.raises(UserError, match="expected the record of a run"):
        store.find(OURS)


@pytest.mark.parametrize(
    ("model", "hyp", "label"),
    [
        ("cfg/yolorep/n.yaml", "", "yolorep/n"),
        ("yolov8n.yaml", "", "yolov8n"),
        ("/home/me/mine.yaml", "", "mine"),
        ("cfg/yolorep/n.yaml", "cfg/hyp/scratch-med.yaml", "yolorep/n (scratch-med)"),
    ],
)
def test_label(model: str, hyp: str, label: str) -> None:
    assert replace(OURS, model=model, hyp=hyp).label == label


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ([("1", OURS), ("1", THEIRS)], "1"),
        ([("1", OURS), ("2", THEIRS)], None),
        ([("1", OURS), ("1", THEIRS), ("2", OURS), ("2", THEIRS)], "2"),
        ([("1", OURS), ("1", THEIRS), ("2", OURS)], "1"),
        ([("1", OURS), ("1", replace(THEIRS, epochs=20))], None),
        ([], None),
    ],
)
def test_complete_sitting(trained: list[tuple[str, Key]], expected: str | None) -> None:
    records = [record(key, sitting=sitting) for sitting, key in trained]
    assert complete_sitting(records, [("yolorep/n", 40), ("yolov8n", 40)]) == expected


# ---- the report -----------------------------------------------------------------------------------------------------


def test_table() -> None:
    records = [
        record(THEIRS, ap=0.46, wall=780),
        record(OURS, ap=0.49, wall=700, scores_nms_free={"val": {"AP": 0.48, "AP50": 0.7}}),
        record(replace(OURS, seed=1), ap=0.51, wall=720),
        record(replace(OURS, epochs=20), ap=0.47, sitting="2", wall=300),
    ]
    latencies = [
        Latency("ultralytics", "yolov8n", "onnxruntime", 320, 17.0, 16.8, 17.4, 9),
        Latency("yolorep", "yolorep/n, NMS-free", "onnxruntime", 320, 8.0, 8.0, 8.0, 9),
        Latency("yolorep", "yolorep/s", "onnxruntime", 320, 20.0, 20.0, 20.0, 9),
    ]
    lines = markdown_table(make_rows(records, latencies, sitting="1")).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["model", "epochs", "seeds", "M parameters", "AP val", "AP50 val", "wall s", "onnxruntime 320 ms"],
        ["---"] * 8,
        ["yolov8n", "40", "1", "2.00", "0.460", "0.920", "780", "17.0 ±0.3"],
        ["yolorep/s", DASH, DASH, DASH, DASH, DASH, DASH, "20.0 ±0.0"],
        ["yolorep/n", "20", "1", "2.00", "0.470", "0.940", DASH, DASH],
        ["yolorep/n, NMS-free", "40", "1", "2.00", "0.480", "0.700", "710 ±10", "8.0 ±0.0"],
        ["yolorep/n", "40", "2", "2.00", "0.500 ±0.010", "1.000 ±0.020", "710 ±10", DASH],
    ]


def test_no_wall_time_without_a_sitting() -> None:
    assert make_rows([record()], [], sitting=None)[0].wall == []


def test_class_table() -> None:
    rows = make_rows([record(ap=0.4), record(replace(OURS, seed=1), ap=0.5)], [], sitting=None)
    assert class_table(rows, "val").splitlines()[2] == "| yolorep/n, 40 epochs | 0.450 |"


@pytest.mark.parametrize(
    ("values", "digits", "expected"),
    [([], 3, DASH), ([0.5], 3, "0.500"), ([0.4, 0.5], 3, "0.450 ±0.050"), ([700, 720, 770], 0, "730 ±35")],
)
def test_spread(values: list[float], digits: int, expected: str) -> None:
    assert spread(values, digits) == expected


def test_plots(tmp_path: Path) -> None:
    latency = [Latency("yolorep", "yolorep/n", runtime, 320, 8.0, 7.9, 8.1, 9) for runtime in ("onnxruntime", "b")]
    rows = make_rows([record()], latency, sitting="1")
    plot_wall_time(rows, tmp_path / "time.png", split="val")
    plot_latency(rows, tmp_path / "latency.png", split="val", imgsz=320)
    plot_wall_time(make_rows([record()], [], sitting=None), tmp_path / "none.png", split="val")
    plot_latency(rows, tmp_path / "none.png", split="val", imgsz=640)
    assert {path.name for path in tmp_path.iterdir()} == {"time.png", "latency.png"}
    assert all(path.stat().st_size < 200_000 for path in tmp_path.iterdir())


# ---- the copy of the data, and boxes read back ----------------------------------------------------------------------


def test_the_copy_is_a_data_set_and_no_link(tmp_path: Path) -> None:
    original = load(write_yolo(tmp_path / "original"))
    before = {path: path.stat() for path in (tmp_path / "original").rglob("*")}
    yaml = copy_data({"train": original}, tmp_path / "copy")
    copy = load(yaml)
    np.testing.assert_allclose(copy.boxes, original.boxes, atol=1e-6)
    np.testing.assert_array_equal(copy.offsets, original.offsets)
    np.testing.assert_array_equal(copy.sizes, original.sizes)
    assert copy.names == original.names
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in map(Path, copy.paths))
    assert {path: path.stat() for path in (tmp_path / "original").rglob("*")} == before


def test_the_truth_itself_has_an_ap_of_one(tmp_path: Path) -> None:
    annotations = load(write_yolo(tmp_path))
    for index in range(len(annotations)):
        rows = [" ".join(f"{value:.6g}" for value in (int(row[0]), *row[1:], 0.9)) for row in annotations.labels(index)]
        if rows:
            (tmp_path / f"{index:06d}.txt").write_text("\n".join(rows))
    found = score(annotations, read_boxes(tmp_path, annotations))
    assert found["AP"] == pytest.approx(1)
    assert [entry["name"] for entry in found["per_class"]] == ["a", "b", "c"]


def test_ids_of_the_data_set_are_used(tmp_path: Path) -> None:
    annotations = load(write_coco(tmp_path), "val")  # ids that are not contiguous
    height, width = annotations.sizes[0].tolist()
    (tmp_path / "000000.txt").write_text(f"1 {65 / width} {45 / height} {30 / width} {30 / height} 0.9\n")
    found = {entry["name"]: entry["AP"] for entry in score(annotations, read_boxes(tmp_path, annotations))["per_class"]}
    assert found["cup"] == pytest.approx(51 / 101)  # one of two cups, the other of which has no area


def test_other_content_is_refused(tmp_path: Path) -> None:
    annotations = load(write_yolo(tmp_path))
    (tmp_path / "000000.txt").write_text("1 0.5 0.5\n")
    with pytest.raises(UserError, match="expected rows of class"):
        read_boxes(tmp_path, annotations)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "missing", "message"),
    [
        (["--data", "nope.yaml"], (), "error: nope.yaml: no such file"),
        (["--ours", "nope.yaml"], (), "error: nope.yaml: no such file"),
        (["--ours", "--models"], (), "error: --ours, --models: expected at least one model"),
        (["--ours"], ("ultralytics",), "error: ultralytics: not installed; pip install 'yolorep[bench]'"),
        (["--ours", "--latency"], ("ultralytics", "openvino"), "error: ultralytics, openvino: not installed"),
        (["--ours", "--only", "report"], ("ultralytics",), "expected runs of this setting, found none"),
    ],
)
def test_one_line_for_what_is_wrong(
    flags: list[str],
    missing: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(resources_dir() / "benchmarks"))
    command = importlib.import_module("train_vs_peers")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else object())
    assert command.main([*flags, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err.splitlines()[0]
    assert not list(tmp_path.iterdir())


# ---- processes ------------------------------------------------------------------------------------------------------


def test_a_program_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"program\.log: no such thing") as caught:
        run_logged(
            [sys.executable, "-c", "import sys; print('a\\nno such thing\\n'); sys.exit(2)"],
            tmp_path / "program.log",
            env=environment(1),
        )
    assert caught.value.code == 2


def test_nothing_goes_on_after_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    started = []
    wait = subprocess.Popen.wait

    def interrupted(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if not started:
            started.append(process)
            raise KeyboardInterrupt
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_logged([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "program.log", env=environment(1))
    assert started[0].poll() is not None
