"""What a command prints while it works: lines and progress."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TextIO, TypeVar

T = TypeVar("T")

#: Seconds between two plain progress lines when the output is not a terminal.
PLAIN_INTERVAL = 10.0
#: Control characters, which would rule the terminal, but for line ends and tabs, and how they are shown.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def plural(name: str, count: int) -> str:
    """Returns a count and what is counted, one of our own words: ``1 box``, ``2 boxes``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}{'es' if name.endswith(('s', 'x')) else 's'}"


def open_closed_streams() -> None:
    """Makes sure that there are standard streams, where a program is started without them: ``>&-``.

    What is said goes nowhere then. Without this the next file that is opened would take a stream's number, and whatever
    a library prints would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    # Python leaves None where there was no stream; they are never closed, like those that it opens.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def is_read(stream: TextIO) -> bool:
    """Whether there is still somebody at the other end of a stream; if not, what is written from now on is dropped."""
    ends = select.poll()
    ends.register(stream, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in ends.poll(0)):
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return False


def say(message: str) -> None:
    """Prints one line to stdout without tearing a running progress bar; see :func:`printable`."""
    message = printable(message, sys.stdout)
    if _shows_bars():
        from tqdm.auto import tqdm

        tqdm.write(message, file=sys.stdout)
    else:
        print(message, flush=True)


def say_line(message: str) -> None:
    """Prints one line that holds names: line ends in them are written as escapes."""
    say(message.replace("\n", "\\n"))


def printable(text: str, stream: TextIO | None) -> str:
    """The text as a stream can take it and a terminal shows it: other letters and control characters as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.translate(_CONTROLS).encode(encoding, "backslashreplace").decode(encoding)


def progress(
    iterable: Iterable[T],
    *,
    total: int | None = None,
    desc: str = "",
    unit: str = "it",
    status: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yields the items of ``iterable``, showing how far it is.

    A bar on a terminal or in a notebook; otherwise a plain line every ten seconds and one at the end if it took that
    long.

    Args:
        iterable: what to iterate over.
        total: number of items, taken from ``len(iterable)`` where that exists.
        desc: what is being done.
        unit: name of one item.
        status: called when a line is drawn; its text (running losses, say) is put beside the count.
    """
    desc = printable(desc, sys.stderr).replace("\n", " ")
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if _shows_bars():
        from tqdm.auto import tqdm  # of widgets in a notebook

        with tqdm(iterable, total=total, desc=desc, unit=unit, dynamic_ncols=True, leave=False) as bar:
            for item in bar:
                yield item
                if status:
                    bar.set_postfix_str(status(), refresh=False)
        return
    start = last = time.monotonic()
    for count, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL:
            last = now
            of = f"/{total}" if total else ""
            extra = f"  {status()}" if status else ""
            say(f"{desc}: {count}{of} {unit}, {now - start:.0f} s{extra}")


def _shows_bars() -> bool:
    """Whether a bar that is drawn again and again is seen as one: on a terminal, or in a notebook."""
    ipython = sys.modules.get("IPython")  # not imported: without it this is no notebook
    shell = ipython.get_ipython() if ipython else None
    return sys.stderr.isatty() or (shell is not None and "IPKernelApp" in shell.config)
