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


def run_with(mount: str, *arguments: str, folder: Path) -> str:
    """What a Python program prints where shared memory is as mounted."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("mounts a file system of its own: needs root")
    command = ["unshare", "-m", "sh", "-c", f'{mount} || exit 99; exec "$@"', "sh", sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 99:
        pytest.skip("this machine does not let a test mount anything")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", MOUNT)
def test_training_uses_fewer_processes_and_says_so(kind: str, tmp_path: Path) -> None:
    write_toy_data(tmp_path)
    out = run_with(MOUNT[kind], "-m", "yolorep", *TRAIN.split(), folder=tmp_path)
    said = [line for line in out.splitlines() if "data loading process" in line]
    assert len(said) == 1 and "would need" in said[0] and "none will be used" in said[0]
    assert ("none that can be written" in said[0]) == (kind != "small")


def test_evaluations_that_need_more_take_none_from_training(tmp_path: Path) -> None:
    write_toy_data(tmp_path)
    program = f"""
import os
from yolorep.cli import parse
from yolorep.training.inputs import new_run
from yolorep.training.run import with_workers
os.cpu_count = lambda: 2
run = with_workers(new_run(parse({TRAIN.split()})[1]))
print(run.workers, run.val_workers)
"""
    out = run_with("mount -t tmpfs -o size=192k tmpfs /dev/shm", "-c", program, folder=tmp_path).splitlines()
    assert [line.partition(":")[0] for line in out if "data loading process" in line] == ["evaluation"]
    assert out[-1] == "2 0"
