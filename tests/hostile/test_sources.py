"""Videos, folders, lists and pipes that are not what they seem."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case, Limits, command
from tests.hostile.mutate import HOSTILE_VALUES, mutate_bytes, mutate_text, rng
from tests.media.files import make_image, write_image, write_video

#: A detector at work, for one is started in each case.
WORK = Limits(cpu=10.0)
VIDEOS = {"a.avi": "MJPG", "b.avi": "XVID", "c.mp4": "mp4v", "d.mkv": "MJPG"}
#: Names that files can have.
NAMES = (
    "plain.png", "new\nline.png", "tab\t.png", "\x1b[2J.png", "-rf.png", "--help.png", "*.png", "[a].png", "?.png",
    "%s.png", " .png", "...png", ".png", "a.PNG", "a.png.", "quote\".png", "quote'.png", "comma,.png", "=1+1.png",
    "e\u0301.png", "é.png", "日本.png", "\u202egnp.exe.png", "\udcff.png", "\udce9\udc80.png", "x" * 251 + ".png",
    "é" * 125 + ".png", "back\\slash.png", "a:b.png", "con.png", "$HOME.png", "~.png", "~nosuchuser.png",
    "http:.png", "0.png", "none", "text.txt", "x.pt",
)  # fmt: skip


def detect(white_box: str, source: str | Path, out: Path, *more: str) -> None:
    flags = ["--imgsz", "64", "--device", "cpu", "--project", str(out), *more]
    command("detect", "--weights", white_box, "--source", str(source), *flags)


def videos(white_box: str, folder: Path, seeds: range) -> Iterator[Case]:
    good = {
        name: write_video(folder / name, 5, codec=codec, size=(64, 48)).read_bytes() for name, codec in VIDEOS.items()
    }
    for seed in seeds:
        name = sorted(good)[seed % len(good)]
        file = folder / f"{seed}{Path(name).suffix}"
        file.write_bytes(mutate_bytes(good[name], rng("video", seed)))
        how = ["--nosave"] if seed % 3 else ["--save-csv", "--save-txt"]
        yield Case(file.name, lambda file=file, how=how: detect(white_box, file, folder / "out", *how))  # type: ignore[misc]


def test_videos(hostile: Hostile, white_box: str, tmp_path: Path) -> None:
    hostile(videos(white_box, tmp_path, range(4)), limits=WORK)


@pytest.mark.slow
def test_many_videos(hostile: Hostile, white_box: str, tmp_path: Path) -> None:
    hostile(videos(white_box, tmp_path, range(100, 200)), limits=WORK)


def write_odd_names(folder: Path) -> None:
    """Files of all names, and what only looks like a file."""
    image = cv2.imencode(".png", make_image())[1].tobytes()
    for name in NAMES:
        (folder / name).write_bytes(image)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "nothing.png").symlink_to("missing")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "above.png").symlink_to("..")
    (folder / "empty.png").touch()
    (folder / "empty.mp4").touch()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(folder)  # the path of a socket may be of 107 bytes
        bound.bind("socket.png")


def odd_names(white_box: str, folder: Path) -> Iterator[Case]:
    place = folder / "above" / "in"
    place.mkdir(parents=True)
    here = Path.cwd()
    try:
        write_odd_names(place)
    finally:
        os.chdir(here)
    everything = ["--save-csv", "--save-txt", "--save-json", "--save-crop"]
    for source in (place, place / "*", place / "*.png", place.parent / "**", place.parent / "*" / "*.p?g"):
        yield Case(str(source), lambda source=source: detect(white_box, source, folder / "out", *everything))  # type: ignore[misc]
    for entry in sorted(os.listdir(place)):
        source = place / entry
        yield Case(repr(entry), lambda source=source: detect(white_box, source, folder / "out", *everything))  # type: ignore[misc]


@pytest.mark.slow
def test_names(hostile: Hostile, white_box: str, tmp_path: Path) -> None:
    hostile(odd_names(white_box, tmp_path), limits=WORK)


def lists(white_box: str, folder: Path, seeds: range) -> Iterator[Case]:
    write_image(folder / "a.png")
    write_video(folder / "b.avi", 2, codec="MJPG")
    os.mkfifo(folder / "pipe.png")
    good = "a.png\n# all of them\nb.avi\n./a.png\n\nmissing.png\npipe.png\nfolder.png\n"
    texts = [str(value) for value in HOSTILE_VALUES if isinstance(value, str)]
    for seed in seeds:
        text = mutate_text(good + texts[seed % len(texts)], rng("list", seed))
        file = folder / f"{seed}.txt"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        yield Case(file.name, lambda file=file: detect(white_box, file, folder / "out", "--nosave"))  # type: ignore[misc]


def test_lists(hostile: Hostile, white_box: str, tmp_path: Path) -> None:
    hostile(lists(white_box, tmp_path, range(3)), limits=WORK)


@pytest.mark.slow
def test_many_lists(hostile: Hostile, white_box: str, tmp_path: Path) -> None:
    hostile(lists(white_box, tmp_path, range(100, 160)), limits=WORK)


def piped(white_box: str, content: bytes, out: Path) -> None:
    reading, writing = os.pipe()
    sys.stdin = io.TextIOWrapper(os.fdopen(reading, "rb"))

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(content)

    threading.Thread(target=write, daemon=True).start()
    detect(white_box, "-", out, "--nosave")


def pipes(white_box: str, folder: Path, seeds: range) -> Iterator[Case]:
    jpeg, png = (cv2.imencode(suffix, make_image(48, 64))[1].tobytes() for suffix in (".jpg", ".png"))
    video = write_video(folder / "a.avi", 3, codec="MJPG", size=(64, 48)).read_bytes()
    parts = b"".join(b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n" for _ in range(3))
    good = [jpeg, png, video, parts, jpeg * 4, jpeg + png, b""]
    for seed in seeds:
        content = mutate_bytes(good[seed % len(good)], rng("pipe", seed))
        yield Case(f"pipe {seed}", lambda content=content: piped(white_box, content, folder / "out"))  # type: ignore[misc]


def test_pipes(hostile: Hostile, white_box: str, tmp_path: Path) -> None:
    hostile(pipes(white_box, tmp_path, range(4)), limits=WORK)


@pytest.mark.slow
def test_many_pipes(hostile: Hostile, white_box: str, tmp_path: Path) -> None:
    hostile(pipes(white_box, tmp_path, range(100, 170)), limits=WORK)
