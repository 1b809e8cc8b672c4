"""onnxruntime calls home unless told not to before it is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("yolorep", "tests", "benchmarks", "examples", "docs")

PROGRAM = """
import sys
from pathlib import Path
import torch
from yolorep.commands.export import run
from yolorep.formats.onnx import OnnxBackend
from yolorep.models.detector import build_network
from yolorep.options import ExportOptions
from yolorep.weights.checkpoint import save_checkpoint

save_checkpoint(Path("w.pt"), build_network("yolov5/n.yaml"))
run(ExportOptions(weights="w.pt", imgsz=64, include=["onnx", "torchscript"]))
OnnxBackend(Path("w.onnx"))(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
assert "onnxruntime" in sys.modules
"""


def test_it_is_imported_in_one_place() -> None:
    imports = re.compile(
        r"^\s*(?:>>> )?(?:import|from)\s+onnxruntime\b|import_module\(\s*['\"]onnxruntime", re.MULTILINE
    )
    files = [*ROOT.glob("*.py"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.*"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md", ".ipynb")}
    found = [path.relative_to(ROOT).as_posix() for path, text in texts.items() if imports.search(text)]
    assert found == ["yolorep/formats/onnx.py"]


@pytest.mark.slow
def test_exporting_and_running_leave_nothing_in_the_home_folder(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "YOLOREP_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=work, env=environment, check=True)
    assert not list(home.rglob("*"))
