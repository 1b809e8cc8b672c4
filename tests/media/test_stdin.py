"""What is piped in."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media.files import make_image, write_image, write_video
from tests.media.pipes import open_pipe, pipe_in
from yolorep.errors import UserError
from yolorep.images import read_image
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.sources import open_source


def jpeg(brightness: int = 0) -> bytes:
    return bytes(cv2.imencode(".jpg", cv2.add(make_image(), brightness))[1].tobytes())


@pytest.mark.parametrize("suffix", [".bmp", ".jp2", ".jpg", ".png", ".ppm", ".tif", ".webp"])
def test_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = write_image(tmp_path / f"a{suffix}")
    pipe_in(monkeypatch, path.read_bytes())
    (frame,) = open_source("-")
    assert isinstance(frame, Frame)
    assert (frame.path, frame.index, frame.total, frame.fps, frame.is_video) == ("stdin", 0, 1, None, False)
    np.testing.assert_array_equal(frame.image, read_image(path))


def test_an_upright_image(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.fromarray(make_image()).save(file, "JPEG", exif=exif)
    pipe_in(monkeypatch, file.getvalue())
    (frame,) = open_source("-")
    assert isinstance(frame, Frame) and frame.image.shape == (128, 96, 3)


def test_several_views_of_one_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    views = [Image.fromarray(cv2.add(make_image(), i)) for i in range(2)]
    views[0].save(file, "MPO", save_all=True, append_images=views[1:])
    pipe_in(monkeypatch, file.getvalue())
    (frame,) = open_source("-")
    assert isinstance(frame, Frame) and not frame.is_video


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.gif"])
def test_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name.endswith("gif"):
        pictures = [Image.fromarray(cv2.add(make_image(), i)) for i in range(0, 50, 10)]
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100)
    else:
        write_video(tmp_path / name, 5, fps=10, codec="MJPG" if name.endswith("avi") else "mp4v")
    pipe_in(monkeypatch, (tmp_path / name).read_bytes())
    frames = list(open_source("-", vid_stride=2))
    assert all(isinstance(frame, Frame) and frame.is_video and frame.path == "stdin" for frame in frames)
    assert [frame.index for frame in frames] == [0, 2, 4]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.2, 0.4])


@pytest.mark.parametrize("parts", [False, True])
def test_frames_come_as_they_arrive(monkeypatch: pytest.MonkeyPatch, parts: bool) -> None:
    boundary = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" if parts else b""
    with open_pipe(monkeypatch) as pipe:

        def send(count: int) -> None:
            pipe.write((boundary + jpeg()) * count)
            pipe.flush()

        frames = open_source("-")
        send(1 if parts else 2)  # without a boundary, one JPEG alone could be a still image
        first = next(frames)
        time.sleep(0.1)
        rest = []
        for _ in range(3):
            send(1)
            rest.append(next(frames))
        pipe.close()
        rest += frames
    everything = [first, *rest]
    assert all(isinstance(frame, Frame) and frame.is_video and frame.path == "stdin" for frame in everything)
    assert [frame.index for frame in everything] == list(range(4 if parts else 5))
    times = [frame.time for frame in everything]
    assert times == sorted(times) and times[-1] >= 0.1


def test_a_damaged_frame_does_not_stop_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = b"\xff\xd8\xff\xd9"
    pipe_in(monkeypatch, jpeg() + damaged + jpeg() + jpeg()[:-100])
    first, second, third, last = open_source("-")
    assert isinstance(first, Frame) and isinstance(third, Frame) and third.index == 2
    assert isinstance(second, Unreadable) and second.path == "stdin" and second.reason.startswith("frame 2: ")
    assert last == Unreadable("stdin", "frame 4: truncated")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "nothing arrived"),
        (b"no", "cannot open this video"),
        (b"no picture" * 100, "cannot open this video"),
        (jpeg()[:-100], "truncated"),
    ],
)
def test_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch, data: bytes, reason: str) -> None:
    pipe_in(monkeypatch, data)
    (item,) = open_source("-")
    assert isinstance(item, Unreadable) and item.path == "stdin" and reason in item.reason


def encoded(kind: str, count: int = 1) -> bytes:
    file = io.BytesIO()
    views = [Image.fromarray(cv2.add(make_image(), i)) for i in range(2)]
    views[0].save(file, kind, **({"save_all": True, "append_images": views[1:]} if kind == "MPO" else {}))
    return file.getvalue() * count


@pytest.mark.parametrize(
    ("data", "images"),
    [
        (encoded("PNG", 2), 1),
        (encoded("PNG") + jpeg(), 1),
        (encoded("PNG") + b"\n" + encoded("PNG"), 1),
        (jpeg() + encoded("PNG"), 1),
        (jpeg() * 3 + encoded("PNG") + jpeg(), 3),
    ],
)
def test_images_after_the_first(monkeypatch: pytest.MonkeyPatch, data: bytes, images: int) -> None:
    pipe_in(monkeypatch, data)
    *frames, last = open_source("-")
    assert len(frames) == images and all(isinstance(frame, Frame) for frame in frames)
    reason = "more follows the first image, expected nothing; only JPEGs can follow each other"
    assert last == Unreadable("stdin", reason)


@pytest.mark.parametrize(
    "data",
    [
        encoded("MPO"),
        encoded("PNG") + b"\0\n",
        encoded("PNG") + b"a note",
        jpeg() + b"\n",
        jpeg() + b"\0\0\0\x18ftypmp42" + jpeg(),  # a motion photo
    ],
)
def test_bytes_after_an_image(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    pipe_in(monkeypatch, data)
    (frame,) = open_source("-")
    assert isinstance(frame, Frame) and not frame.is_video


def test_nothing_is_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, other_end = os.openpty() if hasattr(os, "openpty") else pytest.skip("no terminals here")
    with os.fdopen(terminal), os.fdopen(other_end) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(UserError, match=r"source '-': expected an image, .*, found no pipe; write"):
            open_source("-")
