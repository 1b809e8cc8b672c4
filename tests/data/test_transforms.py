from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.toy import smooth_image
from yolorep.config import Hyp
from yolorep.data import transforms

STILL = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0, "perspective": 0.0}
WILD = {"degrees": 40.0, "translate": 0.3, "scale": 0.5, "shear": 10.0, "perspective": 0.0005}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


unit = st.floats(0.015625, 0.984375, width=32)


@given(st.lists(st.tuples(unit, unit, unit, unit), max_size=5), st.tuples(st.integers(1, 2000), st.integers(1, 2000)))
def test_pixels_and_back(rows: list[tuple[float, ...]], shape: tuple[int, int]) -> None:
    labels = np.array([(3, *row) for row in rows], np.float32).reshape(-1, 5)
    again = transforms.to_normalized(transforms.to_pixels(labels, shape), shape)
    np.testing.assert_allclose(again, labels, atol=2e-6)


def test_pixels_on_a_canvas() -> None:
    labels = np.array([[2, 0.5, 0.25, 0.2, 0.5]], np.float32)
    np.testing.assert_allclose(transforms.to_pixels(labels, (40, 100), 7, -3), [[2, 47, -3, 67, 17]], atol=1e-4)


def test_matrix_parts_against_opencv() -> None:
    """Rotation and scale about the centre, then the shift, are what cv2 builds from the same numbers."""
    hyp = Hyp(**{**STILL, "degrees": 30.0, "scale": 0.5})
    matrix, scale = transforms.affine_matrix(rng(5), hyp, source=(80, 120), target=(60, 90))
    again = rng(5)
    degrees, expected_scale = again.uniform(-30, 30), again.uniform(0.5, 1.5)
    expected = cv2.getRotationMatrix2D((60, 40), degrees, expected_scale)
    expected[:, 2] += (45 - 60, 30 - 40)
    assert scale == pytest.approx(expected_scale)
    np.testing.assert_allclose(matrix[:2], expected, atol=1e-9)
    np.testing.assert_array_equal(matrix[2], [0, 0, 1])


@pytest.mark.parametrize("seed", range(20))
def test_draws_stay_in_their_ranges(seed: int) -> None:
    hyp = Hyp(translate=0.1, scale=0.9)
    matrix, scale = transforms.affine_matrix(rng(seed), hyp, source=(100, 100), target=(50, 200))
    assert 0.1 <= scale <= 1.9
    centre = matrix @ (50, 50, 1)
    assert 80 <= centre[0] <= 120
    assert 20 <= centre[1] <= 30


def test_no_augmentation_is_the_identity() -> None:
    image, label = smooth_image(64, 64), np.array([[1, 0.5, 0.5, 0.5, 0.5]], np.float32)
    result, boxes = transforms.letterbox_affine(image, label, rng(), Hyp(**STILL), target=(64, 64))
    np.testing.assert_array_equal(result, image)
    np.testing.assert_allclose(boxes, [[1, 16, 16, 48, 48]], atol=1e-5)


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([10, 10, 30, 30], [10, 10, 30, 30]),
        ([-10, -10, 30, 30], [0, 0, 30, 30]),
        ([-96, 10, 10, 20], None),  # less than a tenth is left
        ([-80, 10, 10, 20], [0, 10, 10, 20]),
        ([200, 10, 210, 20], None),
        ([10, 10, 11.9, 30], None),  # too narrow
        ([10, 10, 12.1, 30], [10, 10, 12.1, 30]),
        ([5, 5, 5, 5], None),
    ],
)
def test_which_boxes_are_kept(box: list[float], kept: list[float] | None) -> None:
    boxes = np.array([[4, *box]], np.float32)
    result = transforms.warp_boxes(boxes, np.eye(3), 1.0, (100, 100))
    expected = np.zeros((0, 5)) if kept is None else [[4, *kept]]
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert result.dtype == np.float32


