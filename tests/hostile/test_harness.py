"""The harness must see what it is there for."""

from __future__ import annotations

import os
import pickle
import signal
import time

import numpy as np
import pytest

from tests.hostile.harness import (
    HANDLED,
    OVER,
    REFUSED,
    TRACEBACK,
    Limits,
    Tally,
    case,
    check_exit,
    run_cases,
)
from tests.hostile.mutate import mutate_bytes, mutate_text, mutate_tree, rng
from yolorep.errors import UserError, YolorepError
from yolorep.images import ImageError


def _raise(error: Exception) -> None:
    raise error


def _burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_every_outcome_is_told_apart_and_a_dead_process_costs_one_case() -> None:
    cases = [
        (case("returns", int), HANDLED),
        (case("one line", _raise, UserError("x: expected y")), REFUSED),
        (case("two lines", _raise, ImageError("x\ny")), TRACEBACK),
        (case("no words", _raise, UserError("")), TRACEBACK),
        (case("another error", _raise, KeyError("x")), TRACEBACK),
        (case("exits", os._exit, 3), TRACEBACK),
        (case("dies", lambda: os.kill(os.getpid(), signal.SIGSEGV)), TRACEBACK),
        (case("returns after a death", int), HANDLED),
        (case("slow", _burn, 0.2), OVER),
        (case("large", lambda: np.ones(100 << 20, np.uint8)), OVER),
        (case("larger", bytearray, 10 << 30), OVER),
        (case("returns at the end", int), HANDLED),
    ]

    outcomes = run_cases([entry for entry, _ in cases], limits=Limits(cpu=0.1, memory=64 << 20))
    assert [(outcome.name, outcome.kind) for outcome in outcomes] == [(entry.name, kind) for entry, kind in cases]
    tally = Tally()
    tally.add(outcomes)
    assert str(tally) == "hostile: 12 cases, 3 handled, 1 refused cleanly, tracebacks 5, over limits 3"


@pytest.mark.slow
def test_what_waits_for_ever_is_stopped_and_says_where() -> None:
    cases = [case("waits", time.sleep, 100), case("returns", int)]
    waits, returns = run_cases(cases, limits=Limits(wall=2.0))
    assert (waits.kind, returns.kind) == (OVER, HANDLED) and "in <lambda>" in waits.detail


@pytest.mark.parametrize(
    ("code", "stderr", "error"),
    [
        (0, "warned\n", None),
        (2, "warned\nerror: x\n", YolorepError),
        (143, "ended by SIGTERM: weights are saved\n", YolorepError),
        (2, "", AssertionError),
        (3, "error: x\n", AssertionError),
        (1, "Traceback (most recent call last)\nerror: x\n", AssertionError),
        (2, "error: x\nmore of it\n", AssertionError),
    ],
)
def test_a_command_is_held_to_its_promises(code: int, stderr: str, error: type[Exception] | None) -> None:
    if error is None:
        check_exit(code, stderr)
    else:
        with pytest.raises(error):
            check_exit(code, stderr)


def test_mutations_are_the_same_in_every_run_and_change_something() -> None:
    tree = {"names": ["cat", "dog"], "nc": 2, "path": "."}
    label, yaml = b"0 0.5 0.5 0.1 0.1\n", "nc: 2\nnames: [a, b]"
    for mutate, good in ((mutate_bytes, label), (mutate_text, yaml), (mutate_tree, tree)):
        found = [pickle.dumps(mutate(good, rng("x", seed))) for seed in range(40)]
        assert found == [pickle.dumps(mutate(good, rng("x", seed))) for seed in range(40)]
        assert sum(entry != pickle.dumps(good) for entry in found) > 30
    assert tree == {"names": ["cat", "dog"], "nc": 2, "path": "."}
