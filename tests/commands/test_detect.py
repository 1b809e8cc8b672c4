from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media.cameras import jpeg, mjpeg, part, plain, web_server
from tests.media.files import make_image, probe_video, write_frames, write_image, write_video
from tests.media.pipes import open_pipe, pipe_in, until
from yolorep.cli import main
from yolorep.commands.detect import run as detect
from yolorep.errors import UserError
from yolorep.options import DetectOptions

Run = Callable[..., Path | None]


@pytest.fixture
def run(tmp_path: Path, white_box: str) -> Run:
    """Finds white boxes in a source below ``tmp_path/in``; results go to ``tmp_path/out``."""
    (tmp_path / "in").mkdir()

    def run(source: str = "", **options: object) -> Path | None:
        options = {"project": str(tmp_path / "out"), "imgsz": 128, "agnostic_nms": True, **options}
        source = source if source == "-" or "://" in source else str(tmp_path / "in" / source)
        return detect(DetectOptions(weights=white_box, source=source, device="cpu", **options))  # type: ignore[arg-type]

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
    assert re.search(r"clip\.mp4: 20 frames, square in 20, \d+\.\d ms/frame\n", capsys.readouterr().out)


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


def test_an_image_above_the_limit_is_one_bad_item(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # put back at the end
    write_image(tmp_path / "in" / "a.jpg")
    write_image(tmp_path / "in" / "b.png", make_image(200, 200))
    (tmp_path / "in" / "c.svg").write_text("<svg/>")
    assert files(run() or tmp_path) == ["a.jpg"]
    told = capsys.readouterr().out
    assert "b.png: not read: 200x200 pixels are more than the limit of 20,000; raise it with --max-pixels" in told
    assert "in: 1 file passed over: .svg 1" in told
    assert files(run(max_pixels=40_000) or tmp_path) == ["a.jpg", "b.png"]


def test_a_result_that_cannot_be_written_is_reported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / name)
    write_video(tmp_path / "in" / "b.avi", 3, codec="MJPG")
    (tmp_path / "out" / "exp" / "b.mp4").mkdir(parents=True)
    (tmp_path / "out" / "exp" / "labels" / "c.txt").mkdir(parents=True)
    folder = run(save_txt=True, exist_ok=True)
    assert folder and files(folder) == ["a.png", "c.png", "labels/a.txt", *(f"labels/b_{i}.txt" for i in (1, 2, 3))]
    lines = [line for line in capsys.readouterr().out.splitlines() if "not written" in line]
    assert [line.partition(": ")[0] for line in lines] == [str(tmp_path / "in" / name) for name in ("b.avi", "c.png")]
    assert lines[0].endswith("b.mp4: cannot be written (Is a directory); choose another name")


def test_not_one_result_can_be_written(run: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "exp" / "a.png").mkdir(parents=True)
    with pytest.raises(UserError, match=r"not one result could be written, the first: .*a\.png: cannot be written"):
        run(exist_ok=True)


def test_a_full_disk_ends_the_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        run()
    assert raised.value.filename == str(tmp_path / "out" / "exp" / "a.png")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_the_terminal_does_not_know(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    names = [b"a\xe9.png", "猫.png".encode(), b"\x1b[31m\nred.png", b"l" * 240 + b".png"]
    for name in names:
        write_image(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name))
    data = tmp_path / "data.yaml"
    data.write_text('{train: images, val: images, names: ["a\\nb", "犬"]}', encoding="utf-8")
    shown = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", shown)
    folder = run(save_txt=True, save_csv=True, save_json=True, save_crop=True, data=str(data))
    assert folder and len(os.listdir(folder / "labels")) == 4
    lines = shown.buffer.getvalue().decode(encoding).splitlines()
    lines = [line for line in lines if not line.startswith("class names: ")]  # of fonts
    assert len(lines) == 6 and "a\\udce9.png: 1 " in "".join(lines) and "\\x1b[31m\\nred.png: 1 " in "".join(lines)


def test_nothing_readable(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"in/a\.jpg: empty file"):
        run()
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 2 inputs can be read, the first is .*a\.jpg: empty file"):
        run(save_csv=True)
    assert not (tmp_path / "out").exists()


def test_names_are_counted_as_they_are(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "data.yaml").write_text("{train: images, val: images, names: [mouse, mouse]}")
    run(data=str(tmp_path / "data.yaml"), nosave=True, agnostic_nms=False)
    assert "a.jpg: 1 mouse, 1 mouse, " in capsys.readouterr().out


