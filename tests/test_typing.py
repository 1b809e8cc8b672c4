"""The front door as a type checker sees it, from outside the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from yolorep.config import resources_dir

GOOD = """
from pathlib import Path
from yolorep import Detections, Predictor, export, fuse, load_model, train, val

result = train(data=Path("my.yaml"), epochs=3, freeze=(0, 1), callbacks=[])
evaluation = val(weights=result.best, data="my.yaml")
files: list[Path] = export(weights=result.best, include=("onnx", "torchscript"))
first: float = evaluation.metrics["AP"]
for found in Predictor(files[0]).stream("clip.mp4"):
    name: str | None = found.detections[0].class_name
    some: Detections = found.detections[1:]
fused, report = fuse(load_model("best.pt"))
"""
WRONG = """
from yolorep import train
train(epohcs=3)
train(epochs="3")
train(data="my.yaml").metric
"""


@pytest.mark.slow
def test_types_are_published(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "wrong.py").write_text(WRONG)

    def check(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), name]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert (resources_dir() / "yolorep" / "py.typed").is_file()
    good = check("good.py")
    assert good.returncode == 0, good.stdout
    wrong = check("wrong.py").stdout
    assert all(f"wrong.py:{line}: error" in wrong for line in (3, 4, 5)) and "3 errors" in wrong, wrong
