"""The fixture that runs hostile cases, and the count of them at the end of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.hostile.harness import Case, Tally, faults, run_cases
from tests.hostile.workplace import Workplace

_TALLY = pytest.StashKey[Tally]()

Hostile = Callable[..., None]


@pytest.fixture
def hostile(request: pytest.FixtureRequest) -> Hostile:
    """Runs cases, counts them, and fails if one ended in a traceback or went over its limits."""
    tally = request.config.stash.setdefault(_TALLY, Tally())

    def run(cases: Iterable[Case], **how: Any) -> None:
        outcomes = run_cases(cases, **how)
        tally.add(outcomes)
        if found := faults(outcomes):
            pytest.fail(found, pytrace=False)

    return run


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Where commands work; not to be changed."""
    return Workplace.make(tmp_path_factory.mktemp("workplace"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if tally := config.stash.get(_TALLY, None):
        terminalreporter.write_line(str(tally))