def test_images_of_one_folder_do_not_share_files(run: Run, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / "in" / name)
    folder = run(save_txt=True, save_crop=True, save_json=True)
    assert folder and files(folder) == [
        "a.jpg", "b.jpg", "crops/square/a.jpg", "crops/square/b.jpg", "labels/a.txt", "labels/b.txt",
        "predictions.json",
    ]  # fmt: skip
    assert "frame" not in (folder / "predictions.json").read_text()


def test_a_video_with_the_same_objects_in_many_frames(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [make_image(), make_image(), np.zeros((96, 128, 3), np.uint8)] * 2
    write_frames(tmp_path / "in" / "clip.avi", frames)
    run("clip.avi", nosave=True, agnostic_nms=False)
    assert re.search(r"clip\.avi: 6 frames, rectangle in 4, square in 4, \d+\.\d ms/frame\n", capsys.readouterr().out)
    write_frames(tmp_path / "in" / "clip.avi", frames[2:3])
    run("clip.avi", nosave=True)
    assert re.search(r"clip\.avi: 1 frame, nothing found, \d+\.\d ms/frame\n", capsys.readouterr().out)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_an_image_is_piped_in(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    pipe_in(monkeypatch, write_image(tmp_path / f"a{suffix}").read_bytes())
    folder = run("-")
    assert folder and files(folder) == ["stdin.jpg"]
    assert capsys.readouterr().out.startswith("stdin: 1 square, ")


def test_a_video_is_piped_in(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, write_video(tmp_path / "clip.mp4", 6, fps=10).read_bytes())
    folder = run("-", save_txt=True)
    assert folder and len(files(folder / "labels")) == 6
    assert probe_video(folder / "stdin.mp4") == (6, pytest.approx(10), (128, 96))


def test_interrupted_video_can_be_played(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "out" / "exp" / "predictions.csv"
    with open_pipe(monkeypatch) as pipe:

        def send_and_interrupt() -> None:
            for _ in range(8):
                pipe.write(cv2.imencode(".jpg", make_image())[1].tobytes())
            pipe.flush()
            until(lambda: table.exists() and len(table.read_text().splitlines()) == 9)  # a row each, written at once
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=send_and_interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            run("-", save_json=True, save_csv=True)
    assert files(tmp_path / "out") == ["exp/predictions.csv", "exp/predictions.json", "exp/stdin.mp4"]
    assert probe_video(tmp_path / "out" / "exp" / "stdin.mp4")[0] == 8
    assert len(json.loads((tmp_path / "out" / "exp" / "predictions.json").read_text())) == 8
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("stdin: 8 frames, square in 8, ") and last == f"results: {tmp_path / 'out' / 'exp'}"


def test_a_stream_that_changes_its_size_and_is_lost(
    white_box: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "out" / "exp" / "predictions.csv"

    def parts() -> Iterator[bytes]:  # each is looked at before the next comes
        yield part(jpeg())
        until(lambda: table.exists() and len(table.read_text().splitlines()) >= 2)
        rows = len(table.read_text().splitlines())
        yield part(b"garbage") + part(jpeg(48, 64))
        until(lambda: len(table.read_text().splitlines()) > rows)

    with web_server(mjpeg(parts()), plain(b"404 Not Found")) as server:
        source = server.url.replace("//", "//me:secret@") + "?token=secret"
        flags = ["--weights", white_box, "--source", source, "--imgsz", "128", "--project", str(tmp_path / "out")]
        flags += ["--save-csv", "--save-json", "--save-txt", "--reconnect-timeout", "0.2"]
        assert main(["detect", *flags]) == 0
    output = capsys.readouterr().out
    shown = f"{server.url.replace('//', '//***@')}?token=***"
    for line in ("connected, 128x96", "the frame size is now 64x48", "lost: the stream ended; trying again"):
        assert f"{shown}: {line}\n" in output
    assert re.search(rf"{re.escape(shown)}: not read: lost for \d+\.\d s: ", output)
    assert re.search(rf"{re.escape(shown)}: \d frames, .* ms/frame\n", output)
    folder = tmp_path / "out" / "exp"
    assert {"stream.mp4", "stream_64x48.mp4"} < set(files(folder))
    texts = [path.read_text() for path in folder.rglob("*.*") if path.suffix in (".csv", ".json")]
    assert all("secret" not in text and shown in text for text in texts)
    assert not [name for name in files(folder) if "secret" in name]


def test_a_stream_that_stalls_is_interrupted_at_once(run: Run, tmp_path: Path, white_box: str) -> None:
    table = tmp_path / "out" / "exp" / "predictions.csv"
    with web_server(mjpeg([part(jpeg())], then=lambda: time.sleep(300))) as server:

        def interrupt() -> None:
            until(lambda: table.exists() and len(table.read_text().splitlines()) == 2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            run(server.url, save_csv=True)
    assert probe_video(tmp_path / "out" / "exp" / "stream.mp4")[0] == 1


def test_streams_and_files_of_a_list(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "in" / "a.avi", 4, codec="MJPG")
    write_image(tmp_path / "in" / "b.png")
    with web_server(mjpeg([part(jpeg())] * 5, pause=0.05)) as one, web_server(plain(b"404 Not Found")) as dead:
        (tmp_path / "in" / "list.txt").write_text(f"{one.url}\na.avi\n{dead.url}\nb.png\n")
        folder = run("list.txt", save_csv=True, reconnect_timeout=0.0)
    assert folder and files(folder) == ["a.mp4", "b.png", "predictions.csv", "stream.mp4"]
    assert probe_video(folder / "a.mp4")[0] == 4
    output = capsys.readouterr().out
    assert f"{dead.url}: not read: the server answers 404 Not Found\n" in output
    for path, found in (("in/a.avi", "4 frames, "), ("in/b.png", "1 square, "), (one.url, "")):
        assert len(re.findall(rf"{re.escape(path)}: {found}.* ms(?:/frame)?\n", output)) == 1
    with (folder / "predictions.csv").open(newline="") as file:
        rows = [(row["path"], row["frame"]) for row in csv.DictReader(file)]
    assert [frame for path, frame in rows if path.endswith("a.avi")] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": ""}, "--source is missing: expected an image, folder"),
        ({"source": "gone.jpg"}, "source 'gone.jpg' was not found"),
        ({"classes": [2]}, r"classes: expected indices from 0 to 1, got 2"),
        ({"classes": ["squar"]}, r"classes: there is no 'squar' \(did you mean 'square'\?\)"),
    ],
)
def test_wrong_options(white_box: str, tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = write_image(tmp_path / "in" / "a.jpg")
    with pytest.raises(UserError, match=message):
        detect(
            DetectOptions(**{"weights": white_box, "source": str(path), "project": str(tmp_path / "out"), **options})
        )  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_image_size_is_rounded_aloud(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    run(imgsz=100)
    assert capsys.readouterr().out.startswith("--imgsz 100: rounded up to 128, a multiple of the largest stride 32\n")


def test_names_from_data(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [box, bus]\n")
    run(data=str(data))
    assert "a.jpg: 1 bus, " in capsys.readouterr().out
    data.write_text("train: images\nval: images\nnames: [box]\n")
    with pytest.raises(UserError, match=r"data\.yaml: expected names of the 2 classes of .*torchscript, found 1"):
        run(data=str(data))


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (["square"], "1 square"),
        (["rectangle"], "1 rectangle"),
        (["0"], "1 rectangle"),
        (["0", "square"], "1 rectangle, 1 square"),
        (["square", "square"], "1 square"),
    ],
)
def test_classes_by_name_or_index(
    white_box: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: list[str], found: str
) -> None:
    image = write_image(tmp_path / "a.png")
    flags = ["--weights", white_box, "--source", str(image), "--nosave", "--classes", *classes]
    assert main(["detect", *flags]) == 0
    assert f"a.png: {found}, " in capsys.readouterr().out


def test_classes_by_the_names_of_the_data(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nval: images\nnames: ['1', bus]\n")
    run(data=str(data), classes=["bus"])
    assert "a.jpg: 1 bus, " in capsys.readouterr().out
    run(data=str(data), classes=[1])  # an index, though a class is called 1
    assert "a.jpg: 1 bus, " in capsys.readouterr().out
    with pytest.raises(UserError, match="classes: there is no 'square'"):
        run(data=str(data), classes=["square"])


def test_view_quits(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe").mkdir()  # another process tries whether a window can be opened
    (tmp_path / "probe" / "cv2.py").write_text("def namedWindow(name): pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "probe"))
    monkeypatch.setenv("DISPLAY", ":0")
    shown: list[np.ndarray] = []
    monkeypatch.setattr("cv2.imshow", lambda title, image: shown.append(image))
    monkeypatch.setattr("cv2.waitKey", lambda delay: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr("cv2.destroyAllWindows", lambda: None)
    write_video(tmp_path / "in" / "a.mp4", 10)
    write_video(tmp_path / "in" / "b.mp4", 10)
    folder = run(view_img=True)
    assert len(shown) == 3
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