def test_extreme_aspect_is_dropped() -> None:
    boxes = np.array([[0, 0, 10, 300, 12.5], [0, 0, 10, 300, 13.5]], np.float32)
    result = transforms.warp_boxes(boxes, np.eye(3), 1.0, (100, 400))
    np.testing.assert_allclose(result, boxes[1:], atol=1e-5)


def test_area_is_compared_at_the_same_scale() -> None:
    """Shrinking a box does not count as losing area."""
    matrix = np.diag([0.2, 0.2, 1])
    assert len(transforms.warp_boxes(np.array([[0, 10, 10, 60, 60]], np.float32), matrix, 0.2, (100, 100))) == 1


@pytest.mark.parametrize("function", [transforms.warp_boxes])
def test_no_boxes(function) -> None:
    assert function(np.zeros((0, 5), np.float32), np.eye(3), 1.0, (9, 9)).shape == (0, 5)


SHAPES = [(48, 64), (64, 40), (30, 64), (64, 64)]


def four(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    images = [smooth_image(*shape, seed=seed * 4 + number) for number, shape in enumerate(SHAPES)]
    labels = [np.array([[number, 0.5, 0.5, 0.5, 0.4]], np.float32) for number in range(4)]
    return images, labels


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("wild", [False, True])
def test_mosaic_equals_the_whole_canvas(seed: int, wild: bool) -> None:
    """Painting only what is seen changes nothing: compared with a full canvas, written the long way."""
    hyp, size = Hyp(**WILD) if wild else Hyp(), 64
    images, labels = four(seed)
    loaded = []
    image, boxes = transforms.mosaic(
        lambda number: loaded.append(number) or images[number], SHAPES, labels, rng(seed), hyp, image_size=size
    )

    again = rng(seed)
    x, y = again.uniform(size / 2, 1.5 * size, 2).astype(int)
    matrix, scale = transforms.affine_matrix(again, hyp, source=(2 * size, 2 * size), target=(size, size))
    canvas = np.full((4 * size, 4 * size, 3), 114, np.uint8)  # with room on all sides
    corners = []
    for number, (height, width) in enumerate(SHAPES):
        left, top = (x - width if number in (0, 2) else x), (y - height if number in (0, 1) else y)
        canvas[size + top : size + top + height, size + left : size + left + width] = images[number]
        corners.append([number, left + width / 4, top + height * 0.3, left + width * 0.75, top + height * 0.7])
    expected = transforms.warp(canvas[size : 3 * size, size : 3 * size], matrix, (size, size))
    # The interpolation works in 1/32 pixels, so a shifted origin may round differently.
    difference = np.abs(image.astype(int) - expected)
    assert difference.mean() < 0.6
    assert np.percentile(difference, 99) <= 10
    clipped = np.array(corners, np.float32)
    clipped[:, 1:] = clipped[:, 1:].clip(0, 2 * size)
    np.testing.assert_allclose(boxes, transforms.warp_boxes(clipped, matrix, scale, (size, size)), atol=1e-3)
    assert len(loaded) == len(set(loaded))


def test_mosaic_does_not_load_what_is_not_seen() -> None:
    images, labels = four()
    loads = []
    for seed in range(200):
        seen: list[int] = []
        transforms.mosaic(
            lambda number, seen=seen: seen.append(number) or images[number],
            SHAPES,
            labels,
            rng(seed),
            Hyp(),
            image_size=64,
        )
        loads.append(len(seen))
    assert set(loads) <= {1, 2, 3, 4}
    assert np.mean(loads) < 3.9


@pytest.mark.parametrize("hyp", [Hyp(scale=0.3, translate=0.2), Hyp(**WILD)], ids=["default", "wild"])
@pytest.mark.parametrize("kind", ["mosaic", "letterbox"])
def test_boxes_follow_the_pixels(kind: str, hyp: Hyp) -> None:
    """A white rectangle on black stays inside its box, and unless the map turns it, fills it."""
    size, checked = 128, 0
    for seed in range(30):
        images, labels = [], []
        for number, (height, width) in enumerate(SHAPES):
            height, width = 2 * height, 2 * width
            image = np.zeros((height, width, 3), np.uint8)
            if number == seed % 4:
                image[round(height * 0.3) : round(height * 0.7), round(width * 0.25) : round(width * 0.75)] = 255
                labels.append(np.array([[0, 0.5, 0.5, 0.5, 0.4]], np.float32))
            else:
                labels.append(np.zeros((0, 5), np.float32))
            images.append(image)
        if kind == "mosaic":
            shapes = [image.shape[:2] for image in images]
            result, boxes = transforms.mosaic(
                lambda number, images=images: images[number], shapes, labels, rng(seed), hyp, image_size=size
            )
        else:
            number = seed % 4
            result, boxes = transforms.letterbox_affine(
                images[number], labels[number], rng(seed), hyp, target=(size, size)
            )
        if not len(boxes):
            continue
        white = (result > 200).all(axis=2)
        x, y, width, height = cv2.boundingRect(white.astype(np.uint8))
        _, x1, y1, x2, y2 = boxes[0]
        assert x >= x1 - 1.5 and y >= y1 - 1.5 and x + width <= x2 + 1.5 and y + height <= y2 + 1.5
        if not hyp.degrees:
            np.testing.assert_allclose([x1, y1, x2, y2], [x, y, x + width, y + height], atol=2.5)
        checked += 1
    assert checked > 8


def test_warp_fills_with_grey() -> None:
    moved = transforms.warp(smooth_image(20, 20), np.array([[1.0, 0, 15], [0, 1, 0], [0, 0, 1]]), (20, 20))
    assert (moved[:, :14] == 114).all()


@pytest.mark.parametrize("seed", range(4))
def test_hsv_against_the_plain_form(seed: int) -> None:
    image, hyp = smooth_image(30, 40, seed=seed), Hyp(hsv_h=0.1, hsv_s=0.7, hsv_v=0.4)
    gains = rng(seed).uniform(-1, 1, 3) * (0.1, 0.7, 0.4) + 1
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(float)
    hsv[..., 0] = (hsv[..., 0] * gains[0]) % 180
    hsv[..., 1:] = (hsv[..., 1:] * gains[1:]).clip(0, 255)
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)
    before = image.copy()
    np.testing.assert_array_equal(transforms.random_hsv(image, rng(seed), hyp), expected)
    np.testing.assert_array_equal(image, before)


