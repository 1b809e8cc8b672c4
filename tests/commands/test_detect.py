from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.inference.white_box import WhiteBoxBackend
from tests.media.files import make_image, probe_video, write_image, write_video
from yolorep.commands import detect as module
from yolorep.commands.detect import run as detect
from yolorep.errors import UserError
from yolorep.inference import predictor
from yolorep.options import DetectOptions

Run = Callable[..., Path | None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs detect with the fake backend on a source below ``tmp_path/in``; results go to ``tmp_path/out``."""
    monkeypatch.setattr(predictor, "load_backend", lambda weights, **options: WhiteBoxBackend())
    (tmp_path / "in").mkdir()

    def run(source: str = "", **options: object) -> Path | None:
        options = {"project": str(tmp_path / "out"), "imgsz": 128, "agnostic_nms": True, **options}
        return detect(DetectOptions(weights="w.pt", source=str(tmp_path / "in" / source), **options))  # type: ignore[arg-type]

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_images(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    write_image(tmp_path / "in" / "b.png", np.zeros((60, 80, 3), np.uint8))
    folder = run()
    assert folder == tmp_path / "out" / "exp"
    assert files(folder) == ["a.jpg", "b.png"]
    first, second, speed, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r".*/a\.jpg: 1 square, \d+\.\d ms", first)
    assert re.fullmatch(r".*/b\.png: nothing found, \d+\.\d ms", second)
    assert re.fullmatch(r"2 images, each [\d.]+ ms pre-process, [\d.]+ ms inference, [\d.]+ ms NMS", speed)
    assert last == f"results: {folder}"
    assert run() == tmp_path / "out" / "exp2"
    assert run(exist_ok=True) == folder


def test_video(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "in" / "clip.mp4", 20, fps=10)
    folder = run("clip.mp4", save_txt=True)
    assert folder
    assert probe_video(folder / "clip.mp4") == (20, pytest.approx(10), (128, 96))
    assert len(files(folder / "labels")) == 20 and "clip_20.txt" in files(folder / "labels")
    assert re.search(r"clip\.mp4: 20 frames, 20 squares, \d+\.\d ms/frame\n", capsys.readouterr().out)


def test_video_stride_keeps_the_speed(run: Run, tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "clip.mp4", 20, fps=30)
    folder = run("clip.mp4", vid_stride=3)
    assert folder
    assert probe_video(folder / "clip.mp4")[:2] == (7, pytest.approx(10))


def test_everything_saved(run: Run, tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "clip.mp4"):
        path = tmp_path / "in" / name
        write_video(path, 3) if name.endswith("mp4") else write_image(path)
    (tmp_path / "in" / "list.txt").write_text("a/x.jpg\nb/x.jpg\nclip.mp4\n")
    folder = run("list.txt", save_txt=True, save_conf=True, save_csv=True, save_json=True, save_crop=True)
    assert folder
    crops = [f"crops/square/{name}.jpg" for name in ("clip_1", "clip_2", "clip_3", "x", "x_2")]
    labels = [f"labels/{name}.txt" for name in ("clip_1", "clip_2", "clip_3", "x", "x_2")]
    others = ["clip.mp4", "predictions.csv", "predictions.json", "x.jpg", "x_2.jpg"]
    assert files(folder) == [others[0], *crops, *labels, *others[1:]]
    class_id, *values = (folder / "labels" / "x.txt").read_text().split()
    assert class_id == "1"
    np.testing.assert_allclose([float(v) for v in values], [70 / 128, 40 / 96, 60 / 128, 40 / 96, 0.9], atol=0.01)
    with (folder / "predictions.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["square"] * 5
    assert [entry["image_id"] for entry in json.loads((folder / "predictions.json").read_text())] == [
        "x", "x_2", "clip_1", "clip_2", "clip_3",
    ]  # fmt: skip


def test_nosave(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    assert run(nosave=True) is None
    assert not (tmp_path / "out").exists()
    assert "results:" not in capsys.readouterr().out
    folder = run(nosave=True, save_txt=True)
    assert folder and files(folder) == ["labels/a.txt"]


def test_unreadable_inputs_are_reported(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    write_image(tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "c.mp4").write_bytes(b"no video")
    write_video(tmp_path / "in" / "d.avi", 40, codec="MJPG")
    cut = (tmp_path / "in" / "d.avi").read_bytes()
    (tmp_path / "in" / "d.avi").write_bytes(cut[: len(cut) // 2])
    folder = run()
    assert folder and files(folder) == ["b.jpg", "d.mp4"]
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r".*a\.jpg: not read: empty file", line) for line in lines)
    assert any(re.fullmatch(r".*c\.mp4: not read: OpenCV cannot open this video", line) for line in lines)
    frames = next(int(m[1]) for line in lines if (m := re.search(r"d\.avi: (\d+) frames, ", line)))
    assert any(f"d.avi: not read: only the first {frames} of 40 frames" in line for line in lines)
    assert probe_video(folder / "d.mp4")[0] == frames


def test_nothing_readable(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"in/a\.jpg: empty file"):
        run()
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 2 inputs can be read, the first is .*a\.jpg: empty file"):
        run(save_csv=True)
    assert not (tmp_path / "out").exists()


def test_interrupted_video_can_be_played(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "in" / "clip.mp4", 20)
    shown = []

    def interrupt(image: np.ndarray, *args: object, **options: object) -> np.ndarray:
        shown.append(image)
        if len(shown) == 8:
            raise KeyboardInterrupt
        return image

    monkeypatch.setattr(module, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("clip.mp4", save_json=True)
    assert files(tmp_path / "out") == ["exp/clip.mp4", "exp/predictions.json"]
    assert probe_video(tmp_path / "out" / "exp" / "clip.mp4")[0] == 7
    assert len(json.loads((tmp_path / "out" / "exp" / "predictions.json").read_text())) == 7
    line, last = capsys.readouterr().out.splitlines()
    assert "clip.mp4: 8 frames" in line and last == f"results: {tmp_path / 'out' / 'exp'}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": ""}, "--source is missing: expected an image, folder"),
        ({"source": "gone.jpg"}, "source 'gone.jpg' was not found"),
        ({"classes": [2]}, r"classes: expected indices from 0 to 1, got 2"),
    ],
)
def test_wrong_options(run: Run, tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = write_image(tmp_path / "in" / "a.jpg")
    with pytest.raises(UserError, match=message):
        detect(DetectOptions(**{"weights": "w.pt", "source": str(path), "project": str(tmp_path / "out"), **options}))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_image_size_is_rounded_aloud(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    run(imgsz=100)
    assert capsys.readouterr().out.startswith("--imgsz 100: using 128, a multiple of the stride 32\n")


def test_names_from_data(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [box, bus]\n")
    run(data=str(data))
    assert "a.jpg: 1 bus, " in capsys.readouterr().out
    data.write_text("train: images\nval: images\nnames: [box]\n")
    with pytest.raises(UserError, match=r"data\.yaml: expected names of the 2 classes of w\.pt, found 1"):
        run(data=str(data))


class FakeView(module.ViewSink):
    def __init__(self) -> None:
        self.quit = False
        self.shown = 0

    def write(self, *args: object) -> None:
        self.shown += 1
        self.quit = self.shown == 3

    def close(self) -> None:
        pass


def test_view_quits(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "in" / "a.mp4", 10)
    write_video(tmp_path / "in" / "b.mp4", 10)
    view = FakeView()
    monkeypatch.setattr(module, "ViewSink", lambda: view)
    folder = run(view_img=True)
    assert view.shown == 3
    assert folder and files(folder) == ["a.mp4"] and probe_video(folder / "a.mp4")[0] == 3


@pytest.mark.skipif("YOLOREP_SHARED" not in os.environ, reason="YOLOREP_SHARED, the folder of real data, is not set")
def test_real_video(run: Run, tmp_path: Path) -> None:
    source = Path(os.environ["YOLOREP_SHARED"], "videos", "bikes.mp4")
    frames, fps, size = probe_video(source)
    (tmp_path / "in" / "list.txt").write_text(str(source))
    folder = run("list.txt", vid_stride=10)
    assert folder
    assert probe_video(folder / "bikes.mp4") == (frames // 10, pytest.approx(fps / 10), size)


def test_drawing(run: Run, tmp_path: Path) -> None:
    from yolorep.images import read_image

    write_image(tmp_path / "in" / "a.png")
    folder = run()
    assert folder
    drawn = read_image(folder / "a.png")
    assert drawn.shape == make_image().shape and (drawn != make_image()).any()
