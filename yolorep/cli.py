"""The command line. Flags come from ``options``; the heavy imports wait until a command runs."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any, NoReturn

from yolorep.commands.help_text import default_text, help_text
from yolorep.commands.size_values import join_sizes, parse_side, parse_size
from yolorep.commands.ultralytics_flags import MODES, as_flags, in_our_words
from yolorep.commands.yolov5_flags import ONE_VALUE, REPLACED
from yolorep.console import is_read, open_closed_streams
from yolorep.errors import UserError, YolorepError, memory_wanted, one_line, opencv_wanted, suggest
from yolorep.options import (
    ClassifyOptions,
    CompareOptions,
    DetectOptions,
    ExportOptions,
    FuseOptions,
    InfoOptions,
    Options,
    TrainOptions,
    ValOptions,
    flag,
)
from yolorep.signals import StopSignals
from yolorep.version import __version__

#: Command to its options; ``yolorep.commands.<command>`` runs it.
COMMANDS: dict[str, type[Options]] = {
    "train": TrainOptions,
    "val": ValOptions,
    "compare": CompareOptions,
    "detect": DetectOptions,
    "classify": ClassifyOptions,
    "export": ExportOptions,
    "fuse": FuseOptions,
    "info": InfoOptions,
}


_IMPORT = "--import"


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, through UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: command and flags; ``sys.argv`` by default.

    Returns:
        The exit code: 0 done, 2 the user's input is wrong, 128 + n ended by signal n (130: Ctrl-C; 141: nobody
        reads any more what is printed), 1 anything else.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    open_closed_streams()
    with StopSignals() as signals:
        try:
            code = _exit_code(argv)
        except KeyboardInterrupt as error:
            signals.nothing_is_left()
            how = "interrupted" if signals.received in (None, signal.SIGINT) else f"ended by {signals.received.name}"
            print(one_line(f"{how}: {str(error) or 'start again with the same command'}"), file=sys.stderr)
            return signals.exit_code
        return signals.exit_code if signals.received else code


def _exit_code(argv: Sequence[str]) -> int:
    try:
        run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except YolorepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not is_read(sys.stdout):
            return 128 + signal.SIGPIPE  # head, say, has seen enough
        # What writes files names them: without a name it is what is printed that cannot be written.
        printed = "standard output: " if error.errno in (errno.ENOSPC, errno.EPIPE, errno.EIO) else ""
        where = f"{error.filename}: " if error.filename else printed
        print(one_line(f"error: {where}{error.strerror or error}"), file=sys.stderr)
        return 2 if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else 1  # names that no file can have
    return 0


def run(argv: Sequence[str]) -> Any:
    """Parses ``argv`` and runs the command; raises instead of exiting, except for ``--help``."""
    if not argv:
        _parser().print_help()
        return None
    namespace = _read(argv)
    options = _options(namespace)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("expected a working directory, found that it was removed; cd to one that exists") from None
    with opencv_wanted(), memory_wanted():
        if namespace.imports:
            from yolorep.models.user_blocks import import_blocks

            for file in namespace.imports:
                import_blocks(file)
        return import_module(f"yolorep.commands.{namespace.command}").run(options)


def parse(argv: Sequence[str]) -> tuple[str, Options]:
    """The command that ``argv`` names, and its options. Nothing is run, the files of ``--import`` neither.

    Raises:
        UserError: for an unknown command or flag, or a value that is none.
    """
    namespace = _read(argv)
    return namespace.command, _options(namespace)


def _options(namespace: argparse.Namespace) -> Options:
    options = COMMANDS[namespace.command]
    return options(**{field.name: getattr(namespace, field.name) for field in fields(options)})


def _read(argv: Sequence[str]) -> argparse.Namespace:
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        if line := as_flags("detect", argv, COMMANDS):
            raise UserError(f"yolorep: expected a command first, found {argv[0]!r}; {line}")
        meant = MODES.get(argv[0]) or ("val" if argv[0] == "test" else None)
        hint = f" (did you mean '{meant}'?)" if meant else suggest(argv[0], COMMANDS)
        raise UserError(f"yolorep: unknown command {argv[0]!r}{hint}; expected one of {', '.join(COMMANDS)}")
    namespace, unknown = _parser().parse_known_args(join_sizes(argv))
    if unknown:
        raise UserError(_unknown(namespace.command, unknown, argv))
    return namespace


def _parser() -> _Parser:
    parser = _Parser(prog="yolorep", description="Reparameterizable YOLO-style object detection.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"yolorep {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, options in COMMANDS.items():
        purpose = (options.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        types_of = typing.get_type_hints(options)
        for field in fields(options):
            _add_flag(command, field, types_of[field.name])
        # No option: options are stored with a run, and a file must never say what to run.
        command.add_argument(
            _IMPORT,
            dest="imports",
            metavar="FILE",
            nargs="+",
            action="extend",
            default=[],
            help="Python files of your own that register rows; they are run",
        )
    return parser


def _add_flag(command: argparse.ArgumentParser, field: Any, hint: Any) -> None:
    meta = field.metadata
    help_line = (help_text(field) + default_text(field)).replace("%", "%%")
    kwargs: dict[str, Any] = {"default": field.default, "help": help_line}
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(kind for kind in kinds if kind is not type(None))
    if meta["positional"]:
        spellings = [field.name]
    else:
        spellings = [flag(field.name), *meta["flags"], *([f"--{field.name}"] if "_" in field.name else [])]
        kwargs["dest"] = field.name
    if kind is bool:
        command.add_argument(*spellings, action="store_true", **kwargs)
        return
    if typing.get_origin(kind) is list:
        kwargs["nargs"] = "+"
        kind = typing.get_args(kind)[0]
    if meta["const"] is not None:
        kwargs |= {"nargs": "?", "const": meta["const"]}
    if field.name == "imgsz":
        kind = parse_side if kinds == (int,) or kinds == (int, type(None)) else parse_size
    if meta["choices"]:
        kwargs["choices"] = meta["choices"]
    kwargs.setdefault("metavar", field.name.rpartition("_")[2].upper() if not meta["choices"] else None)
    command.add_argument(*spellings, type=str if isinstance(kind, types.UnionType) else kind, **kwargs)


def _unknown(command: str, words: Sequence[str], argv: Sequence[str]) -> str:
    options = COMMANDS[command]
    if line := as_flags(command, words, COMMANDS):
        pair = next(word for word in words if "=" in word)
        return f"{command}: expected flags such as --imgsz 640, found {pair!r}; {line}"
    found = words[0]
    name = found.partition("=")[0]
    replaced = {spelling.replace("_", "-"): advice for spelling, advice in REPLACED.get(command, {}).items()}
    if advice := replaced.get(name.replace("_", "-")):
        return f"{command}: {name} of YOLOv5 is not offered: {advice}"
    if found.startswith("--") and (theirs := in_our_words(command, name, options)):
        return f"{command}: {name} of ultralytics {theirs}"
    if found.startswith("-"):
        known = [_IMPORT, *(flag(field.name) for field in fields(options) if not field.metadata["positional"])]
        begun = [spelling for spelling in known if spelling.startswith(name)]  # YOLOv5 takes beginnings of flags
        hint = f" (did you mean '{begun[0]}'?)" if len(begun) == 1 else suggest(name, known)
        return f"{command}: unknown flag {name}{hint}; see yolorep {command} --help"
    if positional := [field.name for field in fields(options) if field.metadata["positional"]]:
        return f"{command}: expected all {positional[0]} in a row, found {found!r}; see yolorep {command} --help"
    before = next((word for word in reversed(argv[: argv.index(found)]) if word.startswith("--")), "").partition("=")[0]
    if not before:
        return f"{command}: expected flags, found {found!r}; see yolorep {command} --help"
    return f"{command}: expected nothing more after {before}, found {found!r}{ONE_VALUE.get(before, '')}"
