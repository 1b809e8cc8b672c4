from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media.files import damage_frames, make_image, write_frames, write_image, write_video
from yolorep.errors import UserError
from yolorep.media.frames import Frame, Unreadable
from yolorep.media.sources import is_live, is_one_image, open_source


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, a video and other files, being the working directory."""
    for name in ("b.jpg", "a.PNG", "c.bmp", "sub/d.jpg"):
        write_image(tmp_path / "media" / name)
    write_video(tmp_path / "media" / "clip.mp4", 5)
    (tmp_path / "media" / "notes.md").write_text("no picture")
    (tmp_path / "media" / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "media"


def names(source: str | Path) -> list[str]:
    """File names of the inputs in order, one for a video."""
    return list(dict.fromkeys(os.path.basename(item.path) for item in open_source(source)))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("media/b.jpg", ["b.jpg"]),
        ("media/clip.mp4", ["clip.mp4"]),
        ("media", ["a.PNG", "b.jpg", "c.bmp", "clip.mp4"]),
        ("media/", ["a.PNG", "b.jpg", "c.bmp", "clip.mp4"]),
        ("media/*.jpg", ["b.jpg"]),
        ("media/[ab].*", ["a.PNG", "b.jpg"]),
        ("media/**/*.jpg", ["b.jpg", "d.jpg"]),
    ],
)
def test_names_inputs(media: Path, source: str, expected: list[str]) -> None:
    assert names(source) == expected


def test_files_passed_over_and_links_are_told(media: Path) -> None:
    for name in ("a.svg", "b.heic", ".hidden", "notes.txt"):
        (media / name).write_bytes(b"x")
    (media / "z.jpg").symlink_to("b.jpg")
    notes: list[str] = []
    found = [os.path.basename(item.path) for item in open_source("media", vid_stride=5, note=notes.append)]
    assert found == ["a.PNG", "b.jpg", "c.bmp", "clip.mp4"]
    assert notes == ["media: 2 files passed over: .heic 1, .svg 1"]
    (media / "list.txt").write_text("b.jpg\n./b.jpg\nz.jpg\nsub/../c.bmp\nc.bmp\n")
    assert names("media/list.txt") == ["b.jpg", "c.bmp"]


def test_unusual_numbers_are_told_once(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)).save(tmp_path / name)
    notes: list[str] = []
    first, second = open_source(tmp_path, note=notes.append)
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert first.image.max() == second.image.max() == 255
    assert notes == [f"{tmp_path}/a.tif: float32 values taken as 0 to 1"]


def test_frames_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128 * 96 - 1)
    write_video(tmp_path / "a.mp4", 3)
    write_image(tmp_path / "b.jpg")
    write_image(tmp_path / "c.jpg", make_image(40, 50, box=(1, 2, 3, 4)))
    video, image, small = open_source(tmp_path)
    assert isinstance(video, Unreadable) and "frames of 128x96 pixels are more than the limit" in video.reason
    assert isinstance(image, Unreadable) and "128x96 pixels are more than the limit of 12,287" in image.reason
    assert isinstance(small, Frame)


def test_existing_path_wins_over_pattern(tmp_path: Path) -> None:
    write_image(tmp_path / "a[1]" / "x.jpg")
    assert names(tmp_path / "a[1]") == ["x.jpg"]


@pytest.mark.parametrize("name", ["upload", "upload.tmp", "photo.jfif"])
def test_an_image_whose_suffix_says_nothing(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.jpg").rename(tmp_path / name)
    (frame,) = open_source(tmp_path / name)
    assert isinstance(frame, Frame) and not frame.is_video and frame.image.shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("source", "one_image", "live"),
    [
        ("media/b.jpg", True, False),
        ("media", False, False),
        ("media/b.*", False, False),
        ("media/gone.jpg", False, False),
        ("media/folder.jpg", False, False),
        ("media/clip.mp4", False, False),
        ("http://host/a.jpg?size=2", True, False),
        ("https://host/a.mp4", False, False),
        ("rtsp://host/stream", False, True),
        ("0", False, True),
        ("screen", False, True),
        ("-", False, False),
        ("files.txt", False, False),
        ("all.streams", False, True),
    ],
)
def test_one_image_and_live_sources(media: Path, source: str, one_image: bool, live: bool) -> None:
    Path("files.txt").write_text("media/b.jpg\nhttp://host/a.mp4\n")
    Path("all.streams").write_text("media/b.jpg\nrtsp://host/stream\n")
    assert (is_one_image(source), is_live(source)) == (one_image, live)


def test_list_files_are_found_by_their_suffix(media: Path) -> None:
    (media / "list.txt").write_bytes((media / "b.jpg").read_bytes())
    with pytest.raises(UserError, match=r"list\.txt: expected text"):
        open_source(media / "list.txt")


@pytest.mark.parametrize("suffix", [".txt", ".streams"])
def test_list_file(media: Path, suffix: str) -> None:
    list_file = media / f"list{suffix}"
    lines = [
        "# two of them",
        "b.jpg",
        "http://",
        "",
        "media/c.bmp",
        str(media / "a.PNG"),
        "b.jpg",
        "gone.jpg",
        "notes.md",
    ]
    list_file.write_text("\n".join(lines))
    items = list(open_source(list_file))
    assert [os.path.basename(item.path) for item in items if isinstance(item, Frame)] == ["b.jpg", "c.bmp", "a.PNG"]
    url, missing, other = (item for item in items if isinstance(item, Unreadable))
    assert url == Unreadable("http://", "expected a URL with a host, such as http://host/")
    assert missing.path == "gone.jpg" and "neither beside it nor in the working directory" in missing.reason
    assert other.path == "notes.md" and "neither an image nor a video" in other.reason


def test_a_list_file_of_images_without_a_suffix(media: Path) -> None:
    (media / "b").write_bytes((media / "b.jpg").read_bytes())
    (media / "folder").mkdir()
    (media / "list.txt").write_text("b\nfolder\nb.jpg\n")
    first, folder, second = open_source(media / "list.txt")
    assert isinstance(first, Frame) and isinstance(second, Frame) and (first.index, second.index) == (0, 2)
    assert isinstance(folder, Unreadable) and "neither an image nor a video" in folder.reason


def test_frame_of_image(media: Path) -> None:
    (frame,) = open_source(media / "c.bmp")
    assert isinstance(frame, Frame)
    np.testing.assert_array_equal(frame.image, make_image())
    assert (frame.path, frame.index, frame.total, frame.fps) == (str(media / "c.bmp"), 0, 1, None)
    assert not frame.is_video


@pytest.mark.parametrize(
    ("stride", "indices", "fps"),
    [(1, [0, 1, 2, 3, 4, 5, 6], 30.0), (2, [0, 2, 4, 6], 15.0), (3, [0, 3, 6], 10.0), (100, [0], 0.3)],
)
def test_video_frames(tmp_path: Path, stride: int, indices: list[int], fps: float) -> None:
    path = write_video(tmp_path / "clip.mp4", 7, fps=30.0)
    frames = list(open_source(path, vid_stride=stride))
    assert all(isinstance(frame, Frame) and frame.is_video for frame in frames)
    assert [frame.index for frame in frames] == indices
    assert {frame.total for frame in frames} == {len(indices)}
    assert frames[0].fps == pytest.approx(fps)
    assert [frame.time for frame in frames] == pytest.approx([index / 30 for index in indices], abs=1e-3)


def test_unreadable_inputs_do_not_stop(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.jpg").write_text("no picture")
    (tmp_path / "e.mp4").write_bytes(b"")
    (tmp_path / "f.mp4").write_bytes(b"no video" * 100)
    write_image(tmp_path / "z.jpg")
    items = list(open_source(tmp_path))
    assert [os.path.basename(item.path) for item in items] == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "d.jpg",
        "e.mp4",
        "f.mp4",
        "z.jpg",
    ]
    assert [isinstance(item, Frame) for item in items] == [True] + [False] * 5 + [True]
    reasons = [item.reason for item in items if isinstance(item, Unreadable)]
    assert "empty" in reasons[0] and "truncated" in reasons[1] and "empty" in reasons[3] and "video" in reasons[4]


def test_rest_of_video_is_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 40, codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    items = list(open_source(path))
    frames = [item for item in items if isinstance(item, Frame)]
    assert 5 < len(frames) < 35
    assert isinstance(items[-1], Unreadable)
    assert items[-1].reason == f"only the first {len(frames)} of 40 frames can be decoded"


@pytest.mark.parametrize("codec", ["MJPG", "mp4v"])
@pytest.mark.parametrize(
    ("damaged", "stride", "reason"),
    [
        ([9], 1, "1 of 20 frames cannot be decoded"),
        ([0], 1, "1 of 20 frames cannot be decoded"),
        ([4, 5, 6, 7, 15], 1, "5 of 20 frames cannot be decoded"),
        ([4, 5, 6, 15], 2, "4 of 20 frames cannot be decoded"),
        ([5, 18, 19], 1, "3 of 20 frames cannot be decoded"),
        (range(10, 20), 1, "only the first 10 of 20 frames can be decoded"),
        (range(20), 1, "not one frame of this video can be decoded"),
    ],
)
def test_decoding_goes_on_after_frames_that_cannot_be(
    tmp_path: Path, codec: str, damaged: Iterable[int], stride: int, reason: str
) -> None:
    images = [np.full((96, 128, 3), 10 + 9 * number, np.uint8) for number in range(20)]
    path = damage_frames(write_frames(tmp_path / "clip.avi", images, codec=codec), damaged)
    *frames, problem = open_source(path, vid_stride=stride)
    expected = [number for number in range(0, 20, stride) if number not in damaged]
    assert [frame.index for frame in frames] == expected
    assert [round((frame.image.mean() - 10) / 9) for frame in frames] == expected  # they are the frames they say
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in expected])
    assert problem == Unreadable(str(path), reason)


class FakeVideo:
    """A video of which the first three frames are read, then no more, whatever count it states."""

    def __init__(self, count: float) -> None:
        self.count = count
        self.reads = 0

    def isOpened(self) -> bool:
        return True

    def get(self, prop: int) -> float:
        return self.count if prop == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def grab(self) -> bool:
        self.reads += 1
        return self.reads <= 3

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, make_image()

    def release(self) -> None:
        pass


@pytest.mark.parametrize(("count", "most"), [(0.0, 200), (-1.0, 200), (5.0, 6), (2e9, 20_000), (1e300, 20_000)])
def test_no_count_makes_reading_endless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: float, most: int
) -> None:
    video = FakeVideo(count)
    monkeypatch.setattr("cv2.VideoCapture", lambda *args: video)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    frames = [item for item in open_source(tmp_path / "clip.mp4") if isinstance(item, Frame)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert video.reads <= most


def test_a_video_whose_name_does_not_decode(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 3).rename(os.fsdecode(os.fsencode(tmp_path) + b"/clip\xe9.mp4"))
    assert [item.index for item in open_source(path) if isinstance(item, Frame)] == [0, 1, 2]
    plain = write_image(tmp_path / "a.jpg").rename(os.fsdecode(os.fsencode(tmp_path) + b"/a\xe9"))
    (frame,) = open_source(plain)
    assert isinstance(frame, Frame) and not frame.is_video


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("media/bb.jpg", ["'media/bb.jpg' was not found", "/media/bb.jpg does not exist", "did you mean 'b.jpg'"]),
        ("medi/b.jpg", ["'.' holds no 'medi'", "did you mean 'media'"]),
        ("media/*.gif", ["glob pattern (matches nothing)"]),
        ("htp://host/a.jpg", ["'htp' is none of http https"]),
        ("/dev/null", ["/dev/null: expected a file or folder, found a device or a pipe; name a camera by its number"]),
        ("http://", ["source 'http://': expected a URL with a host"]),
        ("rtsp://me:secret@:99999/a.jpg", ["source 'rtsp://***@:99999/a.jpg': expected a URL with a host and a port"]),
        ("media/notes.md", ["media/notes.md", "suffix '.md'", ".jpg", ".mp4", ".txt"]),
        ("media/*.md", ["pattern 'media/*.md'", "expected images", "1 other"]),
        ("media/folder.jpg", ["folder 'media/folder.jpg'", "found it empty"]),
        ("x" * 5000, ["source 'xxx", "does not exist"]),
    ],
)
def test_wrong_source(media: Path, source: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:  # at the call, not at the first frame
        open_source(source)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_wrong_source_names_everything_tried(media: Path) -> None:
    with pytest.raises(UserError, match=r"file or folder .*, glob pattern .*, camera index .*, URL "):
        open_source("nothing")


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe\x00\xd8"])
def test_wrong_list_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"list\.txt: expected"):
        open_source(tmp_path / "list.txt")


def test_wrong_stride(media: Path) -> None:
    with pytest.raises(UserError, match="--vid-stride 0: expected 1 or more"):
        open_source(media, vid_stride=0)


@pytest.fixture
def server(media: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(media))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_urls(server: str, media: Path) -> None:
    (image,) = open_source(f"{server}/b.jpg?size=big")
    assert isinstance(image, Frame) and not image.is_video and image.image.shape == (96, 128, 3)
    clip = list(open_source(f"{server}/clip.mp4"))
    assert len(clip) == 5 and all(isinstance(frame, Frame) and frame.is_video for frame in clip)
    (gone,) = open_source(f"{server}/gone.mp4")
    assert isinstance(gone, Unreadable)
    write_image(media / "é b.jpg")
    (image,) = open_source(f"{server}/é b.jpg")
    assert isinstance(image, Frame)
