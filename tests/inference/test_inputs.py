"""Whatever is given as images becomes the same BGR pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.media.files import make_image, write_image, write_video
from yolorep.errors import UserError
from yolorep.inference.inputs import is_endless, is_single, open_input
from yolorep.media.frames import Frame, Unreadable

BGR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
RGB = np.ascontiguousarray(BGR[..., ::-1])
GREY = BGR[..., 0]
GREY_BGR = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = np.dstack([BGR, GREY])
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1)


def frames(source: Any, **options: Any) -> list[Frame]:
    items = list(open_input(source, **options))
    assert not any(isinstance(item, Unreadable) for item in items)
    return items  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("source", "colour", "expected"),
    [
        (BGR, "bgr", BGR),
        (RGB, "rgb", BGR),
        (RGB[..., ::-1], "bgr", BGR),
        (GREY, "bgr", GREY_BGR),
        (GREY, "rgb", GREY_BGR),
        (GREY[..., None], "bgr", GREY_BGR),
        (ALPHA, "bgr", BGR),
        (ALPHA[..., [2, 1, 0, 3]], "rgb", BGR),
        (TENSOR, "bgr", BGR),
        (TENSOR, "rgb", BGR),  # a tensor is RGB all the same
        (TENSOR / 255, "bgr", BGR),
        (TENSOR.double() / 255, "bgr", BGR),
        ((TENSOR / 255).half(), "bgr", BGR),
        (TENSOR.clone().float().div(255).requires_grad_(), "bgr", BGR),
        (Image.fromarray(RGB), "bgr", BGR),
        (Image.fromarray(RGB), "rgb", BGR),
    ],
)
def test_one_image(source: Any, colour: str, expected: np.ndarray) -> None:
    (frame,) = frames(source, colour=colour)
    np.testing.assert_array_equal(frame.image, expected)
    assert frame.image.dtype == np.uint8
    assert (frame.path, frame.index, frame.time, frame.is_video) == ("", 0, 0, False)
    assert is_single(source)


@pytest.mark.parametrize(
    ("mode", "make"),
    [
        ("L", lambda image: image.convert("L")),
        ("1", lambda image: image.convert("1")),
        ("RGBA", lambda image: image.convert("RGBA")),
        ("LA", lambda image: image.convert("LA")),
        ("P", lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE)),
        ("CMYK", lambda image: image.convert("CMYK")),
        ("I;16", lambda image: Image.fromarray(np.arange(54, dtype=np.uint16).reshape(6, 9) * 1000)),
        ("I", lambda image: Image.fromarray(np.arange(54, dtype=np.int32).reshape(6, 9) * 1000)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_pillow_image_is_its_file(
    tmp_path: Path, mode: str, make: Callable[[Image.Image], Image.Image], orientation: int
) -> None:
    image = make(Image.fromarray(RGB))
    assert image.mode == mode
    exif = Image.Exif()
    exif[274] = orientation
    if mode in ("CMYK", "I"):  # compressed: Pillow 13 gets an uncompressed one, mapped into memory, wrong
        path, options = tmp_path / "a.tif", {"compression": "tiff_lzw"}
    else:
        path, options = tmp_path / "a.png", {}
    image.save(path, exif=exif, **options)
    (expected,) = frames(path)
    assert expected.image.shape == ((6, 9, 3) if orientation == 1 else (9, 6, 3))
    with Image.open(path) as opened:
        (found,) = frames(opened)
    np.testing.assert_array_equal(found.image, expected.image)
    assert found.path == str(path)


def test_a_pillow_image_is_not_changed() -> None:
    image = Image.fromarray(RGB)
    image.getexif()[274] = 6
    (frame,) = frames(image)
    assert frame.image.shape == (9, 6, 3)
    assert image.size == (9, 6) and image.getexif()[274] == 6
    np.testing.assert_array_equal(np.asarray(image), RGB)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    write_image(tmp_path / "a.png", BGR)
    write_image(tmp_path / "b.png", BGR)
    write_video(tmp_path / "clip.mp4", 4, fps=10)
    return tmp_path


def test_files(media: Path) -> None:
    assert [(Path(frame.path).name, frame.index) for frame in frames(str(media))] == [
        ("a.png", 0), ("b.png", 1), *(("clip.mp4", i) for i in range(4)),
    ]  # fmt: skip
    assert len(frames(media / "*.png")) == 2
    assert [frame.time for frame in frames(media / "clip.mp4", vid_stride=2)] == pytest.approx([0, 0.2])


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_mixtures(media: Path, kind: Callable[[list[Any]], Any]) -> None:
    several = [
        BGR,
        media / "a.png",
        torch.stack([TENSOR, TENSOR]),
        Image.fromarray(RGB),
        [GREY, str(media / "clip.mp4")],
    ]
    found = frames(kind(several))
    assert [frame.index for frame in found] == [0, 1, 0, 1, 3, 0, 0, 1, 2, 3]
    for frame in found[:5]:
        np.testing.assert_array_equal(frame.image, BGR)
    assert not is_single(several) and len(frames(kind([]))) == 0


def test_a_batch_of_tensors_is_several_images() -> None:
    assert [frame.index for frame in frames(TENSOR.expand(3, -1, -1, -1))] == [0, 1, 2]
    assert not is_single(TENSOR[None])


def test_a_generator_is_not_read_ahead() -> None:
    taken = []

    def camera() -> Iterator[np.ndarray]:
        for i in range(10):
            taken.append(i)
            yield BGR

    items = open_input(camera())
    assert taken == []
    next(items)
    assert taken == [0]


def test_the_index_is_the_position(media: Path) -> None:
    (media / "ab.jpg").write_bytes(b"")
    (media / "list.txt").write_text("b.png\nmissing.png\na.png\n")
    for source, expected in (
        ([media / "a.png", media / "b.png", BGR], [0, 1, 2]),
        (media / "*.png", [0, 1]),
        (media / "list.txt", [0, 2]),
        (media, [0, 2, 0, 1, 2, 3]),  # images, then the frames of a video
        (media / "b.png", [0]),
    ):
        assert [item.index for item in open_input(source) if isinstance(item, Frame)] == expected


@pytest.mark.parametrize(
    ("several", "found"),
    [
        (lambda media: [BGR, BGR], "list"),
        (lambda media: iter([BGR]), "list_iterator"),
        (lambda media: TENSOR[None], "Tensor"),
        (lambda media: media, ".+"),
        (lambda media: str(media / "clip.mp4"), ".+clip.mp4"),
        (lambda media: media / "*.png", ".+"),
    ],
)
def test_an_item_is_one_image(media: Path, several: Callable[[Path], Any], found: str) -> None:
    items = open_input([BGR, several(media)], nested=False)
    assert isinstance(next(items), Frame)
    with pytest.raises(UserError, match=f"^item 1: expected one image an item, found {found}; pass it alone, or use"):
        next(items)
    assert len(frames([media / "a.png", BGR, TENSOR, Image.fromarray(RGB)], nested=False)) == 4
    with pytest.raises(UserError, match="source 'gone.png' was not found"):
        list(open_input(["gone.png"], nested=False))


def test_colours_of_a_list() -> None:
    for frame in frames([RGB, RGB], colour="rgb"):
        np.testing.assert_array_equal(frame.image, BGR)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((8, 8, 3)), r"expected a uint8 array \(height, width\), grey, .* got \(8, 8, 3\) float64$"),
        (np.zeros((8, 8, 2), np.uint8), r"\(height, width, 3 or 4\), BGR or BGRA, got \(8, 8, 2\) uint8$"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"got \(2, 8, 8, 3\) uint8$"),
        (np.zeros((0, 8, 3), np.uint8), r"got \(0, 8, 3\) uint8$"),
        (np.zeros(8, np.uint8), r"got \(8,\) uint8$"),
        (torch.zeros(8, 8), r"expected an RGB tensor \(3, height, width\) or .* got \(8, 8\) torch.float32$"),
        (torch.zeros(8, 8, 3), r"got \(8, 8, 3\) torch.float32$"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"got \(3, 8, 8\) torch.int64$"),
        (torch.zeros(0, 3, 8, 8), r"got \(0, 3, 8, 8\) torch.float32$"),
        (
            torch.full((3, 8, 8), 255.0),
            "tensor of floats from 0 to 1, got 255 to 255; divide pixels by 255$",
        ),
        (torch.full((3, 8, 8), -0.5), "floats from 0 to 1, got -0.5 to -0.5"),
        (torch.full((3, 8, 8), torch.nan), "floats from 0 to 1, got nan"),
        (None, "expected a path, folder, .* or an iterable of these, got NoneType$"),
        (3.5, "got float$"),
        (b"bytes", "got bytes$"),
        ({"a": BGR}, "got dict$"),
        (True, "got bool$"),
        (Image.new("RGB", (0, 5)), "expected a Pillow image .*, found one that is without pixels, 0x5$"),
        ([BGR, None], "got NoneType$"),
        ("gone.jpg", "source 'gone.jpg' was not found"),
    ],
)
def test_wrong_inputs(source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(open_input(source))
    assert "\n" not in str(caught.value)


def test_wrong_colour() -> None:
    with pytest.raises(UserError, match="colour: expected 'bgr' or 'rgb', got 'RGB'"):
        open_input(BGR, colour="RGB")


def test_a_pillow_image_that_cannot_be_loaded(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", make_image(400, 400))
    path.write_bytes(path.read_bytes()[:800])
    with Image.open(path) as image, pytest.raises(UserError, match="Pillow image that can be loaded, .* truncated"):
        open_input(image)


@pytest.mark.parametrize(
    ("source", "endless"),
    [("0", True), (0, True), ("rtsp://host/a", True), ("a.mp4", False), (Path("a.mp4"), False), ([0], False)],
)
def test_what_has_no_end(source: Any, endless: bool) -> None:
    assert is_endless(source) is endless
