"""Live sources that stall, drop, change their size and send garbage: scripts that take no time."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media.cameras import HASTY, Camera, Script
from tests.media.files import make_image, write_image, write_video
from tests.media.pipes import until
from yolorep.errors import UserError
from yolorep.media.connections import Connection, Patience
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.sources import open_source
from yolorep.media.web import SourceError

IMAGE, LARGE = make_image(), make_image(200, 300)
URL = "rtsp://me:secret@host/live"
SHOWN = "rtsp://***@host/live"


class Held:
    """A step of a script that lasts until the test ends; ``taken`` is one until the user took another frame."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.frames = threading.Semaphore(0)

    def __call__(self) -> None:
        self.released.wait()

    def taken(self) -> None:
        self.frames.acquire(timeout=120)


@pytest.fixture
def hold() -> Iterator[Held]:
    held = Held()
    yield held
    held.released.set()


@pytest.fixture
def take(hold: Held) -> Callable[..., tuple[list[Frame | Unreadable], list[str]]]:
    """Takes so many items of a source; returns them and what was reported."""

    def take(source: str, connect: Any, number: int, **options: Any) -> tuple[list[Frame | Unreadable], list[str]]:
        lines: list[str] = []
        items = open_source(source, connect=connect, note=lines.append, **{"patience": HASTY, **options})
        taken = []
        for item in islice(items, number):
            taken.append(item)
            hold.frames.release()
        hold.released.set()
        items.close()  # type: ignore[attr-defined]
        return taken, lines

    return take


def test_frames_of_a_live_source(take: Callable, hold: Held) -> None:
    before = time.time()
    (frame,), lines = take(URL, Camera([IMAGE, hold]), 1)
    assert (frame.path, frame.index, frame.total, frame.fps) == (SHOWN, 0, None, None)
    assert frame.is_video and frame.time == 0
    assert before <= frame.captured <= time.time()
    np.testing.assert_array_equal(frame.image, IMAGE)
    assert lines == [f"{SHOWN}: connected, 128x96"]


def test_only_the_newest_frame_is_kept(hold: Held) -> None:
    looking, sent = threading.Event(), threading.Event()
    camera = Camera([IMAGE, looking.wait, *[IMAGE] * 98, LARGE, sent.set, hold])
    items = open_source(URL, connect=camera, note=print, patience=HASTY)
    first = next(items)
    looking.set()
    sent.wait()  # meanwhile the user looks at the first
    rest = []
    for item in items:
        rest.append(item)
        if item.index == 99:
            break
    hold.released.set()
    items.close()  # type: ignore[attr-defined]
    assert first.index == 0 and len(rest) <= 4  # on their way: with us, being decoded, just received
    assert first.captured < rest[-1].captured and rest[-1].image.shape == LARGE.shape


@pytest.mark.parametrize("stride", [1, 3])
def test_stride(take: Callable, hold: Held, stride: int) -> None:
    frames, _ = take(URL, Camera([*[*[IMAGE] * stride, hold.taken] * 5, hold]), 5, vid_stride=stride)
    assert [frame.index for frame in frames] == [stride * number for number in range(5)]


def test_a_lost_source_is_connected_again(take: Callable, hold: Held) -> None:
    lost = SourceError("no answer")
    gone = SourceError("gone", final=True)
    camera = Camera([IMAGE, hold.taken], lost, lost, SourceError("busy"), gone, [LARGE, hold.taken, IMAGE, hold])
    frames, lines = take(URL, camera, 3)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [line.removeprefix(f"{SHOWN}: ").partition(" after")[0] for line in lines] == [
        "connected, 128x96",
        "lost: the stream ended; trying again",
        "still lost: no answer; trying again",
        "still lost: busy; trying again",
        "still lost: gone; trying again",
        "back",
        "the frame size is now 300x200",
        "the frame size is now 128x96",
    ]
    assert all(script.closed for script in camera.opened)


def test_waits_are_doubled_up_to_the_longest() -> None:
    assert (Patience().first_wait, Patience().longest_wait) == (0.5, 10)
    times: list[float] = []

    def connect(entry: str, patience: Patience) -> Connection:
        times.append(time.monotonic())
        raise SourceError("no answer")

    patience = Patience(first_wait=0.02, longest_wait=0.08)
    (end,) = open_source(URL, connect=connect, note=print, patience=patience, reconnect_timeout=0.3)
    assert isinstance(end, Unreadable)
    gaps = [b - a for a, b in pairwise(times)]
    for gap, least in zip(gaps, [0.02, 0.04, 0.08, 0.08], strict=False):
        assert gap >= least - 0.005
    assert len(gaps) <= 5  # 0.02 + 0.04 + 3 * 0.08 = 0.3


@pytest.mark.parametrize("place", ["opening", "reading"])
def test_a_call_that_hangs_is_left_alone(take: Callable, hold: Held, place: str) -> None:
    camera = Camera([IMAGE, hold.taken, hold] if place == "reading" else [hold], [LARGE, hold])

    def connect(entry: str, patience: Patience) -> Connection:
        script = camera(entry, patience)
        if place == "opening" and len(camera.opened) == 1:
            hold()
        return script

    patience = replace(HASTY, **({"opening": 0.3} if place == "opening" else {"silence": 0.2}))
    frames, lines = take(URL, connect, 2 if place == "reading" else 1, patience=patience)
    assert frames[-1].image.shape == LARGE.shape
    told = "lost: stalled, no frame for 0.2 s" if place == "reading" else "not reached: no answer"
    assert f"{SHOWN}: {told}; trying again" in lines


