"""Detections validate, index like an array, and turn into what a user wants."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.media.files import make_image, write_image
from yolorep.detections import Detection, Detections, class_indices
from yolorep.errors import UserError

NAMES = ("cat", "dog", "Fußgänger <b>")


def three(**changes: Any) -> Detections:
    values = {
        "xyxy": np.array([[0, 0, 2, 3], [1.1, 1, 2, 2], [5, 5, 40, 40]], np.float32),
        "confidence": np.array([0.9, 0.5, 0.1], np.float32),
        "class_id": np.array([0, 1, 0]),
    }
    return Detections(**{**values, **changes})


NAMED = three(names=NAMES, image_size=(96, 128))
EMPTY = replace(Detections.empty(), names=NAMES, image_size=(96, 128))
TRACKED = replace(NAMED, tracker_id=np.array([7, 8, 9]))
FIRST = {"class_id": 0, "class_name": "cat", "confidence": 0.9, "x1": 0.0, "y1": 0.0, "x2": 2.0, "y2": 3.0}


def many(count: int) -> Detections:
    return Detections(
        np.tile(np.array([[0, 0, 9, 9]], np.float32), (count, 1)),
        np.linspace(0.9, 0.1, count, dtype=np.float32),
        np.arange(count) % 8,
        names=tuple("abcdefgh"),
    )


@pytest.mark.parametrize(
    ("index", "classes"),
    [(slice(1, None), [1, 0]), (np.array([True, False, True]), [0, 0]), ([2, 1], [0, 1]), ([], []), (slice(3, 9), [])],
)
def test_selecting_several(index: Any, classes: list[int]) -> None:
    found = TRACKED[index]
    assert isinstance(found, Detections) and found.class_id.tolist() == classes
    assert (found.names, found.image_size) == (NAMES, (96, 128))
    assert found.tracker_id is not None and len(found.tracker_id) == len(classes)


@pytest.mark.parametrize("index", [1, -2, np.int64(1)])
def test_selecting_one(index: Any) -> None:
    one = TRACKED[index]
    assert one == Detection((1.1, 1.0, 2.0, 2.0), 0.5, 1, "dog", 8)
    assert type(one.xyxy[0]) is float and type(one.class_id) is int


def test_index_out_of_range() -> None:
    with pytest.raises(IndexError):
        NAMED[3]


@pytest.mark.parametrize(
    ("detections", "class_names"),
    [(NAMED, ["cat", "dog", "cat"]), (three(), [None] * 3), (three(names=("cat",)), ["cat", None, "cat"]), (EMPTY, [])],
)
def test_iteration(detections: Detections, class_names: list[str | None]) -> None:
    assert [one.class_name for one in detections] == class_names
    assert [one.tracker_id for one in detections] == [None] * len(detections)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xyxy": np.zeros((3, 5), np.float32)}, r"xyxy: expected shape \(n, 4\), got \(3, 5\)"),
        ({"confidence": np.zeros(2, np.float32)}, r"confidence: expected shape \(3,\), got \(2,\)"),
        ({"tracker_id": np.zeros(1)}, "tracker_id: expected shape"),
        ({"names": "cat"}, "names: expected a tuple of class names, got str"),
        ({"names": ["cat"]}, "names: expected a tuple of class names, got list"),
        ({"image_size": (96,)}, "image_size: expected"),
        ({"image_size": (0, 128)}, r"image_size: expected \(height, width\) in pixels, got \(0, 128\)"),
    ],
)
def test_values_must_agree(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        three(**change)


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        (NAMED, "Detections(3: 2 cat, 1 dog; best cat 0.90)"),
        (NAMED[1:2], "Detections(1: 1 dog; best dog 0.50)"),
        (three(), "Detections(3: 2 class0, 1 class1; best class0 0.90)"),
        (Detections.empty(), "Detections(none)"),
        (many(17), "Detections(17: 3 a, 2 b, 2 c, 2 d, 2 e, 6 of other classes; best a 0.90)"),
    ],
)
def test_repr(detections: Detections, expected: str) -> None:
    assert repr(detections) == str(detections) == expected


@pytest.mark.parametrize(
    ("classes", "confidence", "kept"),
    [
        (None, None, [0, 1, 2]),
        ("cat", None, [0, 2]),
        (1, None, [1]),
        (np.int64(1), None, [1]),
        (["dog", 0], None, [0, 1, 2]),
        ([], None, []),
        ({"dog"}, 0.6, []),
        (None, 0.9, [0]),  # at least: the float32 nearest to 0.9 is kept
        (("cat",), 0.1, [0, 2]),
    ],
)
def test_filter(classes: Any, confidence: float | None, kept: list[int]) -> None:
    found = TRACKED.filter(classes, confidence=confidence)
    assert found.tracker_id is not None and (found.tracker_id - 7).tolist() == kept
    assert (found.names, found.image_size) == (NAMES, (96, 128))


@pytest.mark.parametrize(
    ("detections", "arguments", "message"),
    [
        (NAMED, {"classes": "cot"}, r"classes: there is no 'cot' \(did you mean 'cat'\?\)$"),
        (NAMED, {"classes": [0, "zebra"]}, "there is no 'zebra'; there are cat, dog, Fußgänger <b>$"),
        (NAMED, {"classes": [3]}, "classes: expected indices from 0 to 2, got 3"),
        (NAMED, {"classes": -1}, "classes: expected indices from 0 to 2, got -1"),
        (three(), {"classes": ["cat"]}, "classes: expected indices, as there are no class names here, got 'cat'"),
        (NAMED, {"classes": 1.5}, "classes: expected names or indices, found 1.5"),
        (NAMED, {"confidence": "a"}, "confidence: expected a number from 0 to 1, found 'a'"),
        (NAMED, {"confidence": 25}, "confidence: expected a number from 0 to 1, found 25"),
        (NAMED, {"classes": "9" * 20_000}, "classes: expected names or indices, found '999"),
        (NAMED, {"classes": 10**5000}, "classes: expected indices from 0 to 2, got a number of thousands of digits"),
        (NAMED, {"confidence": 10**5000}, "confidence: expected a number from 0 to 1, found a number of thousands"),
    ],
)
def test_wrong_filter(detections: Detections, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        detections.filter(**arguments)


def test_classes_of_one_name() -> None:
    assert class_indices(["mouse", 0], ("cat", "mouse", "mouse")) == [1, 2, 0]


def test_digits_are_an_index() -> None:
    assert class_indices(["1", "cat"], ("1", "0", "cat")) == [1, 2]
    assert class_indices("2", None) == [2]
    with pytest.raises(UserError, match="classes: expected indices from 0 to 1, got 7"):
        class_indices(["7"], ("1", "7"))


@st.composite
def some_detections(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 12))
    numbers = st.floats(-1e4, 1e4, width=32)
    return Detections(
        np.array(draw(st.lists(numbers, min_size=4 * count, max_size=4 * count)), np.float32).reshape(-1, 4),
        np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count)), np.float32),
        np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)), np.int64),
        np.arange(count),
        names=NAMES,  # of some classes only
    )


@given(some_detections(), st.sets(st.sampled_from([0, 1, 2, *NAMES])), st.floats(0, 1, width=32))
def test_filtering_and_indexing_agree(detections: Detections, classes: set[Any], confidence: float) -> None:
    ones = list(detections)
    assert ones == [detections[i] for i in range(len(detections))]
    wanted = [one for one in ones if one.class_id in classes or one.class_name in classes]
    kept = [one for one in wanted if np.float32(one.confidence) >= np.float32(confidence)]
    assert list(detections.filter(classes, confidence=confidence)) == kept
    assert list(detections.filter(classes).filter(confidence=confidence)) == kept
    assert list(detections[[one.tracker_id for one in kept]]) == kept


@given(some_detections())
def test_records_lose_nothing(detections: Detections) -> None:
    rows = json.loads(detections.to_json())
    assert rows == detections.records() == [one.record() for one in detections]
    corners = [[row[name] for name in ("x1", "y1", "x2", "y2")] for row in rows]
    np.testing.assert_array_equal(np.array(corners, np.float32).reshape(-1, 4), detections.xyxy)
    np.testing.assert_array_equal(np.array([row["confidence"] for row in rows], np.float32), detections.confidence)
    table = list(csv.DictReader(io.StringIO(detections.to_csv())))
    assert [float(row["x1"]) for row in table] == [row["x1"] for row in rows]


@pytest.mark.parametrize(
    ("detections", "first"),
    [(NAMED, FIRST), (TRACKED, {**FIRST, "tracker_id": 7}), (three(), {**FIRST, "class_name": None})],
)
def test_records(detections: Detections, first: dict[str, Any]) -> None:
    assert detections.records()[0] == first and len(detections.records()) == 3
    assert detections.to_json() == json.dumps(detections.records())
    assert "\n  {" in detections.to_json(indent=2)


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        (EMPTY, ["class_id,class_name,confidence,x1,y1,x2,y2"]),
        (TRACKED[1:2], ["class_id,class_name,confidence,x1,y1,x2,y2,tracker_id", "1,dog,0.5,1.1,1.0,2.0,2.0,8"]),
        (three()[1:2], ["class_id,class_name,confidence,x1,y1,x2,y2", "1,,0.5,1.1,1.0,2.0,2.0"]),
    ],
)
def test_csv(detections: Detections, expected: list[str]) -> None:
    assert detections.to_csv().splitlines() == expected


@pytest.mark.parametrize("detections", [NAMED, TRACKED, three(), EMPTY])
def test_pandas(detections: Detections) -> None:
    pytest.importorskip("pandas")
    frame = detections.to_pandas()
    assert json.loads(frame.to_json(orient="records", double_precision=4)) == detections.records()
    assert frame["class_id"].dtype == np.int64 and frame["x1"].dtype == frame["confidence"].dtype == np.float32


@pytest.mark.parametrize("detections", [NAMED, TRACKED, three(), EMPTY, three(names=("cat",))])
def test_supervision(detections: Detections) -> None:
    pytest.importorskip("supervision")
    found = detections.to_supervision()
    for name in ("xyxy", "confidence", "class_id", "tracker_id"):
        np.testing.assert_array_equal(getattr(found, name), getattr(detections, name))
    if detections.names is None:
        assert "class_name" not in found.data
    else:
        expected = [one.class_name or str(one.class_id) for one in detections]
        assert found.data["class_name"].tolist() == found[: len(detections)].data["class_name"].tolist() == expected


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"^this needs {package}: pip install {package}$"):
        getattr(NAMED, f"to_{package}")()


def test_crop(tmp_path: Path) -> None:
    image = np.arange(96 * 128 * 3, dtype=np.uint64).reshape(96, 128, 3).astype(np.uint8)
    boxes = [
        [10.5, 20.5, 30.2, 40.9],
        [-9, -9, 3, 4],
        [120, 90, 300, 300],
        [-9, -9, 0, 0],
        [200, 5, 210, 9],
        [4, 4, 4, 4],
    ]
    expected = [image[20:41, 10:31], image[:4, :3], image[90:, 120:]]
    found = Detections(np.array(boxes, np.float32), np.ones(6, np.float32), np.zeros(6, np.int64))
    for source in (image, write_image(tmp_path / "a.png", image)):
        crops = found.crop(source)
        for crop, pixels in zip(crops[:3], expected, strict=True):
            np.testing.assert_array_equal(crop, pixels)
        assert [crop.size for crop in crops[3:]] == [0, 0, 0]
    crops = found.crop(image)
    crops[1][:] = 77
    assert image[0, 0].tolist() == [0, 1, 2]  # crops are copies
    assert EMPTY.crop(make_image()) == []


def test_plot(tmp_path: Path) -> None:
    image = make_image()
    drawn = NAMED.plot(image)
    np.testing.assert_array_equal(image, make_image())
    assert drawn.shape == image.shape and (drawn != image).any()
    np.testing.assert_array_equal(NAMED.plot(write_image(tmp_path / "a.png")), drawn)
    bare = NAMED.plot(image, hide_labels=True, line_thickness=1)
    inked = [(picture != image).any(-1).sum() for picture in (drawn, NAMED.plot(image, hide_conf=True), bare)]
    assert inked[0] > inked[1] > inked[2] > 0
    assert (NAMED.plot(image) != three().plot(image)).any()  # names or numbers


@pytest.mark.parametrize("thickness", [-3, 0, 1.5, "a"])
def test_wrong_line(thickness: Any) -> None:
    with pytest.raises(UserError, match=f"line_thickness: expected a whole number of at least 1, found {thickness!r}"):
        NAMED.plot(make_image(), line_thickness=thickness)


BGR = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
GREY = np.repeat(BGR[..., :1], 3, axis=2)


@pytest.mark.parametrize(
    ("image", "pixels"),
    [
        (BGR[..., 0], GREY),
        (BGR[..., :1], GREY),
        (np.dstack([BGR, BGR[..., 0]]), BGR),
        (PIL.Image.fromarray(BGR[..., ::-1].copy()), BGR),
        (PIL.Image.fromarray(BGR[..., 0]), GREY),
        (torch.from_numpy(BGR[..., ::-1].copy()).permute(2, 0, 1), BGR),
    ],
)
def test_whatever_an_image_is_held_in(tmp_path: Path, image: Any, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(NAMED.plot(image), NAMED.plot(pixels))
    np.testing.assert_array_equal(NAMED.crop(image)[0], pixels[:3, :2])
    NAMED.save(tmp_path / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), NAMED.plot(pixels))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (NAMED, three(names=NAMES, image_size=(96, 128)), True),
        (TRACKED, replace(TRACKED), True),
        (EMPTY, replace(EMPTY), True),
        (NAMED, three(names=NAMES), False),
        (NAMED, three(image_size=(96, 128)), False),
        (NAMED, TRACKED, False),
        (NAMED, replace(NAMED, class_id=np.array([0, 1, 1])), False),
        (NAMED, replace(NAMED, confidence=np.float32([0.9, 0.5, 0.2])), False),
        (NAMED, NAMED[:2], False),
        (NAMED, 3, False),
    ],
)
def test_equality(one: Detections, other: Any, same: bool) -> None:
    assert (one == other) is same and (one != other) is not same


def test_detections_have_no_hash() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(NAMED)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (make_image(64, 64), UserError, r"expected the image of \(height, width\) \(96, 128\)"),
        ("missing.png", UserError, "missing.png: expected an image, cannot read it: no such file"),
        (make_image().astype(float), UserError, r"expected a uint8 array .*, got \(96, 128, 3\) float64"),
        (make_image()[:0], UserError, r"expected a uint8 array .*, got \(0, 128, 3\) uint8"),
        (torch.zeros(1, 3, 96, 128), UserError, r"expected an image: .* found a tensor of shape \(1, 3, 96, 128\)"),
        (None, UserError, "expected an image: a path, a numpy array, a Pillow image or a tensor .*, found NoneType"),
        (PIL.Image.new("RGB", (5, 0)), UserError, "found one that is without pixels, 5x0"),
    ],
)
@pytest.mark.parametrize("method", ["plot", "crop"])
def test_wrong_image(method: str, image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(NAMED, method)(image)


def test_save(tmp_path: Path) -> None:
    for name in ("new/a.json", "a.csv", "a.TXT"):
        NAMED.save(tmp_path / name)
    assert json.loads((tmp_path / "new/a.json").read_text("utf-8")) == NAMED.records()
    assert (tmp_path / "a.csv").read_text("utf-8") == NAMED.to_csv()
    last = (tmp_path / "a.TXT").read_text().splitlines()[2].split()
    assert [float(value) for value in last] == pytest.approx([0, 22.5 / 128, 22.5 / 96, 35 / 128, 35 / 96], abs=1e-5)
    for suffix in (".png", ".BMP", ".tiff"):
        NAMED.save(str(tmp_path / f"a{suffix}"), make_image())
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"a{suffix}")), NAMED.plot(make_image()))
    assert len(list(tmp_path.iterdir())) == 6  # nothing temporary is left


@pytest.mark.parametrize(
    ("detections", "name", "image", "message"),
    [
        (NAMED, "a.png", None, r"a\.png: expected the image to draw on; call save\(path, image\)"),
        (NAMED, "in.png", "in.png", r"in\.png: expected a new file, found the image itself"),
        (NAMED, "link.png", "in.png", r"link\.png: expected a new file, found the image itself"),
        (three(), "a.txt", None, r"a\.txt: YOLO labels are relative to the image, but image_size is None"),
        (
            NAMED,
            "a.xml",
            None,
            r"a\.xml: expected \.json, \.csv, \.txt or a picture such as \.jpg or \.png, got '\.xml'",
        ),
        (NAMED, "a", None, "got ''"),
    ],
)
def test_what_cannot_be_saved(
    tmp_path: Path, detections: Detections, name: str, image: str | None, message: str
) -> None:
    original = write_image(tmp_path / "in.png").read_bytes()
    (tmp_path / "link.png").symlink_to(tmp_path / "in.png")
    with pytest.raises(UserError, match=message):
        detections.save(tmp_path / name, image and tmp_path / image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "link.png"]
    assert (tmp_path / "in.png").read_bytes() == original


@pytest.mark.parametrize(
    ("detections", "rows", "texts"),
    [
        (NAMED, 4, ["<td>dog</td>", "<td>0.50</td>", "<td>1.10</td>", "3: 2 cat"]),
        (replace(NAMED, class_id=np.array([2, 2, 2])), 4, ["<td>Fußgänger &lt;b&gt;</td>", "3 Fußgänger &lt;b&gt;"]),
        (three(), 4, ["<td></td>"]),
        (many(20), 21, []),
        (many(24), 21, ["and 4 more"]),
        (EMPTY, 0, ["Detections(none)"]),
    ],
)
def test_notebooks_show_a_table(detections: Detections, rows: int, texts: list[str]) -> None:
    shown = detections._repr_html_()
    assert shown.count("<tr>") == rows and "<b>" not in shown
    assert all(text in shown for text in texts)
    assert ("more" in shown) == (len(detections) > 20)


def test_a_notebook_shows_what_is_drawn() -> None:
    drawn = NAMED.plot(make_image())
    data = drawn._repr_png_()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), drawn)
    assert drawn[:, :, 0]._repr_png_() is None and drawn[:0]._repr_png_() is None  # type: ignore[attr-defined]
