from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.toy import SIZES, load, write_yaml, write_yolo
from yolorep.config import Hyp
from yolorep.data.dataset import DetectionDataset
from yolorep.data.loader import train_loader
from yolorep.data.readers.yolo import label_path, read_yolo_labels
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


def test_reads_sizes_boxes_and_backgrounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = load(write_yolo(tmp_path))
    assert annotations.sizes.tolist() == [list(size) for size in SIZES]
    assert [len(annotations.labels(index)) for index in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert annotations.names == ("a", "b", "c")
    assert annotations.category_ids == (0, 1, 2)
    row = (tmp_path / "labels/train/001.txt").read_text().split()
    np.testing.assert_allclose(annotations.labels(1)[0], np.array(row, np.float32), atol=1e-6)
    assert "8 images, 12 boxes; 2 without a label file" in capsys.readouterr().out


def test_wrong_labels_name_file_and_line(tmp_path: Path, cache: Path) -> None:
    yaml = write_yolo(tmp_path)
    for name in ("001", "002"):
        (tmp_path / f"labels/train/{name}.txt").write_text("0 .5 .5 .1 .1\n0 5 5 1 1\n")
    with pytest.raises(UserError, match=r"001\.txt, line 2: expected coord.*\(and 1 more label files with faults\)"):
        load(yaml)
    assert not list(cache.rglob("*.npz"))


@pytest.mark.parametrize("warm", [False, True])
def test_class_id_too_large(warm: bool, tmp_path: Path) -> None:
    """Also when the labels were cached while the data set had more classes."""
    yaml = write_yolo(tmp_path)
    (tmp_path / "labels/train/002.txt").write_text("1 .5 .5 .1 .1\n2 .5 .5 .2 .2\n")
    for name in ("001", "003", "005", "006", "007"):
        (tmp_path / f"labels/train/{name}.txt").write_text("0 .5 .5 .1 .1\n")
    if warm:
        load(yaml)
    yaml = write_yaml(tmp_path, "train: images/train\nnames: [a, b]\n")
    with pytest.raises(UserError, match=r"002\.txt, line 2: expected a class id below 2 .*found 2"):
        load(yaml)


def test_nothing_labelled_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path)
    shutil.rmtree(tmp_path / "labels")
    dataset = DetectionDataset(load(yaml), image_size=32)
    assert f"expected for example {tmp_path}/labels/train/000.txt" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected labelled objects to train on, found none in 8 images"):
        train_loader(dataset, Hyp(), batch_size=2)


def test_ground_truth_of_text_labels(tmp_path: Path) -> None:
    root = tmp_path
    write_yolo(root, count=2)
    (root / "labels/train/001.txt").write_text("2 0.5 0.5 0.5 0.25\n0 0.9 0.5 0.4 0.1\n")
    truth = load(root / "data.yaml").ground_truth()
    assert [(image["id"], image["height"], image["width"]) for image in truth["images"]] == [(0, 40, 60), (1, 60, 40)]
    assert truth["categories"] == [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 2, "name": "c"}]
    first, second = truth["annotations"]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "bbox": pytest.approx([10, 22.5, 20, 15]),
        "area": pytest.approx(300),
        "iscrowd": 0,
    }
    # Not clipped for scoring, clipped for training.
    assert second["bbox"] == pytest.approx([28, 27, 16, 6])
    np.testing.assert_allclose(load(root / "data.yaml").labels(1)[1], [0, 0.85, 0.5, 0.3, 0.1], atol=1e-6)
