from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolorep.data.labels import label_path, read_yolo_labels
from yolorep.errors import UserError


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/d/images/a.b.PNG", "/d/labels/a.b.txt"),
        ("/images/x/images/a.jpg", "/images/x/labels/a.txt"),
        ("/images/x/my_images/a.jpg", "/labels/x/my_images/a.txt"),
        ("/d/photos/a.jpg", "/d/photos/a.txt"),
        ("/d/images.jpg", "/d/images.txt"),
    ],
)
def test_label_path(image: str, label: str) -> None:
    assert Path(label_path(image)) == Path(label)


def read(tmp_path: Path, text: str, num_classes: int | None = 3):
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode())
    return read_yolo_labels(path, num_classes)


@pytest.mark.parametrize(
    ("text", "boxes", "duplicates", "empty"),
    [
        ("", [], 0, 0),
        ("\n  \n", [], 0, 0),
        ("1 0.5 0.5 0.2 0.4\n", [[1, 0.5, 0.5, 0.2, 0.4]], 0, 0),
        ("\ufeff1 .5\t.5 .2 .4", [[1, 0.5, 0.5, 0.2, 0.4]], 0, 0),
        ("2.0 0.5 0.5 1 1\r\n", [[2, 0.5, 0.5, 1, 1]], 0, 0),
        # Duplicates go, the order of the others stays.
        ("2 .5 .5 .1 .1\n1 .5 .5 .1 .1\n2 .5 .5 .1 .1", [[2, 0.5, 0.5, 0.1, 0.1], [1, 0.5, 0.5, 0.1, 0.1]], 1, 0),
        ("1 .5 .5 .1 0\n0 .5 .5 0.2 0.2", [[0, 0.5, 0.5, 0.2, 0.2]], 0, 1),
        # Written with few digits.
        ("0 1.00001 0.5 0.2 0.2", [[0, 1.0, 0.5, 0.2, 0.2]], 0, 0),
        # A polygon counts as its bounding box; rows of both kinds may be mixed.
        ("0 .2 .2 .6 .3 .4 .8\n1 .5 .5 .1 .1", [[0, 0.4, 0.5, 0.4, 0.6], [1, 0.5, 0.5, 0.1, 0.1]], 0, 0),
    ],
)
def test_reads_rows(text: str, boxes: list[list[float]], duplicates: int, empty: int, tmp_path: Path) -> None:
    labels = read(tmp_path, text)
    np.testing.assert_allclose(labels.boxes, np.array(boxes).reshape(-1, 5), atol=1e-12)
    assert (labels.duplicates, labels.empty) == (duplicates, empty)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 .5 .5 .1 .1\n0 0.5 0.5 1.2 0.1", r"line 2: expected coordinates normalized to 0\.\.1.*found 1\.2$"),
        ("0 -0.1 0.5 0.2 0.1", r"line 1: .*found -0\.1$"),
        ("0 320 240 100 50", r"found 320, 240, 100, 50$"),
        ("3 .5 .5 .1 .1", r"line 1: expected a class id below 3 .*found 3;.*nc/names"),
        ("-1 .5 .5 .1 .1", r"expected a class id 0, 1, 2, …, found -1"),
        ("1.5 .5 .5 .1 .1", r"found 1\.5"),
        ("car .5 .5 .1 .1", r"expected numbers .*found 'car \.5 \.5 \.1 \.1'"),
        ("0 .5 nan .1 .1", r"expected numbers"),
        ("0 .5 .5 inf .1", r"expected numbers"),
        ("0 .5 .5 .1", r"expected 5 columns .*found 4 columns"),
        ("0 .5 .5 .1 .1 .9", r"found 6 columns"),
        ("0 .5 .5 .1 .1 .9 .9 .9", r"found 8 columns"),
        ("0,.5,.5,.1,.1", r"expected numbers"),
    ],
)
def test_wrong_rows(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, text)
    assert str(tmp_path / "x.txt") in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_means_no_objects(tmp_path: Path) -> None:
    assert read_yolo_labels(tmp_path / "none.txt", 3).boxes.shape == (0, 5)


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\0\x01")
    with pytest.raises(UserError, match="expected a text file"):
        read_yolo_labels(tmp_path / "x.txt")


unit = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.tuples(unit, unit), min_size=3, max_size=8))
def test_polygon_box_holds_every_corner(corners: list[tuple[float, float]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.txt"
        path.write_text("0 " + " ".join(f"{x!r} {y!r}" for x, y in corners))
        boxes = read_yolo_labels(path).boxes
    xs, ys = zip(*corners, strict=True)
    if not len(boxes):
        assert max(xs) == min(xs) or max(ys) == min(ys)
        return
    (_, x, y, w, h) = boxes[0]
    np.testing.assert_allclose(
        [x - w / 2, y - h / 2, x + w / 2, y + h / 2], [min(xs), min(ys), max(xs), max(ys)], atol=1e-12
    )
