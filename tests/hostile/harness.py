"""Hostile inputs tried one after another, each within limits, in a process that may die of them.

A test lists :class:`Case` s, which the fixture ``hostile`` runs and counts::

    def test_labels(hostile, tmp_path):
        hostile(case(f"label {seed}", read_label, mutate_bytes(GOOD, rng("label", seed))) for seed in range(100))

A case is fine when it returns (handled) or raises one of the errors meant for users (refused cleanly), in one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolorep.errors import YolorepError
from yolorep.images import ImageError

GB = 2**30
#: CPU seconds that :func:`_reference_loop` takes on the machine for which the limit of 2 s is stated.
_REFERENCE_SECONDS = 0.04
#: An error longer than this is no line that anybody reads.
LONGEST_LINE = 2500

HANDLED, REFUSED, TRACEBACK, OVER = "handled", "refused cleanly", "traceback", "over limits"


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: says which: kind and seed.
        call: what is done with it.
        before: makes the input, outside the limits.
    """

    name: str
    call: Callable[[], object]
    before: Callable[[], object] | None = None


def case(name: str, call: Callable[..., object], /, *args: Any, **kwargs: Any) -> Case:
    """A case that calls ``call`` with these arguments."""
    return Case(name, lambda: call(*args, **kwargs))


@dataclass(frozen=True)
class Limits:
    """What one case may take.

    Attributes:
        cpu: seconds of processor time, on the reference machine; a slower machine gets more.
        memory: bytes by which the process may grow.
        wall: seconds after which a case that waits for something counts as hanging.
    """

    cpu: float = 2.0
    memory: int = GB
    wall: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``kind`` is one of handled, refused cleanly, traceback and over limits."""

    name: str
    kind: str
    detail: str = ""


@dataclass
class Tally:
    """Outcomes counted over a whole session."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        self.counts.update(outcome.kind for outcome in outcomes)

    def __str__(self) -> str:
        count = self.counts
        return (
            f"hostile: {count.total()} cases, {count[HANDLED]} handled, {count[REFUSED]} refused cleanly, "
            f"tracebacks {count[TRACEBACK]}, over limits {count[OVER]}"
        )


def run_cases(
    cases: Iterable[Case],
    *,
    limits: Limits | None = None,
    warm: Callable[[], object] | None = None,
    refusals: tuple[type[Exception], ...] = (YolorepError, ImageError),
) -> list[Outcome]:
    """Runs cases in forked processes, many in each; one that dies costs its own case only.

    Args:
        cases: what to run.
        limits: what each may take.
        warm: called first in each process, outside the limits: late imports, say.
        refusals: errors by which an input is refused.
    """
    waiting, outcomes = list(cases), []
    while waiting:
        done = _run_in_child(waiting, limits or Limits(), warm, refusals)
        outcomes += done
        waiting = waiting[len(done) :]
    return outcomes


def faults(outcomes: Iterable[Outcome]) -> str:
    """What went wrong, one paragraph a case; empty if nothing did."""
    bad = [outcome for outcome in outcomes if outcome.kind in (TRACEBACK, OVER)]
    return "\n".join(f"{outcome.name}: {outcome.kind}: {outcome.detail}" for outcome in bad)


def command(*argv: str) -> None:
    """Runs a command of the program as a shell does, and holds it to its promises.

    Raises:
        UserError: it refused; the text is what it printed.
        AssertionError: its exit code or its last words are none that it may have.
    """
    from yolorep.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(argv))
        except SystemExit as stop:  # of --help and --version
            code = stop.code if isinstance(stop.code, int) else 1
    check_exit(code, err.getvalue())


def check_exit(code: int, stderr: str) -> None:
    """What every command promises: 0, or 1, 2 or 128+n with one line that says why.

    Raises:
        YolorepError: it refused as it may.
        MemoryError: it had too little memory; no input may be the reason for that.
        AssertionError: it broke the promise.
    """
    assert "Traceback (most recent call last)" not in stderr, stderr[-3000:]
    if code == 0:
        return
    assert code in (1, 2) or 128 < code < 160, f"exit code {code}: {stderr[-500:]!r}"
    lines = stderr.splitlines()
    last = lines[-1] if lines else ""
    assert last.startswith(("error: ", "interrupted", "ended by ")), f"exit code {code}, last line {last!r}"
    if "there is not enough memory" in last:
        raise MemoryError(last)
    # Lines above the last one are warnings; an error of several lines would begin among them.
    assert not any(line.startswith("error: ") for line in lines[:-1]), stderr[-3000:]
    raise YolorepError(last)


