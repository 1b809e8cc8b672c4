"""The screen of this machine, as screenshots."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator

from yolorep.errors import UserError
from yolorep.images import from_pillow
from yolorep.media.frames import Frame

#: What names it, and what its frames say they come from.
SCREEN = "screen"


def open_screen() -> Iterator[Frame]:
    """Takes screenshots without end, as fast as they are asked for.

    Raises:
        UserError: at the call, if there is no screen.
    """
    first = _screenshot(index=0, start=time.monotonic())
    start = time.monotonic() - first.time
    return itertools.chain([first], (_screenshot(index=index, start=start) for index in itertools.count(1)))


def _screenshot(*, index: int, start: float) -> Frame:
    from PIL import ImageGrab

    seconds = time.monotonic() - start
    try:
        image = from_pillow(ImageGrab.grab())
        return Frame(image, SCREEN, index, None, None, is_video=True, time=seconds, captured=time.time())
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"source '{SCREEN}': expected a screen to look at, found none here ({reason})") from error
