"""Seconds until a program's detector can be imported: yolorep's beside ultralytics' (extra ``bench``, if installed).

Each import runs in a process of its own; the programs take turns. ``import torch`` alone, which both need, is the
floor. Ultralytics is run as a black box.

    python benchmarks/import_time.py --turns 9
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec

from peers.machine import machine, versions

OURS, THEIRS = "from yolorep import Predictor", "from ultralytics import YOLO"
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def main() -> int:
    """Runs the turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args()
    statements = ["import torch", OURS, *([THEIRS] if find_spec("ultralytics") else [])]
    seconds: dict[str, list[float]] = {statement: [] for statement in statements}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.turns + 1):
            for statement in statements:
                value = measure(statement, folder)
                if turn:  # the first one reads the files from the disk
                    seconds[statement].append(value)
    print(f"{machine()}, {', '.join(f'{name} {version}' for name, version in versions().items())}")
    print("| statement | seconds (median) | min | max |\n|---|---|---|---|")
    for statement, values in seconds.items():
        print(f"| `{statement}` | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    if THEIRS in seconds:
        ratio = statistics.median(seconds[OURS]) / statistics.median(seconds[THEIRS])
        print(f"ratio yolorep / ultralytics: {ratio:.2f}")
    return 0


def measure(statement: str, folder: str) -> float:
    """Seconds the statement takes in a fresh process, the start of Python not included."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(statement)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true"},
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
