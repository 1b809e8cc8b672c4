from __future__ import annotations

import itertools

import numpy as np
import pytest

from yolorep.detections import Detections
from yolorep.drawing import class_colour, draw, text_colour

NAMES = ("person", "Fußgänger")


def found(*boxes: tuple[float, float, float, float], class_id: int = 0) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.3, len(boxes), dtype=np.float32),
        np.full(len(boxes), class_id, np.int64),
    )


def canvas(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 30, np.uint8)


def test_input_is_not_changed() -> None:
    image = canvas()
    image.setflags(write=False)
    drawn = draw(image, found((20, 40, 90, 100)), NAMES)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 30).all() and (drawn != 30).any()


def test_nothing_found_nothing_drawn() -> None:
    np.testing.assert_array_equal(draw(canvas(), Detections.empty(), NAMES), canvas())


def test_line_thickness() -> None:
    inked = [
        (draw(canvas(), found((40, 40, 120, 100)), NAMES, line_thickness=line, hide_labels=True) != 30).any(-1).sum()
        for line in (1, 2, 4)
    ]
    assert inked[0] == pytest.approx(280, abs=8) and inked[0] < inked[1] < inked[2]


def test_thickness_follows_image_size() -> None:
    def column(size: int) -> int:
        drawn = draw(canvas(size, size), found((size / 4, size / 4, size / 2, size / 2)), NAMES, hide_labels=True)
        return int((drawn[size * 3 // 8, : size * 3 // 8] != 30).any(-1).sum())

    assert column(100) <= 2 < column(1600)


def test_hide_conf_and_labels() -> None:
    box = found((20, 50, 120, 100))
    both, name, nothing = (
        (draw(canvas(), box, NAMES, **flags) != 30).any(-1).sum()
        for flags in ({}, {"hide_conf": True}, {"hide_labels": True})
    )
    assert both > name > nothing


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 30, 30),
        (140, 60, 160, 80),
        (150, 0, 160, 10),
        (0, 110, 20, 120),
        (-50, -50, 300, 300),
        (159, 119, 160, 120),
    ],
)
def test_label_stays_inside(box: tuple[float, float, float, float]) -> None:
    # As many label pixels as in the middle of the image: nothing is cut off.
    def label(box: tuple[float, float, float, float]) -> int:
        with_label = draw(canvas(), found(box), NAMES, line_thickness=1)
        without = draw(canvas(), found(box), NAMES, line_thickness=1, hide_labels=True)
        colour = np.array(class_colour(0))
        return int(((with_label == colour).all(-1) & ~(without == colour).all(-1)).sum())

    assert label(box) >= 0.85 * label((40, 60, 120, 100))  # but for the pixels that cover a line


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5)])
def test_images_smaller_than_a_label(size: tuple[int, int]) -> None:
    assert draw(canvas(*size), found((0, 0, 4, 4)), NAMES).shape == (*size, 3)


def test_class_without_a_name() -> None:
    assert (draw(canvas(), found((20, 50, 120, 100), class_id=7), NAMES) != 30).any()


def test_best_box_is_on_top() -> None:
    boxes = Detections(
        np.array([[20, 20, 100, 100]] * 2, np.float32), np.array([0.9, 0.4], np.float32), np.array([1, 0], np.int64)
    )
    drawn = draw(canvas(), boxes, NAMES, hide_labels=True)
    np.testing.assert_array_equal(drawn[60, 20], class_colour(1))


def test_colours_are_distinct_and_fixed() -> None:
    colours = [class_colour(i) for i in range(80)]
    assert len(set(colours)) == 80
    assert colours == [class_colour(i) for i in range(80)]
    first = np.array(colours[:12], float)
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(first, 2)) > 40


@pytest.mark.parametrize("class_id", range(91))
def test_text_is_readable(class_id: int) -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        value = np.array(colour[::-1]) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    background = class_colour(class_id)
    light, dark = sorted((luminance(background), luminance(text_colour(background))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


def test_names_beyond_ascii_are_drawn() -> None:
    wide, narrow = (draw(canvas(), found((20, 50, 150, 100)), (name,), hide_conf=True) for name in ("Fußgänger", "F"))
    assert (wide != narrow).any()
