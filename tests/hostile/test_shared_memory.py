"""Training where processes can share little memory, or none: a container's /dev/shm."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.toy_run import write_toy_data

pytestmark = pytest.mark.slow
TRAIN = "train --cfg model.yaml --data data.yaml --imgsz 64 --batch-size 2 --epochs 2 --workers 2 --device cpu"
MOUNT = {
    "small": "mount -t tmpfs -o size=64k tmpfs /dev/shm",
    "read-only": "mount -t tmpfs -o ro tmpfs /dev/shm",
    "missing": "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9",
}


def needs_root() -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("mounts a file system of its own: needs root")


@pytest.mark.parametrize("kind", MOUNT)
def test_training_uses_fewer_processes_and_says_so(kind: str, tmp_path: Path) -> None:
    needs_root()
    write_toy_data(tmp_path)
    script = f"{MOUNT[kind]} || exit 99; exec {sys.executable} -m yolorep {TRAIN}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode == 99:
        pytest.skip("this machine does not let a test mount anything")
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if "data loading process" in line]
    assert len(said) == 1 and "would need" in said[0] and "none will be used" in said[0]
    assert ("none that can be written" in said[0]) == (kind != "small")