def test_hanging_calls_do_not_pile_up(hold: Held) -> None:
    begun: list[int] = []

    def connect(entry: str, patience: Patience) -> Connection:
        begun.append(1)
        hold()
        return Script([])

    patience = Patience(first_wait=0.001, longest_wait=0.001, opening=0.01)
    (end,) = open_source(URL, connect=connect, note=print, patience=patience, reconnect_timeout=0.2)
    assert isinstance(end, Unreadable) and len(begun) <= 4
    hold.released.set()


def test_garbage_does_not_end_a_stream(take: Callable, hold: Held) -> None:
    camera = Camera([IMAGE, hold.taken, *[None] * 20, LARGE, hold])
    frames, lines = take(URL, camera, 2)
    assert [frame.index for frame in frames] == [0, 21]
    assert f"{SHOWN}: 20 damaged frames left out" in lines and len(camera.opened) == 1


def test_frames_that_cannot_be_decoded_are_left_out(take: Callable, hold: Held) -> None:
    camera = Camera([*["damaged"] * 20, IMAGE, hold])
    (frame,), _ = take(URL, camera, 1)
    assert frame.index == 20 and len(camera.opened) == 1


@pytest.mark.parametrize(
    ("scripts", "timeout", "frames", "reason"),
    [
        ([SourceError("no camera", final=True)], None, 0, "no camera"),
        ([SourceError("no answer")], 0.1, 0, r"not reached for \d+\.\d s: no answer"),
        ([SourceError("no answer")], 0, 0, r"not reached for \d+\.\d s: no answer"),
        ([1, SourceError("no answer")], 0.1, 1, r"lost for \d+\.\d s: (no answer|the stream ended)"),
        ([1], 0, 1, r"lost for \d+\.\d s: the stream ended"),
        ([RuntimeError("a defect\nof OpenCV")], 0, 0, r"not reached for \d+\.\d s: RuntimeError: a defect"),
    ],
)
def test_a_source_that_is_given_up(
    take: Callable, hold: Held, scripts: list, timeout: float | None, frames: int, reason: str
) -> None:
    camera = Camera(*([IMAGE, hold.taken] if script == 1 else script for script in scripts))
    items, _ = take(URL, camera, 10, reconnect_timeout=timeout)
    assert [isinstance(item, Frame) for item in items] == [True] * frames + [False]
    assert items[-1].path == SHOWN
    assert re.fullmatch(reason, items[-1].reason)


def test_sources_side_by_side(tmp_path: Path, take: Callable, hold: Held) -> None:
    write_video(tmp_path / "clip.mp4", 6)
    write_image(tmp_path / "a.png")
    streams = ["rtsp://quick/", "rtsp://me:one@dead/", "rtsp://hanging/", "rtsp://me:two@dead/", "0"]
    (tmp_path / "list.txt").write_text("\n".join(["clip.mp4", *streams, "a.png", "gone.png"]))
    running = threading.Event()
    dead = {f"rtsp://***@dead/{n}: not reached: connection refused; trying again" for n in ("", "#2")}

    def connect(entry: str, patience: Patience) -> Connection:
        if "dead" in entry:
            raise SourceError("connection refused")
        if "hanging" in entry:
            hold()
        return Script(IMAGE if step % 2 else (lambda: running.wait(0.01)) for step in count())

    seen: dict[str, list[Frame | Unreadable]] = {}
    items = open_source(tmp_path / "list.txt", connect=connect, note=(lines := []).append, patience=HASTY)  # type: ignore[var-annotated]
    for item in items:
        seen.setdefault(item.path, []).append(item)
        quick = min(len(seen.get(name, [])) for name in ("rtsp://quick/", "0"))
        if quick > 20 and "gone.png" in seen and dead <= set(lines):
            break
    hold.released.set()
    items.close()  # type: ignore[attr-defined]
    files = [path for path in seen if path.startswith(str(tmp_path)) or path == "gone.png"]
    assert files == [str(tmp_path / "clip.mp4"), str(tmp_path / "a.png"), "gone.png"]
    assert [frame.index for frame in seen[files[0]]] == list(range(6)) and seen[files[1]][0].index == 6
    assert next(iter(seen)) in (files[0], "rtsp://quick/", "0") and len(seen) == 5


def test_leaving_early_stops_the_threads(hold: Held) -> None:
    camera = Camera(IMAGE if step % 2 else (lambda: time.sleep(0.01)) for step in count())
    before = set(threading.enumerate())
    items = open_source("0", connect=camera, note=print)
    next(items)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    items.close()  # type: ignore[attr-defined]
    until(lambda: camera.opened[0].closed and not any(thread.is_alive() for thread in threads))


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 1000)
    sources = [str(tmp_path / "broken.mp4"), "63", "rtsp://me:secret@127.0.0.1:1/live", "tcp://127.0.0.1:1"]
    code = (
        "import os, sys; from yolorep.media.sources import open_source; before = dict(os.environ)\n"
        "for source in sys.argv[1:]: print(*[item.reason for item in open_source(source, reconnect_timeout=0)])\n"
        "assert os.environ == before"
    )
    # In a process of its own: FFmpeg asks only once how much it may say.
    done = subprocess.run([sys.executable, "-c", code, *sources], capture_output=True, text=True, check=True)
    assert re.sub(r"\d+\.\d s", "0 s", done.stdout).splitlines() == [
        "OpenCV cannot open this video",
        "there is no camera 63, or another program uses it",
        "not reached for 0 s: no answer at its host and port",
        "not reached for 0 s: OpenCV cannot open this URL",
    ]
    assert done.stderr == ""


def test_a_wrong_timeout() -> None:
    with pytest.raises(UserError, match="--reconnect-timeout -1: expected seconds, 0 or more"):
        open_source("0", reconnect_timeout=-1)
