"""Data loading processes and the memory they share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.data.toy import load, small_disk, write_yolo
from yolorep.config import Hyp
from yolorep.data.dataset import DetectionDataset
from yolorep.data.loader import Batch, eval_loader, train_loader
from yolorep.data.workers import (
    WorkerLost,
    affordable_workers,
    errors_where_batches_are_awaited,
    free_shared_memory,
    is_stopped,
    share,
)

MB = 1_000_000


@pytest.mark.parametrize(
    ("workers", "batch", "free", "expected"),
    [
        (8, 20 * MB, None, 8),  # no limit known
        (8, 20 * MB, 24_000 * MB, 8),
        (8, 20 * MB, 67 * MB, 0),  # Docker's default, the default batch of 640-pixel images
        (2, 10 * MB, 67 * MB, 2),
        (2, 10 * MB, 66 * MB, 1),  # (2 * 2 + 2) * 10 MB in nine tenths of it
        (2, 1, 0, 0),  # missing, or read-only
        (0, 20 * MB, 0, 0),
    ],
)
def test_as_many_as_there_is_memory_for(
    workers: int, batch: int, free: int | None, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert affordable_workers(workers, batch, free=free, what="training") == expected
    out = capsys.readouterr().out
    assert out.count("\n") == (expected < workers)
    if expected < workers:
        assert out.startswith(f"training: {workers} data loading processes would need ") and "/dev/shm" in out


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="as Linux shares memory")
def test_what_is_free(tmp_path: Path) -> None:
    assert free_shared_memory(tmp_path) > 0  # type: ignore[operator]
    assert free_shared_memory(tmp_path / "nothing") == 0
    assert free_shared_memory(Path("/proc/self/fd")) == 0  # where nobody can write


def test_the_largest_batch_counts(tmp_path: Path) -> None:
    dataset = DetectionDataset(load(write_yolo(tmp_path, count=11)), image_size=64, training=True)
    assert train_loader(dataset, Hyp(), batch_size=4).largest == 4 * 3 * 64 * 64
    for rect in (True, False):
        loader = train_loader(dataset, Hyp(), batch_size=4, rect=rect, stride=16)
        assert max(batch.images.nbytes for batch in loader) <= loader.largest <= 4 * 3 * 64 * 64
        evaluation = eval_loader(dataset, batch_size=3, stride=16, rect=rect)
        assert max(batch.images.nbytes for batch in evaluation) == evaluation.largest


def test_a_batch_that_cannot_be_shared_is_an_error_not_silence() -> None:
    batch = Batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 6), ["a.jpg"])
    with small_disk(1000):
        lost = share(batch)
    assert isinstance(lost, WorkerLost) and "could not put its batch into /dev/shm (File too large)" in str(lost)
    assert share(batch) is batch and batch.images.is_shared()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as on Linux")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_lost_process_ends_the_iteration(tmp_path: Path, number: signal.Signals) -> None:
    dataset = DetectionDataset(load(write_yolo(tmp_path, count=11)), image_size=64, training=True)
    loader = train_loader(dataset, Hyp(), batch_size=1, workers=2)
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    processes = set(multiprocessing.active_children()) - before
    os.kill(min(process.pid for process in processes if process.pid), number)
    start = time.monotonic()
    with pytest.raises(WorkerLost, match=r"a data loading process was (killed|stopped \(SIGSTOP\))"):
        for epoch in range(1000):
            loader.set_epoch(epoch)
            list(loader)
    assert time.monotonic() - start < 60
    for process in processes:
        process.join(30)
        assert not process.is_alive()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as on Linux")
def test_a_slow_process_is_waited_for(tmp_path: Path) -> None:
    """Stopped for a while, as a machine that swaps is."""
    dataset = DetectionDataset(load(write_yolo(tmp_path, count=4)), image_size=64, training=True)
    loader = train_loader(dataset, Hyp(), batch_size=1, workers=1)
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    (process,) = set(multiprocessing.active_children()) - before
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    assert is_stopped(process)
    os.kill(process.pid, signal.SIGCONT)
    assert len(list(batches)) == 3


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", WorkerLost("a data loading process was killed, ")),
        (
            "DataLoader worker (pid 7) exited unexpectedly with exit code 1.",
            WorkerLost("a data loading process was lost"),
        ),
        ("mat1 and mat2 shapes", RuntimeError("mat1")),
    ],
)
def test_one_that_dies_while_the_others_are_started(said: str, expected: Exception) -> None:
    with pytest.raises(type(expected), match=str(expected)), errors_where_batches_are_awaited():
        raise RuntimeError(said)


@pytest.mark.slow
def test_a_dead_process_raises_only_where_batches_are_awaited(tmp_path: Path) -> None:
    """Torch's own handler raises RuntimeError in the midst of anything, of the building of a model say."""
    dataset = DetectionDataset(load(write_yolo(tmp_path, count=4)), image_size=64, training=True)
    batches = iter(train_loader(dataset, Hyp(), batch_size=1, workers=1))
    before = set(multiprocessing.active_children())
    next(batches)
    (process,) = set(multiprocessing.active_children()) - before
    process.kill()
    process.join()
    for _ in range(1000):
        time.sleep(0.001)  # where a handler of SIGCHLD would run
    with pytest.raises(WorkerLost):
        list(batches)
