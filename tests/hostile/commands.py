"""Commands as processes of their own, to be sent signals or to run out of disk."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

#: Seconds after which a command counts as hanging: no machine is that slow.
TIMEOUT = 240


class Command:
    """A command that runs.

    Args:
        arguments: of ``python -m yolorep``.
        folder: where it runs.
        before: called in the process first.
    """

    def __init__(self, *arguments: str | Path, folder: Path, before: Callable[[], object] | None = None) -> None:
        environment = {**os.environ, "YOLOREP_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "yolorep", *map(str, arguments)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: (_heed_signals(), before and before()),
        )
        self.out = ""
        self._limit = threading.Timer(TIMEOUT, self._kill)
        self._limit.daemon = True
        self._limit.start()

    def wait_for(self, text: str) -> Command:
        """Reads on until a line with ``text`` is printed."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line
            if text in line:
                return self
        raise AssertionError(f"{text!r} was never printed: {self.out}")

    def send(self, number: signal.Signals, *, group: bool = False) -> Command:
        """Sends a signal, to its data loading processes too if ``group``, as a terminal does."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self

    def children(self) -> list[int]:
        """Its processes."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in text.split()]

    def end(self) -> tuple[int, str]:
        """Waits for it: exit code, and all it printed."""
        self.out += self.process.communicate()[0]
        self._limit.cancel()
        assert "Traceback" not in self.out, self.out
        return self.process.returncode, self.out

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def _heed_signals() -> None:
    """Whoever runs the tests in the background ignores Ctrl-C, and what ignores it passes that on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def small_disk(largest: int) -> Callable[[], None]:
    """Called in a process: writing files larger than so many bytes fails there."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


def half_written(folder: Path) -> list[Path]:
    """Temporary files that were left behind."""
    return [path for path in folder.rglob(".*") if "cache" not in path.parts]
