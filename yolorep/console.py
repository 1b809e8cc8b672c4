"""What a command prints while it works: lines and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TextIO, TypeVar

from yolorep.errors import CONTROLS

T = TypeVar("T")

#: Seconds between two plain progress lines when the output is not a terminal.
PLAIN_INTERVAL = 10.0
#: Of them, what lays text out.
_LAYOUT = {ord(character): character for character in "\n\t"}


def plural(name: str, count: int) -> str:
    """Returns a count and what is counted, one of our own words: ``1 box``, ``2 boxes``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}{'es' if name.endswith(('s', 'x')) else 's'}"


def say(message: str) -> None:
    """Prints one line to stdout without tearing a running progress bar; see :func:`printable`."""
    message = printable(message, sys.stdout)
    if _shows_bars():
        from tqdm.auto import tqdm

        tqdm.write(message, file=sys.stdout)
    else:
        print(message, flush=True)


def printable(text: str, stream: TextIO | None) -> str:
    """The text as a stream can take it and a terminal shows it: other letters and control characters as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.translate(CONTROLS | _LAYOUT).encode(encoding, "backslashreplace").decode(encoding)


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
    desc = printable(desc, sys.stderr)
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
