"""Running a program: output in a file, a plain line now and then, nothing left behind on Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from yolorep.errors import YolorepError

#: Seconds between two lines about a running training.
_INTERVAL = 60.0
#: Seconds a process has to end itself.
_GRACE = 15.0
_BENCHMARKS = Path(__file__).parents[1]


class ProgramFailed(YolorepError):
    """A program ended with an error."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def environment(threads: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every program: the same threads, no window, this repository first."""
    paths = [str(_BENCHMARKS), str(_BENCHMARKS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    fixed = {"OMP_NUM_THREADS": str(threads), "MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **fixed, **(extra or {})}


def run_logged(
    command: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path | None = None, table: Path | None = None
) -> float:
    """Runs a program to its end.

    Args:
        command: program and arguments.
        log: its output goes there.
        env: its environment.
        cwd: its working directory.
        table: a CSV that it adds a row to every epoch, to tell how far it is.

    Returns:
        Seconds it took.

    Raises:
        ProgramFailed: if it fails, with the last line of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd)
        try:
            while True:
                try:
                    code = child.wait(_INTERVAL)
                    break
                except subprocess.TimeoutExpired:
                    rows = len(table.read_text().splitlines()) - 1 if table and table.is_file() else 0
                    print(f"  {time.perf_counter() - start:.0f} s, {rows} epochs done", flush=True)
        finally:
            _end(child)
    if code:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip()[:300] if lines else "no output"
        raise ProgramFailed(f"{log}: {last}", code=code)
    return time.perf_counter() - start


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
