"""Lines and bars: on a terminal, in a notebook, in a log."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from yolorep.console import plural, progress, say, say_line


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("image", 2, "2 images"),
        ("image", 1, "1 image"),
        ("box", 2, "2 boxes"),
        ("class", 0, "0 classes"),
    ],
)
def test_plural(name: str, count: int, expected: str) -> None:
    assert plural(name, count) == expected


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("naïve 猫", "utf-8", "naïve 猫"),
        ("naïve 猫", "ascii", "na\\xefve \\u732b"),
        ("b\udce9", "utf-8", "b\\udce9"),
        ("a\tb\n", "ascii", "a\tb\n"),
        ("\x1b[2J\r\x9b", "utf-8", "\\x1b[2J\\x0d\\x9b"),
    ],
)
def test_any_text_can_be_printed(monkeypatch: pytest.MonkeyPatch, text: str, encoding: str, expected: str) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    say(text)
    assert shown.buffer.getvalue().decode(encoding) == f"{expected}\n"


def test_a_line_that_holds_names(capsys: pytest.CaptureFixture[str]) -> None:
    say_line("a\nb.jpg: 1 c\n")
    assert capsys.readouterr().out == "a\\nb.jpg: 1 c\\n\n"


def ipython(**config: object) -> SimpleNamespace:
    return SimpleNamespace(get_ipython=lambda: SimpleNamespace(config=config))


@pytest.mark.parametrize(
    ("module", "bar"),
    [
        (None, False),
        (SimpleNamespace(get_ipython=lambda: None), False),  # imported by a script
        (ipython(TerminalIPythonApp={}), False),
        (ipython(IPKernelApp={}), True),
    ],
)
def test_a_bar_in_notebooks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: SimpleNamespace | None, bar: bool
) -> None:
    # Which bar it is to be is tqdm's to find out: here one of text.
    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=tqdm))
    monkeypatch.setitem(sys.modules, "IPython", module)
    for number in progress([1, 2], desc="working", unit="boxes", status=lambda: "loss 0.1"):
        say(f"number {number}")
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.strip()] == ["number 1", "number 2"]
    assert ("working:   0%" in err and "loss 0.1" in err) == bar


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(iter([1, 2]), total=2, desc="working")) == [1, 2]
    assert "working" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("items", "total", "expected"),
    [
        ([1, 2], None, "working: 1/2 boxes, 11 s  loss 0.1\n"),
        (iter([1, 2]), None, "working: 1 boxes, 11 s  loss 0.1\n"),
        (iter([1, 2]), 2, "working: 1/2 boxes, 11 s  loss 0.1\n"),
    ],
)
def test_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    items: Iterable[int],
    total: int | None,
    expected: str,
) -> None:
    clock: Callable[[], float] = iter([0.0, 11.0, 12.0]).__next__
    monkeypatch.setattr("time.monotonic", clock)
    assert list(progress(items, total=total, desc="working", unit="boxes", status=lambda: "loss 0.1")) == [1, 2]
    assert capsys.readouterr() == (expected, "")
