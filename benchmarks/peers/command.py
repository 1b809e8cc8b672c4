"""What the commands that train have in common: the setting on the command line, and how they end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from yolorep.errors import UserError, YolorepError


def add_setting(parser: argparse.ArgumentParser, *, epochs: int, seeds: Sequence[int], output: str) -> None:
    """Adds what is trained on, how long, and where the results go.

    Args:
        parser: takes the arguments.
        epochs, seeds, output: the defaults.
    """
    parser.add_argument("--data", default="data/shapes.yaml", help="dataset YAML with train, val and perhaps test")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of every process")
    parser.add_argument("--workers", type=int, default=2, help="data loading processes")
    parser.add_argument("--output", type=Path, default=Path(output))


def run(command: Callable[[], int]) -> int:
    """Runs a command. Ctrl-C and a polite kill end the training that runs, too.

    Returns:
        The exit code: the command's, or 2 for wrong input, 1 for another error, 130 if it was interrupted.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for commands in the background
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command()
    except YolorepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, the same command goes on", file=sys.stderr)
        return 130
