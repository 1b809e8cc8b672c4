"""What asks a program to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from yolorep.signals import STOPPING, StopSignals, stopping_held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A program that was told to end does not put its handlers back."""
    before = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGALRM)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_each_is_an_interruption_with_its_own_exit_code(number: signal.Signals) -> None:
    finished = False
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        try:
            signal.raise_signal(number)
        finally:
            finished = True
    assert finished and signals.received == number and signals.exit_code == 128 + number


def test_the_second_breaks_off_what_the_first_left_to_finish() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            seen.append("finishing")
            signal.raise_signal(signal.SIGINT)
            seen.append("finished")
    assert seen == ["finishing"] and signals.exit_code == 143


def test_without_a_signal_nothing_stays_changed() -> None:
    before, threads = [signal.getsignal(number) for number in STOPPING], threading.active_count()
    with StopSignals() as signals:
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in STOPPING] == before
    assert signals.received is None and signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() <= threads + 1


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGHUP)
    assert signals.received is None


def test_another_thread_handles_none() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run() -> None:
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_it_waits_for_a_finalizer_in_which_it_would_be_lost() -> None:
    class Closing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)
            seen.append("closed")

    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt), StopSignals():
        closing = Closing()
        del closing
        threading.Event().wait(60)
    assert seen == ["closed"]


def test_it_is_not_lost_in_a_callback_that_may_not_raise(capfd: pytest.CaptureFixture[str]) -> None:
    class Value:
        pass

    value = Value()
    reference = weakref.ref(value, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        del value
        threading.Event().wait(60)
    assert reference() is None and signals.received == signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_the_exit_code_is_kept_where_python_would_end_by_sigint(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("""
import signal, sys
from yolorep.signals import StopSignals
with StopSignals() as signals:
    try:
        exec("signal.raise_signal(signal.SIGTERM)")
    except KeyboardInterrupt:
        sys.exit(signals.exit_code)
""")
    done = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, check=False)
    assert done.returncode == 128 + signal.SIGTERM


def test_it_waits_while_processes_are_started() -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals, stopping_held():
        signal.raise_signal(signal.SIGTERM)
        seen.append("started")
    assert seen == ["started"] and signals.received == signal.SIGTERM


def test_native_code_does_not_outlive_the_second() -> None:
    program = """
import hashlib, threading
from yolorep.signals import StopSignals
with StopSignals(grace=0.1):
    threading.Timer(0.2, lambda: print("begun", flush=True)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=120) != 0
