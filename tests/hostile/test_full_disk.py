"""Every command on a disk that is full: one line that names the file, and no half of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.commands import Command, half_written, small_disk
from tests.inference.white_box import write_white_box
from tests.media.files import write_video
from tests.training.toy_run import write_toy_data
from yolorep.models.detector import build_network
from yolorep.weights.checkpoint import save_checkpoint

pytestmark = pytest.mark.slow

TRAIN = ["train", "--cfg", "model.yaml", "--data", "data.yaml", "--imgsz", "64", "--batch-size", "2", "--device", "cpu"]
EXPORT = ["export", "--weights", "w.pt", "--imgsz", "64", "--include"]
DETECT = ["detect", "--weights", "white.torchscript", "--source", "long.mp4", "--project", "runs"]
#: Name -> arguments, bytes a file may have, the file that is named.
CASES = {
    "train": ([*TRAIN, "--epochs", "2", "--workers", "0", "--project", "runs"], 20_000, "weights/best.pt"),
    "val": (["val", "--weights", "w.pt", "--workers", "0", "--project", "runs"], 1000, "pr_curve.png"),
    "compare": (["compare", "w.pt", "w.pt", "--workers", "0", "--project", "runs"], 1000, "comparison.json"),
    "detect, a video": (DETECT, 5000, "long.mp4"),
    "detect, a table": ([*DETECT, "--nosave", "--save-csv"], 2000, "predictions.csv"),
    "detect, JSON": ([*DETECT, "--nosave", "--save-json"], 2000, "predictions.json"),
    "detect, crops": ([*DETECT, "--nosave", "--save-crop"], 100, "crops/"),
    "export, TorchScript": (
        ["export", "--weights", "w.pt", "--imgsz", "64", "--include", "torchscript"],
        2000,
        "w.torchscript",
    ),
    "export, ONNX": ([*EXPORT, "onnx"], 2000, "w.onnx"),
    "fuse": (["fuse", "--weights", "w.pt", "--output", "f.pt"], 2000, "f.pt"),
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_toy_data(tmp_path)
    network = build_network(tmp_path / "model.yaml", names=["blue", "green"])
    save_checkpoint(tmp_path / "w.pt", network, data="data.yaml")
    write_video(tmp_path / "long.mp4", 50)
    write_white_box(tmp_path / "white.torchscript")
    return tmp_path


def test_batches_that_cannot_be_handed_over_are_told(work: Path) -> None:
    """Shared memory that fills up later than it was looked at."""
    arguments = ["val", "--weights", "w.pt", "--workers", "2", "--batch-size", "3"]
    code, out = Command(*arguments, folder=work, before=small_disk(1000)).end()
    assert code == 1
    said = "error: a data loading process could not put its batch into /dev/shm (File too large): fewer --workers"
    assert out.strip().splitlines()[-1].startswith(said), out


@pytest.mark.parametrize("name", CASES)
def test_one_line_names_the_file(name: str, work: Path) -> None:
    arguments, largest, file = CASES[name]
    code, out = Command(*arguments, folder=work, before=small_disk(largest)).end()
    last = out.strip().splitlines()[-1]
    # A limit of one file is no full disk: others are tried, and not one of the crops can be written.
    assert code == (2 if "not one result could be written" in last else 1), out
    assert last.startswith("error: ") and file in last, out
    assert "File too large" in last or "is the disk full?" in last
    assert not half_written(work)
    assert all(path.suffix in (".csv", ".yaml") for path in work.rglob("runs/**/*.*") if path.stat().st_size == largest)
