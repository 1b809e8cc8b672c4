"""The epoch profile: every part is timed, and the parts are the whole."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.conftest import work  # noqa: F401  (a fixture)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The script sets the number of threads of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_parts_of_an_epoch(
    work: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "epoch_profile", raising=False)
    script = importlib.import_module("epoch_profile")
    shape = ["--imgsz", "64", "--batch-size", "2", "--epochs", "1", "--workers", "0", "--threads", "1"]
    start = time.perf_counter()
    assert script.main(["--cfg", str(work / "model.yaml"), "--data", str(work / "data.yaml"), *shape]) == 0
    limit = time.perf_counter() - start
    text = capsys.readouterr().out
    rows = dict(re.findall(r"^\| (\w+) \| (\d+\.\d+) \|", text, re.MULTILINE))
    assert list(rows) == list(script.PARTS)
    seconds = {part: float(value) for part, value in rows.items()}
    assert seconds["backward"] > 0 and seconds["evaluation"] > 0 and sum(seconds.values()) < limit
    assert script.main(["--cfg", "nowhere.yaml"]) == 2
    assert "error: nowhere.yaml: no such file" in capsys.readouterr().err
