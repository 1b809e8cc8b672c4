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
        ("1_0 .5 .5 .1 .1", r"expected numbers"),
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


@pytest.mark.parametrize(
    ("text", "box"),
    [
        # Half a pixel more than the image.
        ("0 0.3040 0.5003 0.6080 1.0004", [0, 0.304, 0.5003, 0.608, 1.0]),
        ("0 -0.01 1.01 0.2 0.2", [0, 0.0, 1.0, 0.2, 0.2]),
        # Corners of turned boxes leave the image by nature.
        ("0 0.2 0.9 0.5 0.8 0.6 1.03 0.3 1.1", [0, 0.4, 0.9, 0.4, 0.2]),
        ("0 -0.1 0.5 0.5 0.4 0.5 0.6 0.4 0.6", [0, 0.25, 0.5, 0.5, 0.2]),
        ("0 -0.01 0.5 0.5 0.4 0.5 0.6", [0, 0.25, 0.5, 0.5, 0.2]),
    ],
)
def test_a_little_outside_is_clipped_and_counted(
    text: str, box: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = read(tmp_path, text)
    np.testing.assert_allclose(labels.boxes, [box], atol=1e-12)
    assert labels.clipped == 1
    yaml = write_yolo(tmp_path, count=1)
    (tmp_path / "labels/train/000.txt").write_text(f"0 .5 .5 1 1\n{text}\n")
    load(yaml)
    assert "; 1 row a little outside the image clipped; in " in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["0 0.5 0.5 1.011 0.1", "0 -0.011 .5 .1 .1", "0 .2 .9 .5 .8 .6 1.11 .3 .9", "0 .2 .9 .5 .8 .6 1.03"]
)
def test_more_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"x\.txt, line 1: expected coordinates normalized to 0\.\.1.*found -?[01]\.\d+$"
    ):
        read(tmp_path, text)


#: A box, and the four corners of a licence plate in it.
PLATE = "0.208398 0.405289 0.118403 0.186256 0.2125 0.477778 0.233854 0.471296 0.166146 0.449074 0.186458 0.444444"
#: A box with three points, one of them not labelled.
FACE = "0.5 0.5 0.4 0.4 0.5 0.5 2 0.6 0.6 1 0 0 0"


#: A face of WIDER FACE of which no point is labelled.
WIDER = "0.5 0.5 0.1 0.1" + " -1.0" * 10


@pytest.mark.parametrize(
    ("row", "shape"), [(PLATE, (4, 2)), (FACE, (3, 3)), (f"{FACE} 0.5 0.4 1", (4, 3)), ("0.5 0.5 0.4 0.4 7 -7", (1, 2))]
)
def test_key_points_are_left_out(
    row: str, shape: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path, count=2)
    (tmp_path / "labels/train/000.txt").write_text(f"1 {row}\n2 .5 .5 .1 .1\n")
    (tmp_path / "labels/train/001.txt").write_text(f"0 {row}\n")
    yaml.write_text(yaml.read_text() + f"kpt_shape: {list(shape)}\n")
    annotations = load(yaml)
    np.testing.assert_allclose(annotations.labels(0)[0], [1, *map(float, row.split()[:4])], atol=1e-6)
    assert len(annotations.boxes) == 3
    out = capsys.readouterr().out
    assert "; 2 rows with key points, of which only the box is used; in " in out
    assert out.count("\n") == 1


@pytest.mark.parametrize("row", [f"{PLATE} 0.5 0.5", "0.1 0.1 0.4 0.1 0.4 0.4", "0.5 0.5 0.4"])
def test_rows_of_another_number_of_key_points(row: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(f"0 .5 .5 .1 .1\n0 {row}\n")
    with pytest.raises(UserError, match=r"x\.txt, line 2: expected 5 columns, or 13 with the key points"):
        read_yolo_labels(tmp_path / "x.txt", kpt_shape=(4, 2))


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (FACE, r"\[3, 3\]"),
        (f"{FACE} 0.5 0.4 2", r"\[4, 3\]"),
        ("0.5 0.5 0.4 0.4 0.5 0.5 1", r"\[1, 3\]"),
        (WIDER, r"\[5, 2\]"),
    ],
)
def test_key_points_that_no_polygon_fits_are_refused_by_name(row: str, shape: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"x\.txt, line 1: .*\(key points need 'kpt_shape: {shape}' in the data YAML\)"
    ):
        read(tmp_path, f"0 {row}")


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ([f"0 {PLATE}", f"1 {PLATE}\n0 .5 .5 .1 .1"], "[4, 2]"),
        (["0 0.5 0.5 0.4 0.4 0.5 0.5 1 0.6 0.6 1", ""], "[2, 3]"),
        (["0 0.5 0.5 0.4 0.4 0.5 0.5 0.93 0.6 0.6 0.88", ""], "[2, 3]"),  # as a model writes them
        ([f"0 {PLATE}", "0 .2 .2 .6 .3 .4 .8"], ""),  # one row that is no box with points
        ([f"0 {PLATE}", f"0 {PLATE} 0.2 0.4"], ""),  # not as many points in each
        (["0 .2 .2 .6 .3 .4 .8", "1 .1 .1 .2 .1 .2 .8"], ""),
        (["0 .5 .5 .1 .1", ""], ""),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_asks_whether_kpt_shape_is_missing(
    rows: list[str], asked: str, warm: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path, count=2)
    for number, row in enumerate(rows):
        (tmp_path / f"labels/train/00{number}.txt").write_text(row)
    if warm:
        load(yaml)
        capsys.readouterr()
    load(yaml)
    lines = [line for line in capsys.readouterr().out.splitlines() if "missing in the data YAML?" in line]
    assert len(lines) == bool(asked)
    assert not asked or f"is 'kpt_shape: {asked}' missing" in lines[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_labels_in_other_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("1 .5 .5 .2 .4\r\n".encode(encoding))
    assert read_yolo_labels(tmp_path / "x.txt").boxes.tolist() == [[1, 0.5, 0.5, 0.2, 0.4]]


def test_missing_file_means_no_objects(tmp_path: Path) -> None:
    assert read_yolo_labels(tmp_path / "none.txt", 3).boxes.shape == (0, 5)


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"0 .5 .5 .1 .1\n\xff\xd8\0\x01")
    with pytest.raises(UserError, match="expected a text file .*found the byte 0xff in line 2"):
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
