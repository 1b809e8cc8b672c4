"""Flags and values nobody meant: every command answers in one line or does its work."""

from __future__ import annotations

import os
import random
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case, Limits, command
from tests.hostile.mutate import rng
from tests.hostile.workplace import Workplace
from yolorep.cli import COMMANDS
from yolorep.options import flag

NUMBERS = (
    "-1", "0", "1", "2", "3", "0.5", "-0.0", "1e3", "1e999", "nan", "inf", "-inf", "1_0", "0x10", "١", "9" * 30,
    "-" + "9" * 30, "9" * 5000, str(2**31), str(2**63), str(2**64), str(2**70), str(10**9), "100000", "1e-400", "65",
)  # fmt: skip
#: What someone, or a script that goes wrong, writes where a name is wanted. No name of a data set or weights that could
#: be fetched, no address outside this machine, and no stream: those are waited for.
NAMES = (
    "", " ", "-", "--", "---", "true", "None", "null", "cpu", "cuda", "cuda:0", "cuda:99999999999", "cuda:-1", "mps",
    "meta", "cpu:7", "cuda:" + "9" * 5000, "0,1", "vulkan", "a\nb", "a\rb", "a\tb", "a\0b", "\udcff", "\ud800",
    "é" * 200, "x" * 300, "x" * 100_000, "a/" * 3000, "\u202eabc", "\x1b[2J", "~", "~nosuchuser", "~nosuchuser/x",
    ".", "..", "/", "//", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "/nowhere/x", "street.png/x",
    "folder", "fifo", "loop", "dangling", "locked", "*", "**", "[", "[]", "?", "{}", "%s%n", "$HOME", "street.png",
    "street.txt", "street.avi", "empty", "empty.pt", "empty.yaml", "empty.png", "empty.onnx", "empty.torchscript",
    "empty.mp4", "noise.pt", "noise.mp4", "noise.onnx", "noise.torchscript", "noise.yaml", "text.pt", "model.yaml",
    "data.yaml", "toy.pt", "white.torchscript", "list.txt", "http://127.0.0.1:9/x.png",
    "http://[", "file:///etc/passwd", "ftp://x/y", "a,b", "k=v", "mobileone:k=3",
    "mobileone:k=" + "9" * 20, "repvgg:k=-1", ":", "=", "onnx", "torchscript", "fifo.pt", "fifo.yaml", "fifo.onnx",
    "fifo.png", "fifo.mp4", "folder.pt", "folder.yaml", "folder.png", "locked.pt", "locked.yaml",
)  # fmt: skip
VALUES = NUMBERS + NAMES
#: More work than a test has time for, the network, a window; fetched weights.
_NOT_TRIED = ("epochs", "download", "view_img", "log")


def mutated(workplace: Workplace, seed: int) -> list[str]:
    """A command line that works, with one to three changes."""
    source = rng("command line", seed)
    name = source.choice(sorted(workplace.lines))
    tokens = list(workplace.lines[name])
    for _ in range(source.randint(1, 3)):
        _change(name, tokens, source)
    return [name, *tokens]


def _change(name: str, tokens: list[str], source: random.Random) -> None:
    """Mostly a flag with a value that at least looks right, for what looks wrong is refused early."""
    place = source.randrange(len(tokens))
    match source.randrange(12):
        case 0:
            del tokens[place + 1 if name != "train" else -2 :]  # what is left must not train for a hundred epochs
        case 1:
            tokens.insert(place, source.choice(VALUES))
        case 2:
            tokens[place] = tokens[place][: source.randrange(len(tokens[place]) + 1)] + source.choice(["=", "", "--"])
        case 3 | 4 | 5:
            named = [at for at in range(1, len(tokens)) if tokens[at - 1].startswith("--")]
            at = source.choice(named or [0])
            tokens[at] = source.choice(NUMBERS if tokens[at].isdecimal() else NAMES)
        case _:
            options = COMMANDS[name]
            hints = typing.get_type_hints(options)
            field = source.choice([field for field in fields(options) if field.name not in _NOT_TRIED])
            if field.metadata["positional"]:
                tokens.insert(0, source.choice(NAMES))
            elif hints[field.name] is bool:
                tokens.append(flag(field.name))
            else:
                numeric = any(kind in str(hints[field.name]) for kind in ("int", "float"))
                tokens += [flag(field.name), source.choice(NUMBERS if numeric else NAMES)]


def run_in(workplace: Workplace, argv: list[str]) -> None:
    os.chdir(workplace.folder)
    command(*argv)


def cases(workplace: Workplace, seeds: range) -> Iterator[Case]:
    for seed in seeds:
        argv = mutated(workplace, seed)
        yield Case(f"{seed} {str(argv)[:300]}", lambda argv=argv: run_in(workplace, argv))  # type: ignore[misc]


#: A command that is not refused does its work: more than an answer takes.
WORK = Limits(cpu=20.0)


def test_command_lines(hostile: Hostile, workplace: Workplace, tmp_path: Path) -> None:
    hostile(cases(workplace.copy(tmp_path), range(8)), limits=WORK)


@pytest.mark.slow
def test_many_command_lines(hostile: Hostile, workplace: Workplace, tmp_path: Path) -> None:
    hostile(cases(workplace.copy(tmp_path), range(100, 200)), limits=WORK)
