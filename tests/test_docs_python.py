"""docs/python.md and README.md: every block is run, in order, in one namespace, as a reader would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from tests.media.files import make_image, write_image, write_video
from tests.training.toy_run import write_toy_data
from yolorep.config import resources_dir
from yolorep.models.detector import build_model
from yolorep.nn.registry import ROW_TYPES
from yolorep.ops.letterbox import Geometry
from yolorep.weights.checkpoint import save_checkpoint

PAGE, README = resources_dir() / "docs" / "python.md", resources_dir() / "README.md"
#: What the page asks for takes minutes; the calls are the same with less.
SHORTER = {r"epochs=\d+": "epochs=1", r"imgsz=320": "imgsz=64, workers=0", r"image_size=320": "image_size=64"}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of somebody who follows the page."""
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_toy_data(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "my.yaml")
    write_image(tmp_path / "street.jpg", make_image(96, 128))
    write_video(tmp_path / "clip.mp4", 5)
    torch.manual_seed(0)
    model = build_model(str(tmp_path / "model.yaml"), names=("person", "dog"))
    model.geometry = Geometry(64)
    with torch.no_grad():  # it finds something everywhere
        for conv in model.head.m:
            conv.bias.view(2, -1)[:, 4:] = 3.0
    save_checkpoint(tmp_path / "best.pt", model.eval())
    assert cv2.imread("street.jpg") is not None
    return tmp_path


def run(page: Path) -> int:
    """Runs a page's blocks; returns how many there are."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, Any] = {"__name__": "reader"}
    try:
        for block in blocks:
            for long, short in SHORTER.items():
                block = re.sub(long, short, block)
            exec(compile(block, str(page), "exec", dont_inherit=True), scope)
    finally:
        ROW_TYPES.pop("Twice", None)
    return len(blocks)


@pytest.mark.slow
def test_the_readmes_block_runs(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(README) == 1
    assert (reader / "runs" / "train" / "exp" / "weights" / "best.onnx").is_file()
    assert sorted(path.name for path in reader.glob("[0-9].jpg")) == [f"{index}.jpg" for index in range(5)]
    assert "Detections(" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_runs(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(PAGE) > 10
    out = capsys.readouterr().out
    assert re.search(r"^Detections\(\d+: ", out, re.MULTILINE)
    assert "frame 4, " in out
    assert re.search(r"^TrainResult\(runs/train/exp, AP ", out, re.MULTILINE)
    assert "mine.yaml: no such file" in out
    assert re.search(r"^FuseReport\(", out, re.MULTILINE) and re.search(r"^Detector\(", out, re.MULTILINE)
    assert (reader / "boxes.json").is_file() and (reader / "boxes.jpg").is_file()
    assert (reader / "runs" / "detect" / "exp" / "predictions.csv").is_file()
    assert len(list((reader / "runs" / "train").iterdir())) == 4
