"""Work on many images by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from yolorep.console import progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_images(function: Callable[[Item], Result], items: Sequence[Item], *, desc: str) -> list[Result]:
    """Calls a function for every image, showing how far it is. After an error or Ctrl-C no more begin."""
    pool = ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1))
    try:
        return list(progress(pool.map(function, items), total=len(items), desc=desc, unit="images"))
    finally:
        pool.shutdown(cancel_futures=True)
