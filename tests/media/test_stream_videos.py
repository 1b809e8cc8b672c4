from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.media.files import make_image, probe_video
from yolorep.detections import Detections
from yolorep.media.frames import Frame
from yolorep.media.sinks import OutputNames
from yolorep.media.stream_videos import StreamVideoSink


def frame(path: str, index: int, captured: float | None, *, size: tuple[int, int] = (96, 128)) -> Frame:
    return Frame(make_image(*size), path, index, None, 10.0, is_video=True, captured=captured)


def write(folder: Path, frames: list[Frame]) -> dict[str, int]:
    """The frames of every video."""
    with StreamVideoSink(folder, OutputNames()) as sink:
        for one in frames:
            sink.write(one, Detections.empty(), one.image)
    return {path.name: probe_video(path)[0] for path in sorted(folder.iterdir())}


def test_sources_in_turn_have_a_video_each(tmp_path: Path) -> None:
    frames = [frame(path, index, index / 10) for index in range(8) for path in ("rtsp://a/x", "rtsp://b/x")]
    files = [frame(path, index, None) for path in ("in/clip.avi", "in/other.avi") for index in range(4)]
    mixed = [one for pair in zip(frames, [*files, *[None] * 8], strict=True) for one in pair if one]
    assert write(tmp_path, mixed) == {"clip.mp4": 4, "other.mp4": 4, "x.mp4": 8, "x_2.mp4": 8}


@pytest.mark.parametrize("path", ["rtsp://***@10.0.0.1:80", "0"])
def test_another_frame_size_begins_another_video(tmp_path: Path, path: str) -> None:
    sizes = [(96, 128)] * 3 + [(48, 64)] * 2 + [(96, 128)] * 2
    found = write(tmp_path, [frame(path, i, i / 10, size=size) for i, size in enumerate(sizes)])
    name = "10.0.0.1_80" if path != "0" else "0"
    assert {key: probe_video(tmp_path / key)[2] for key in found} == {
        f"{name}.mp4": (128, 96),
        f"{name}_64x48.mp4": (64, 48),
    }
    assert found[f"{name}_64x48.mp4"] == 2 and found[f"{name}.mp4"] == 7  # the gap of 0.2 s is held


def test_pictures_that_are_piped_in_keep_their_size(tmp_path: Path) -> None:
    piped = [frame("stdin", i, None, size=size) for i, size in enumerate([(96, 128), (48, 64), (48, 64), (96, 128)])]
    assert write(tmp_path, [replace(one, fps=None) for one in piped]) == {"stdin.mp4": 2, "stdin_64x48.mp4": 2}


@pytest.mark.parametrize(
    ("times", "frames"),
    [
        ([0, 0.1, 0.2, 0.3], 4),
        ([0, 0.11, 0.19, 0.3], 4),
        ([0, 0.5, 1.0], 11),  # a slow look at a quick stream
        ([0, 0.1, 3600.0, 3600.1], 14),  # it was lost for an hour: a second
        ([0, 0.01, 0.02, 0.03], 4),  # quicker than it said
    ],
)
def test_the_speed_is_the_real_one(tmp_path: Path, times: list[float], frames: int) -> None:
    found = write(tmp_path, [frame("0", index, 1e9 + captured) for index, captured in enumerate(times)])
    assert found == {"0.mp4": frames}
