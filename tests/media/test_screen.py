from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media.files import make_image, write_image
from yolorep.errors import UserError
from yolorep.media.frames import Frame
from yolorep.media.sources import open_source


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("PIL.ImageGrab.grab", lambda: Image.fromarray(make_image()[..., ::-1]).convert(mode))
    frames = open_source("screen")
    found = [next(frames) for _ in range(3)]
    assert all(isinstance(frame, Frame) and frame.is_video and frame.total is None for frame in found)
    assert [(frame.path, frame.index) for frame in found] == [("screen", i) for i in range(3)]
    np.testing.assert_array_equal(found[2].image, make_image())
    assert 0 <= found[0].time <= found[1].time <= found[2].time


def test_no_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grab() -> None:
        raise OSError("X connection failed:\nerror 5")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("PIL.ImageGrab.grab", grab)
    message = r"source 'screen': expected a screen to look at, found none here \(X connection failed: error 5\)$"
    with pytest.raises(UserError, match=message):
        open_source("screen")


def test_a_folder_called_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "screen" / "a.png")
    monkeypatch.chdir(tmp_path)
    (frame,) = open_source("screen")
    assert os.path.basename(frame.path) == "a.png"