def test_hsv_off_changes_nothing() -> None:
    image = smooth_image(9, 9)
    assert transforms.random_hsv(image, rng(), Hyp(hsv_h=0, hsv_s=0, hsv_v=0)) is image


@pytest.mark.parametrize(("flipud", "fliplr"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_flips(flipud: float, fliplr: float) -> None:
    image, boxes = np.zeros((20, 30, 3), np.uint8), np.array([[5, 3, 2, 10, 6]], np.float32)
    image[2:6, 3:10] = 255
    kept = boxes.copy()
    result, moved = transforms.random_flips(image, boxes, rng(), Hyp(flipud=flipud, fliplr=fliplr))
    x, y, width, height = cv2.boundingRect(result[..., 0])
    np.testing.assert_array_equal(moved, [[5, x, y, x + width, y + height]])
    assert ((x, y) != (3, 2)) == bool(flipud or fliplr)
    np.testing.assert_array_equal(boxes, kept)


def test_flip_probability() -> None:
    image, boxes = np.zeros((2, 2, 3), np.uint8), np.array([[0, 0, 0, 1, 1]], np.float32)
    flipped = [transforms.random_flips(image, boxes, rng(seed), Hyp(fliplr=0.3))[1][0, 1] > 0 for seed in range(400)]
    assert 0.2 < np.mean(flipped) < 0.4


def test_mixup_blends_about_half() -> None:
    dark, light = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)
    means = [transforms.mixup(dark, light, rng(seed)).mean() for seed in range(50)]
    assert 60 < min(means) < 95 < 105 < max(means) < 140
