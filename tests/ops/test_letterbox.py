"""Letterbox geometry: shapes as YOLOv5's, boxes there and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolorep.ops.letterbox import BORDER, LetterBox, Size, rect_shape, round_up


@pytest.mark.parametrize(
    ("source", "size", "stride", "pad", "expected"),
    [
        ((640, 640), 640, 32, 0.5, (672, 672)),  # the half stride makes a square larger
        ((480, 640), 640, 32, 0.5, (512, 672)),
        ((480, 640), 640, 32, 0.0, (480, 640)),
        ((427, 640), 640, 32, 0.0, (448, 640)),
        ((640, 427), 640, 32, 0.5, (672, 448)),
        ((272, 640), 640, 32, 0.0, (288, 640)),
        ((1080, 1920), 640, 64, 0.0, (384, 640)),
        ((10, 1000), 640, 32, 0.0, (32, 640)),
        ((1, 10**9), 32, 64, 0.0, (64, 64)),
        ((480, 640), (640, 640), 32, 0.5, (512, 672)),  # a square is one number
        ((480, 640), (480, 640), 32, 0.0, (480, 640)),
        ((640, 480), (480, 640), 32, 0.0, (480, 384)),
        ((640, 480), (480, 640), 32, 0.5, (512, 384)),
        ((1000, 2000), (96, 320), 32, 0.0, (96, 192)),
    ],
)
def test_rectangles(source: tuple[int, int], size: Size, stride: int, pad: float, expected: tuple[int, int]) -> None:
    assert rect_shape(source, size, stride, pad=pad) == expected


@pytest.mark.parametrize(("size", "expected"), [(640, 640), (641, 672), (1, 32)])
def test_round_up(size: int, expected: int) -> None:
    assert round_up(size, 32) == expected


side = st.integers(1, 2000)


@given(side, side, st.sampled_from([320, 416, 640]), st.integers(0, 2**32 - 1))
def test_boxes_come_back(height: int, width: int, size: int, seed: int) -> None:
    box = LetterBox.plan((height, width), rect_shape((height, width), size, 32))
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (5, 2, 2)), axis=1).reshape(5, 4) * [width, height, width, height]
    corners = corners.astype(np.float32)
    inside = box.boxes(corners)
    assert (inside >= -0.01).all() and (inside[:, ::2] <= box.target[1] + 0.51).all()
    np.testing.assert_allclose(box.undo(inside), corners, atol=0.02 * max(1, max(height, width) / size))


def test_undo_clips_to_the_image() -> None:
    box = LetterBox.plan((100, 200), (64, 64))
    assert box.undo(np.array([[-50, -50, 500, 500]], np.float32)).tolist() == [[0, 0, 200, 100]]


def test_image_lands_where_boxes_say() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 40:120] = 255
    box = LetterBox.plan((100, 200), (320, 320))
    out = box.apply(image)
    assert out.shape == (320, 320, 3) and (out[0] == BORDER).all()
    x1, y1, x2, y2 = box.boxes(np.array([[40, 20, 120, 60]], np.float32))[0].round().astype(int)
    assert (out[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] == 255).all()
    assert out[y1 - 3, (x1 + x2) // 2].max() < 128


@pytest.mark.parametrize(("height", "top"), [(90, 2), (91, 2), (92, 2), (93, 1)])
def test_odd_border_goes_below(height: int, top: int) -> None:
    """Of a border of an odd number of rows the larger half is at the bottom."""
    box = LetterBox.plan((height, 96), (96, 96))
    assert box.top == round((96 - height) / 2 - 0.1) and box.top <= 96 - height - box.top
    assert abs(box.top - top) <= 1


def test_image_size_limits_growth() -> None:
    assert LetterBox.plan((640, 640), (672, 672)).resized == (672, 672)
    assert LetterBox.plan((640, 640), (672, 672), image_size=640).resized == (640, 640)


def test_shrinking_may_average() -> None:
    image = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    image = np.repeat(image[..., None], 3, axis=2).astype(np.uint8)
    out = LetterBox.plan((64, 64), (16, 16)).apply(image, shrink=cv2.INTER_AREA)
    assert abs(int(out.mean()) - 127) <= 1
