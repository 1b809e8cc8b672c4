"""What an installation needs: one of two OpenCV packages, and torch from where the user wants it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from yolorep.config import resources_dir

ROOT = resources_dir()

#: How an import of OpenCV fails: it is not there, or a library it is linked to is not.
BROKEN = {
    "missing": "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')",
    "unloadable": "raise ImportError('libGL.so.1: cannot open shared object file', name='cv2')",
}


def run_without_opencv(folder: Path, how: str, *argv: str) -> subprocess.CompletedProcess[str]:
    (folder / "cv2.py").write_text(BROKEN[how])
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    command, environment = [sys.executable, *argv], os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", BROKEN)
def test_a_command_without_opencv_names_both_packages(how: str, tmp_path: Path) -> None:
    done = run_without_opencv(tmp_path, how, "-m", "yolorep", "val", "--weights", "w.pt")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install opencv-python, or opencv-python-headless" in done.stderr
    assert {"missing": "No module named 'cv2'", "unloadable": "libGL.so.1"}[how] in done.stderr


@pytest.mark.parametrize("call", ["yolorep.Predictor", "yolorep.val(weights='w.pt')"])
def test_python_without_opencv_names_both_packages(call: str, tmp_path: Path) -> None:
    code = f"import yolorep\ntry: {call}\nexcept ImportError as error: print(error)\nelse: raise SystemExit(1)"
    done = run_without_opencv(tmp_path, "missing", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "pip install opencv-python, or opencv-python-headless" in done.stdout


def test_help_needs_no_opencv(tmp_path: Path) -> None:
    assert run_without_opencv(tmp_path, "missing", "-m", "yolorep", "train", "--help").returncode == 0


def test_opencv_is_a_choice() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert not [entry for entry in project["dependencies"] if "opencv" in entry]
    assert extras["opencv"] == ["opencv-python>=4.8"] and extras["headless"] == ["opencv-python-headless>=4.8"]
    assert "yolorep[opencv]" in extras["dev"]


@pytest.mark.parametrize("index", ["", "https://download.pytorch.org/whl/cpu"])
def test_make_takes_torch_from_an_index(index: str, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    make = ["make", "--dry-run", "install", f"VENV={tmp_path / 'venv'}", f"TORCH_INDEX={index}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    installs = [line.partition(" -m pip install --quiet ")[2] for line in done.stdout.splitlines() if "pip" in line]
    from_index = [f"torch torchvision --index-url {index}"] if index else []
    assert installs == [*from_index, "--editable '.[dev,export]'"]
