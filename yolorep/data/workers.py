"""Data loading processes: how many there is shared memory for, and what happens when one is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from torch import Tensor

from yolorep.console import plural, say
from yolorep.errors import YolorepError, first_line

#: Where Linux keeps what processes share.
SHARED_MEMORY = Path("/dev/shm")
#: Batches that a process makes ahead.
PREFETCH = 2
#: Share of the free shared memory that batches may take.
SHARE = 0.9
#: A process found stopped so many seconds in a row is given up.
PATIENCE = 10
#: Seconds after which a loop that still waits for lost processes is woken.
LAST_RESORT = 15.0
_KILLED = "a data loading process was killed, probably for lack of memory: fewer --workers need less"


class WorkerLost(YolorepError):
    """A data loading process is gone, or cannot hand over what it made: nothing more will come."""


def free_shared_memory(folder: Path = SHARED_MEMORY) -> int | None:
    """Bytes that processes can share; 0 where they cannot share any, None where that is not known to be limited."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize if os.access(folder, os.W_OK) else 0


def affordable_workers(workers: int, batch_bytes: int, *, free: int | None, what: str) -> int:
    """How many processes can hand over their batches; says so in one line if that is fewer than wanted.

    Args:
        workers: as many are wanted.
        batch_bytes: size of the largest batch.
        free: bytes of shared memory that are free, None for no limit.
        what: the batches are for, to be named.
    """
    fitting = workers
    while fitting and free is not None and _need(fitting, batch_bytes) > SHARE * free:
        fitting -= 1
    if fitting < workers:
        found = f"{free / 1e6:.0f} MB free" if free else "none that can be written"
        used = plural("process", fitting) if fitting else "none"
        say(
            f"{what}: {plural('data loading process', workers)} would need {_need(workers, batch_bytes) / 1e6:.0f} MB "
            f"in {SHARED_MEMORY}, found {found}: {used} will be used, which is slower; "
            f"give it more room (docker run --shm-size) or lower --batch-size"
        )
    return fitting


def _need(workers: int, batch_bytes: int) -> int:
    # Beside those made ahead, the batch being worked on and the one before are still there.
    return (PREFETCH * workers + 2) * batch_bytes


def start_worker(_: int) -> None:
    """Called in a new data loading process."""
    import cv2

    # A worker is one of several: OpenCV threads of its own would only get in their way.
    cv2.setNumThreads(0)
    # Ctrl-C in a terminal, or closing it, reaches workers too; stopping them is the main process's business.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def share(batch: Any) -> Any:
    """Moves a batch's tensors into shared memory; called in the process that made it.

    Torch would do it in a thread of its own, whose failure nobody hears of: the main process would wait for ever.

    Returns:
        The batch, or the error to raise in the main process.
    """
    try:
        for value in vars(batch).values():
            if isinstance(value, Tensor):
                value.share_memory_()
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().rpartition(": ")[2].partition(" (")[0]
        return WorkerLost(
            too_many_files(error)
            or f"a data loading process could not put its batch into {SHARED_MEMORY} ({reason}): "
            "fewer --workers need less"
        )
    return batch


def too_many_files(error: Exception) -> str:
    """What is wrong, in words, if it is the number of open files; empty otherwise."""
    if "Too many open files" not in str(error):
        return ""
    return (
        "batches of data loading processes are open files, too many here: fewer --workers need less, or ulimit -n more"
    )


@contextmanager
def errors_where_batches_are_awaited() -> Iterator[None]:
    """Around what starts processes: keeps torch from raising in the midst of anything when one of them dies.

    Its handler of SIGCHLD raises RuntimeError wherever the main process happens to be: in the writing of a file, in the
    building of a model.

    Raises:
        WorkerLost: if one dies while the others are being started.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        lost = f"a data loading process was lost ({first_line(error)})"
        raise WorkerLost(_KILLED if "signal: Killed" in lost else lost) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


class Watch:
    """Looks after data loading processes while batches are awaited; a context manager.

    A process that is dead, or stopped and not continued, ends them all, and with them the waiting. One that is merely
    slow is waited for.

    Args:
        processes: them.
        results: the queue they put batches into.
        interval: seconds between two looks.
    """

    def __init__(self, processes: Sequence[BaseProcess], results: Queue[Any], *, interval: float = 1.0) -> None:
        self._processes, self._results, self._interval = processes, results, interval
        self._fault = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="yolorep-workers", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def fault(self) -> str:
        """What happened to a process, in words; empty if they are well. Called after an error."""
        if not self._fault:
            # A dying one closes its files first, and has no exit status yet.
            dying = wait([process.sentinel for process in self._processes], timeout=5)
            for process in self._processes:
                if process.sentinel in dying:
                    process.join(5)
        return self._fault or _death(self._processes)

    def _look(self) -> None:
        stopped = [0] * len(self._processes)
        while not self._done.wait(self._interval):
            # Looks are counted, not time: that passes while everything is stopped, by Ctrl-Z say.
            stopped = [(count + 1) * is_stopped(it) for count, it in zip(stopped, self._processes, strict=True)]
            fault = _death(self._processes)
            if not fault and max(stopped) * self._interval >= PATIENCE:
                fault = "a data loading process was stopped (SIGSTOP) and not continued"
            if fault:
                self._fault = fault
                kill(self._processes)
                break
        if self._fault:
            # Whoever waits for the rest of a message that a killed process was sending would wait for ever.
            threading.Event().wait(LAST_RESORT)
            self._results._writer.close()  # type: ignore[attr-defined]


def kill(processes: Sequence[BaseProcess]) -> None:
    """Ends processes at once, stopped ones too."""
    for process in processes:
        if process.is_alive():
            process.kill()


def kill_stopped(processes: Sequence[BaseProcess]) -> None:
    """Ends processes that nothing else would end: whoever joined them would wait for ever."""
    kill([process for process in processes if is_stopped(process)])


def is_stopped(process: BaseProcess) -> bool:
    """Whether a process was stopped by a signal, where that can be seen."""
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "T"  # the name before it may hold anything


def _death(processes: Sequence[BaseProcess]) -> str:
    codes = [process.exitcode for process in processes]
    lost = next((code for code in codes if code is not None), None)
    if lost is None:
        return ""
    if lost == -signal.SIGKILL:
        return _KILLED
    if lost == -signal.SIGBUS:  # what is promised on a full file system
        return f"a data loading process found no shared memory, {SHARED_MEMORY} is full: fewer --workers need less"
    if lost < 0:
        return f"a data loading process was ended by {signal.Signals(-lost).name}"
    return f"a data loading process ended by itself, with exit status {lost}"