def _run_in_child(
    cases: Sequence[Case],
    limits: Limits,
    warm: Callable[[], object] | None,
    refusals: tuple[type[Exception], ...],
) -> list[Outcome]:
    """Outcomes of the cases up to the one that the process died of."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as words:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reader)
                os.dup2(words.fileno(), 1)
                os.dup2(words.fileno(), 2)
                faulthandler.enable(2)
                _work(cases, limits, warm, refusals, writer)
                code = 0
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(code)
        os.close(writer)
        outcomes, hung = _collect(reader, cases, limits.wall)
        if hung:
            os.kill(pid, signal.SIGABRT)  # faulthandler says where it waits
            time.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        words.seek(0)
        said = _last_words(words.read().decode(errors="replace"))
    if len(outcomes) < len(cases):
        died = cases[len(outcomes)].name
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if hung:
            outcomes.append(Outcome(died, OVER, f"hung for {limits.wall:g} s: {said}"))
        elif number == signal.SIGXCPU:
            outcomes.append(Outcome(died, OVER, "stopped after several times its CPU time"))
        else:
            how = f"signal {number}" if number else f"exit code {os.waitstatus_to_exitcode(status)}"
            outcomes.append(Outcome(died, TRACEBACK, f"the process died of {how}: {said}"))
    return outcomes


def _last_words(text: str) -> str:
    """Where the process was, if faulthandler told, else what it said last."""
    _, told, where = text.rpartition("(most recent call first):")
    return where.strip()[:2000] if told else text.strip()[-2000:]


def _collect(reader: int, cases: Sequence[Case], wall: float) -> tuple[list[Outcome], bool]:
    """Outcomes as they come, and whether the process stood still."""
    outcomes: list[Outcome] = []
    with open(reader, "rb", buffering=0) as pipe:
        buffer = b""
        while len(outcomes) < len(cases):
            if not select.select([pipe], [], [], wall)[0] and not select.select([pipe], [], [], wall * slowness())[0]:
                return outcomes, True
            chunk = pipe.read(1 << 16)
            if not chunk:
                break
            buffer += chunk
            while len(buffer) >= 4 and len(buffer) >= (end := 4 + int.from_bytes(buffer[:4], "little")):
                if message := buffer[4:end]:
                    outcomes.append(pickle.loads(message))  # from our own child
                buffer = buffer[end:]
    return outcomes, False


def _work(
    cases: Sequence[Case],
    limits: Limits,
    warm: Callable[[], object] | None,
    refusals: tuple[type[Exception], ...],
    writer: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(0)  # its threads did not survive the fork
    if warm:
        warm()
        os.write(writer, bytes(4))  # a sign of life
    for entry in cases:
        if entry.before:
            entry.before()
        outcome = _measure(entry, limits, refusals)
        if outcome.kind == OVER:  # once more: on a busy machine processor time is no good measure
            if entry.before:
                entry.before()
            outcome = _measure(entry, limits, refusals)
        message = pickle.dumps(outcome)
        os.write(writer, len(message).to_bytes(4, "little") + message)


def _measure(entry: Case, limits: Limits, refusals: tuple[type[Exception], ...]) -> Outcome:
    _reset_peak()
    resident, data = _status("VmRSS"), _status("VmData")
    used = _cpu_seconds()
    # Room beyond the limits: what is a little over is measured, only what is far over is stopped.
    _limit(resource.RLIMIT_DATA, data + limits.memory * 3 // 2 if data else resource.RLIM_INFINITY)
    _limit(resource.RLIMIT_CPU, int(used + 10 * limits.cpu) + 2)
    try:
        kind, detail = _call(entry.call, refusals)
    finally:
        _limit(resource.RLIMIT_DATA, resource.RLIM_INFINITY)
        _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
    seconds, grown = _cpu_seconds() - used, _status("VmHWM") - resident
    if seconds > limits.cpu and seconds > limits.cpu * slowness():
        return Outcome(entry.name, OVER, f"{seconds:.1f} s of CPU, then: {kind} {detail}")
    if grown > limits.memory:
        return Outcome(entry.name, OVER, f"{grown / GB:.1f} GB of memory, then: {kind} {detail}")
    return Outcome(entry.name, kind, detail)


def _call(call: Callable[[], object], refusals: tuple[type[Exception], ...]) -> tuple[str, str]:
    try:
        call()
    except MemoryError:
        return OVER, f"out of memory: {traceback.format_exc(limit=-6)[-4000:]}"
    except refusals as error:
        text = str(error)
        if not text.strip() or "\n" in text or "\r" in text:
            return TRACEBACK, f"expected one line, found {text[:1000]!r}"
        if len(text) > LONGEST_LINE:
            return TRACEBACK, f"expected a line, found {len(text)} characters: {text[:300]!r}"
        return REFUSED, text
    except BaseException:
        return TRACEBACK, traceback.format_exc(limit=-8)[-4000:]
    return HANDLED, ""


def slowness() -> float:
    """How many times slower than the reference machine this one is at the moment; never below 1."""
    return max(1.0, min(_reference_loop() for _ in range(2)) / _REFERENCE_SECONDS)


def _reference_loop() -> float:
    start, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number * number % 7
    return time.process_time() - start


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = hard if value == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, hard))


def _status(name: str) -> int:
    """Bytes that the kernel states for this process; 0 where it does not."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would hide what is taken
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
