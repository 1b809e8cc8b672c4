from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.media.files import make_image, probe_video, write_image
from yolorep.detections import Detections
from yolorep.drawing import draw
from yolorep.errors import UserError
from yolorep.media.frames import Frame
from yolorep.media.sinks import (
    CropSink,
    CsvSink,
    ImageSink,
    JsonSink,
    OutputNames,
    Sink,
    TxtSink,
    VideoSink,
    ViewSink,
)

NAMES = ("cat", "dog")
FOUND = Detections(
    np.array([[40, 20, 100, 60], [0, 0, 12.5, 9]], np.float32),
    np.array([0.9, 0.25], np.float32),
    np.array([1, 0], np.int64),
)


def still(path: str = "in/a.png", image: np.ndarray | None = None) -> Frame:
    return Frame(make_image() if image is None else image, path, 0, 1, None, is_video=False)


def video(
    index: int = 0, *, path: str = "clip.avi", fps: float | None = 12.5, image: np.ndarray | None = None
) -> Frame:
    return Frame(make_image() if image is None else image, path, index, None, fps, is_video=True)


def files(folder: Path) -> list[str]:
    """Every file, hidden ones too: nothing temporary may stay."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/x.jpg", "b/x.jpg", "a/x.jpg"], ["x", "x_2", "x"]),
        (["x.jpg", "x.png", "X.bmp"], ["x", "x_2", "X_3"]),
        (["a/x.jpg", "b/x.jpg", "x_2.jpg"], ["x", "x_2", "x_2_2"]),
        ([f"{'x' * 240}.jpg", f"y/{'x' * 240}.jpg"], ["x" * 240, f"{'x' * 240}_2"]),
        (
            ["0", "rtsp://host:8080/live?k=1", "http://10.0.0.1:80", "http://h/a/b.mp4"],
            ["0", "live", "10.0.0.1_80", "b"],
        ),
    ],
)
def test_output_names(paths: list[str], expected: list[str]) -> None:
    names = OutputNames()
    assert [names.of(path) for path in paths] == expected


@pytest.mark.parametrize("letter", ["x", "é", "猫", "\udce9"])
def test_names_are_as_long_as_file_systems_take(tmp_path: Path, letter: str) -> None:
    names, stem = OutputNames(), letter * 400
    found = [names.of_frame(video(index, path=f"{stem}{end}.avi")) for end in "ab" for index in (0, 9, 10**9)]
    found += [names.of(f"{folder}/{stem}a.avi") for folder in "cd"]
    assert len(set(found)) == 8
    assert [name.rpartition("_")[2] for name in found[:3]] == ["1", "10", "1000000001"]
    for name in found:
        (tmp_path / f"{name}.jpeg").write_bytes(b"")


def test_frame_names_do_not_meet_those_of_files() -> None:
    names = OutputNames()
    assert [names.of_frame(video(index)) for index in (0, 9)] == ["clip_1", "clip_10"]
    assert names.of("clip_10.jpg") == "clip_10_2"


def test_image_sink(tmp_path: Path) -> None:
    drawn = make_image(box=(0, 0, 10, 10))
    with ImageSink(tmp_path, OutputNames()) as sink:
        sink.write(still("a/x.png"), FOUND, drawn)
        sink.write(still("b/x.png"), FOUND, drawn)
        sink.write(still("b/photo.mpo"), FOUND, drawn)  # a format that is read, not written
        sink.write(video(), FOUND, drawn)
    assert files(tmp_path) == ["photo.jpg", "x.png", "x_2.png"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "x.png")), drawn)


@pytest.mark.parametrize(
    ("make", "source", "victim"),
    [
        (ImageSink, "a.png", "a.png"),
        (ImageSink, "a.jp2", "a.jpg"),  # another original, whose turn has not come
        (VideoSink, "clip.mp4", "clip.mp4"),
        (VideoSink, "clip.avi", "clip.mp4"),
    ],
)
def test_originals_are_not_overwritten(
    tmp_path: Path, make: type[ImageSink] | type[VideoSink], source: str, victim: str
) -> None:
    folder, other = tmp_path / "photos", tmp_path / "results"
    link = tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    for name in {source, victim}:
        (folder / name).write_bytes(b"original")
    frame = (still if make is ImageSink else lambda path: video(path=path))(str(folder / source))
    for target in (folder, link):
        with pytest.raises(UserError, match=f"{victim}: .*choose another --project or --name"):  # noqa: SIM117
            with make(target, OutputNames()) as sink:
                sink.write(frame, FOUND, make_image())
    assert files(folder) == sorted({source, victim})
    assert (folder / victim).read_bytes() == b"original"
    for _ in range(2):  # earlier results may be overwritten
        with make(other, OutputNames()) as sink:
            sink.write(frame, FOUND, make_image())
    assert files(other) == [victim]


def test_new_files_may_be_put_beside_the_originals(tmp_path: Path) -> None:
    (tmp_path / "photo.mpo").write_bytes(b"original")
    names = OutputNames()
    with ImageSink(tmp_path, names) as image_sink, CropSink(tmp_path / "crops", names, NAMES) as crop_sink:
        for sink in (image_sink, crop_sink):
            sink.write(still(str(tmp_path / "photo.mpo")), FOUND, make_image())
    assert files(tmp_path) == ["crops/cat/photo.jpg", "crops/dog/photo.jpg", "photo.jpg", "photo.mpo"]


@pytest.mark.parametrize("size", [(96, 128), (97, 129)])
def test_video_sink(tmp_path: Path, size: tuple[int, int]) -> None:
    with VideoSink(tmp_path, OutputNames()) as sink:
        for path in ("a/clip.avi", "b/clip.avi"):
            for i in range(7):
                image = make_image(*size)
                sink.write(video(i, path=path, image=image), FOUND, image)
        sink.write(still(), FOUND, make_image())
    assert files(tmp_path) == ["clip.mp4", "clip_2.mp4"]
    for name in files(tmp_path):
        even = size[1] + size[1] % 2, size[0] + size[0] % 2
        assert probe_video(tmp_path / name) == (7, pytest.approx(12.5), even)


@pytest.mark.parametrize(
    ("fps", "written"),
    [
        (211.222, 211.22),
        (119.957, 119.96),
        (240.026, 240.03),
        (239.825, 239.825),
        (60000 / 1001, 59.94),
        (90000.0, 65535),
        (1e6, 65535),
        (0.001, 0.001),
        (1e-9, 0.001),
        (1 / 3, 0.333),
        (float("nan"), 30),
        (float("inf"), 30),
        (0.0, 30),
        (-25.0, 30),
        (None, 30),
    ],
)
def test_rates_that_the_encoder_refuses_are_rounded(tmp_path: Path, fps: float | None, written: float) -> None:
    with VideoSink(tmp_path, OutputNames()) as sink:
        for index in range(3):
            sink.write(video(index, fps=fps), FOUND, make_image())
    assert probe_video(tmp_path / "clip.mp4")[:2] == (3, pytest.approx(written, rel=1e-4))


@pytest.mark.parametrize("size", [(1, 1080), (1080, 1), (1, 1), (2, 3)])
def test_thin_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    found = Detections(np.array([[0, 0, size[1], size[0]]], np.float32), FOUND.confidence[:1], FOUND.class_id[:1])
    drawn, names = draw(image, found, NAMES), OutputNames()
    with (
        ImageSink(tmp_path, names) as images,
        VideoSink(tmp_path, names) as videos,
        CropSink(tmp_path, names, NAMES) as crops,
    ):
        for sink in (images, videos, crops):
            sink.write(still(image=image), found, drawn)
            sink.write(video(image=image), found, drawn)
    assert files(tmp_path) == ["a.png", "clip.mp4", "dog/a.jpg", "dog/clip_1.jpg"]
    assert cv2.imread(str(tmp_path / "a.png")).shape[:2] == cv2.imread(str(tmp_path / "dog/a.jpg")).shape[:2] == size
    assert probe_video(tmp_path / "clip.mp4")[0] == 1


def test_a_video_into_a_folder_whose_name_does_not_decode(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9sum\xe9"))
    with VideoSink(folder, OutputNames()) as sink:
        sink.write(video(), FOUND, make_image())
    assert files(folder) == ["clip.mp4"]


def test_video_sink_takes_frames_of_another_size(tmp_path: Path) -> None:
    with VideoSink(tmp_path, OutputNames()) as sink:
        for i, height in enumerate((96, 96, 64, 120)):
            image = make_image(height)
            sink.write(video(i, fps=None, image=image), FOUND, image)
    assert probe_video(tmp_path / "clip.mp4") == (4, pytest.approx(30), (128, 96))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_video_is_finished_on_any_exception(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), VideoSink(tmp_path, OutputNames()) as sink:
        for i in range(5):
            sink.write(video(i), FOUND, make_image())
        raise error
    assert files(tmp_path) == ["clip.mp4"]
    assert probe_video(tmp_path / "clip.mp4")[0] == 5


def test_video_sink_that_cannot_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda self: False)
    with (
        pytest.raises(UserError, match=r"clip\.mp4: OpenCV cannot write this video"),
        VideoSink(tmp_path, OutputNames()) as sink,
    ):
        sink.write(video(), FOUND, make_image())
    assert files(tmp_path) == []


def test_video_sink_notices_missing_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = cv2.VideoWriter.write
    frames: list[np.ndarray] = []

    def once(self: cv2.VideoWriter, image: np.ndarray) -> None:  # OpenCV says nothing when the disk is full
        frames.append(image)
        if len(frames) == 1:
            write(self, image)

    monkeypatch.setattr(cv2.VideoWriter, "write", once)
    with (
        pytest.raises(OSError, match="1 of 2 frames are in it; is the disk full") as raised,
        VideoSink(tmp_path, OutputNames()) as sink,
    ):
        sink.write(video(0), FOUND, make_image())
        sink.write(video(1), FOUND, make_image())
    assert raised.value.filename == str(tmp_path / "clip.mp4")
    assert files(tmp_path) == []


@pytest.mark.parametrize("save_conf", [False, True])
def test_txt_sink(tmp_path: Path, save_conf: bool) -> None:
    with TxtSink(tmp_path / "labels", OutputNames(), save_conf=save_conf) as sink:
        sink.write(still(), FOUND, make_image())
        sink.write(video(4), FOUND, make_image())
        sink.write(still("empty.jpg"), Detections.empty(), make_image())
    assert files(tmp_path) == ["labels/a.txt", "labels/clip_5.txt"]
    rows = [line.split() for line in (tmp_path / "labels/a.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == ["1", "0"]
    values = np.array([[float(value) for value in row[1:]] for row in rows])
    expected = np.array([[70 / 128, 40 / 96, 60 / 128, 40 / 96], [6.25 / 128, 4.5 / 96, 12.5 / 128, 9 / 96]])
    np.testing.assert_allclose(values[:, :4], expected, atol=1e-6)
    assert values.shape[1] == (5 if save_conf else 4)
    if save_conf:
        np.testing.assert_allclose(values[:, 4], [0.9, 0.25], atol=1e-6)


def test_csv_sink(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    with CsvSink(path, ("cat",)) as sink:
        sink.write(still('in/"a", b.png'), FOUND, make_image())
        sink.write(video(2), FOUND[:1], make_image())
        assert len(path.read_text().splitlines()) == 4  # to be read during the run
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "path": 'in/"a", b.png',
        "frame": "",
        "class_id": "1",
        "class": "1",  # the model has no name for it
        "confidence": "0.9000",
        "x1": "40.00",
        "y1": "20.00",
        "x2": "100.00",
        "y2": "60.00",
    }
    assert (rows[1]["class"], rows[2]["frame"]) == ("cat", "3")


def test_json_sink(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    with JsonSink(path, OutputNames()) as sink:
        sink.write(still("in/000000000139.jpg"), FOUND, make_image())
        sink.write(video(2), FOUND[:1], make_image())
        assert not path.exists()
    first, _, third = json.loads(path.read_text())
    assert first == {
        "image_id": 139,
        "file_name": "in/000000000139.jpg",
        "category_id": 1,
        "bbox": [40.0, 20.0, 60.0, 40.0],
        "score": 0.9,
    }
    assert (third["image_id"], third["file_name"], third["frame"]) == ("clip_3", "clip.avi", 3)
    assert files(tmp_path) == ["predictions.json"]


@pytest.mark.parametrize("path", ["in/b\udce9.jpg", "in/\ud800.jpg", "in/a\nb.jpg"])
def test_tables_stay_text(tmp_path: Path, path: str) -> None:
    table, results = tmp_path / "a.csv", tmp_path / "a.json"
    with CsvSink(table, ("\ud800", "猫")) as csv_sink, JsonSink(results, OutputNames()) as json_sink:
        for sink in (csv_sink, json_sink):
            sink.write(still(path), FOUND, make_image())
    expected = path.encode("utf-8", "backslashreplace").decode()
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["class"]) for row in rows] == [(expected, "猫"), (expected, "\\ud800")]
    for entry in json.loads(results.read_text(encoding="utf-8")):
        assert entry["file_name"] == expected and entry["image_id"].encode()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_names_the_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised, CsvSink(tmp_path / "a.csv", NAMES) as sink:
        sink.write(still(), FOUND, make_image())
    assert raised.value.filename == str(tmp_path / "a.csv")


@pytest.mark.parametrize("count", [0, 2])
def test_json_is_valid_after_an_exception(tmp_path: Path, count: int) -> None:
    with pytest.raises(KeyboardInterrupt), JsonSink(tmp_path / "predictions.json", OutputNames()) as sink:
        sink.write(still(), FOUND[:count], make_image())
        raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == count


def test_crop_sink(tmp_path: Path) -> None:
    found = Detections(
        np.array([[40, 20, 100, 60], [40.5, 20.5, 99.5, 59.5], [-5, -5, 0, 0], [120, 90, 140, 99]], np.float32),
        np.full(4, 0.5, np.float32),
        np.array([0, 0, 0, 1], np.int64),
    )
    with CropSink(tmp_path, OutputNames(), ("cat", "../../etc")) as sink:
        sink.write(still(), found, make_image(box=(0, 0, 1, 1)))
        sink.write(video(3), found[:1], make_image())
    assert files(tmp_path) == ["______etc/a.jpg", "cat/a.jpg", "cat/a_2.jpg", "cat/clip_4.jpg"]
    for name, shape in (("cat/a.jpg", (40, 60)), ("cat/a_2.jpg", (40, 60)), ("______etc/a.jpg", (6, 8))):
        assert cv2.imread(str(tmp_path / name)).shape[:2] == shape
    assert cv2.imread(str(tmp_path / "cat/a.jpg")).mean() > 250  # of the image, not of the drawing


def test_crops_of_classes_with_any_name(tmp_path: Path) -> None:
    names = ("猫" * 300, "猫" * 300 + "b", "a/b\0\n\x1b", "..", "   ", "\udce9", "C" * 255)
    count = len(names)
    found = Detections(
        np.tile(np.array([[40, 20, 100, 60]], np.float32), (count, 1)),
        np.full(count, 0.5, np.float32),
        np.arange(count),
    )
    with CropSink(tmp_path, OutputNames(), names) as sink:
        sink.write(still(f"{'a' * 250}.jpg"), found, make_image())
        sink.write(video(3, path=f"{'a' * 250}.avi"), found, make_image())
    assert len(files(tmp_path)) == 2 * count and len(list(tmp_path.iterdir())) == count
    assert {"a_b___", "__", "4", "_"} < {path.name for path in tmp_path.iterdir()}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(
    "make", [lambda path: CsvSink(path / "x.csv", NAMES), lambda path: JsonSink(path / "x.json", OutputNames())]
)
def test_unwritable_folder(tmp_path: Path, make) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        make(tmp_path)


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    write_image(tmp_path / "labels.jpg")
    with TxtSink(tmp_path / "labels.jpg", OutputNames()) as sink, pytest.raises(UserError, match="cannot be written"):
        sink.write(still(), FOUND, make_image())


def test_view_without_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserError, match=r"--view-img: no window can be opened \(there is no display"):
        ViewSink()


def test_view_with_unreachable_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", "127.0.0.1:4711")
    with pytest.raises(UserError, match="the display cannot be reached"):
        ViewSink()


def test_view_with_an_opencv_without_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("def namedWindow(name): raise RuntimeError('The function is not implemented')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(UserError, match="built without windows: opencv-python-headless is") as raised:
        ViewSink()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("key", "quits"), [("q", True), ("\x1b", True), (" ", False)])
def test_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, quits: bool) -> None:
    shown: list[np.ndarray] = []
    (tmp_path / "cv2.py").write_text("def namedWindow(name): pass")  # what another process tries first
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("cv2.imshow", lambda title, image: shown.append(image))
    keys = iter([-1, -1, ord(key)])
    monkeypatch.setattr("cv2.waitKey", lambda delay: next(keys))
    monkeypatch.setattr("cv2.getWindowProperty", lambda title, prop: 1.0)
    monkeypatch.setattr("cv2.destroyAllWindows", lambda: shown.append(np.zeros(1)))
    sink = ViewSink()
    with sink:
        sink.write(still(), FOUND, make_image())
    assert sink.quit is quits
    assert len(shown) == 2


def test_sinks_are_told_apart_by_their_base() -> None:
    assert issubclass(CsvSink, Sink)
    with pytest.raises(TypeError):
        Sink()  # type: ignore[abstract]
