from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.toy import load, overwrite, write_coco, write_yaml
from yolorep.data.catalog import load_data_config
from yolorep.errors import UserError


def test_ids_crowds_and_areas_are_kept(tmp_path: Path) -> None:
    annotations = load(write_coco(tmp_path), "val")
    assert annotations.names == ("car", "cup", "zebra")
    assert annotations.category_ids == (3, 44, 90)
    assert [annotations.image_id(index) for index in range(3)] == [700, 701, 702]
    truth = annotations.ground_truth()
    assert truth["categories"] == [{"id": 3, "name": "car"}, {"id": 44, "name": "cup"}, {"id": 90, "name": "zebra"}]
    records = {record["id"]: record for record in truth["annotations"]}
    assert records[1] | {"id": 0} == {
        "id": 0,
        "image_id": 700,
        "category_id": 3,
        "bbox": [5, 5, 30, 10],
        "area": 250,
        "iscrowd": 1,
    }
    assert [record["area"] for record in records.values()] == [250, 900, 0, 150.25]
    assert all(record["id"] > 0 for record in truth["annotations"])


def test_training_boxes_leave_out_crowds_and_what_has_no_area(tmp_path: Path) -> None:
    annotations = load(write_coco(tmp_path), "val")
    # The cup at [50, 30, 30, 30] ends outside the 60 x 40 image.
    np.testing.assert_allclose(annotations.labels(0), [[1, 55 / 60, 35 / 40, 10 / 60, 10 / 40]], atol=1e-6)
    np.testing.assert_allclose(annotations.labels(1), [[2, 6.25 / 40, 12 / 60, 10.5 / 40, 20 / 60]], atol=1e-6)
    assert len(annotations.labels(2)) == 0


def test_pycocotools_accepts_the_ground_truth(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = load(write_coco(tmp_path), "val").ground_truth()
    truth.createIndex()
    assert sorted(truth.getCatIds()) == [3, 44, 90]
    assert len(truth.getAnnIds(imgIds=[700], iscrowd=False)) == 2
    result = truth.loadRes([{"image_id": 701, "category_id": 90, "bbox": [1, 2, 10, 20], "score": 0.5}])
    assert len(result.anns) == 1


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        # By name, whatever the order, with classes the file does not have.
        ("[zebra, cup, car]", (90, 44, 3)),
        ("[dog, zebra, cup, car]", (91, 90, 44, 3)),
        # By order if only the number agrees.
        ("[Auto, Tasse, Zebra]", (3, 44, 90)),
    ],
)
def test_names_in_the_yaml(names: str, ids: tuple[int, ...], tmp_path: Path) -> None:
    yaml = write_coco(tmp_path)
    yaml.write_text(yaml.read_text() + f"names: {names}\n")
    annotations = load(yaml, "val")
    assert annotations.category_ids == ids
    zebra = annotations.category_ids.index(90)
    assert annotations.labels(1)[0, 0] == zebra


def test_names_that_match_neither_way(tmp_path: Path) -> None:
    yaml = write_coco(tmp_path)
    yaml.write_text(yaml.read_text() + "names: [car, cat]\n")
    with pytest.raises(UserError, match=r"found 3 categories, not among them cup, zebra"):
        load(yaml, "val")


def test_other_names_are_taken_in_order_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_coco(tmp_path)
    text = yaml.read_text()
    yaml.write_text(text + "names: [zebra, cup, car]\n")
    load(yaml, "val")
    assert "order" not in capsys.readouterr().out
    yaml.write_text(text + "names: [Auto, Tasse, Zebra]\n")
    load(yaml, "val")
    lines = [line for line in capsys.readouterr().out.splitlines() if "order of the ids" in line]
    assert len(lines) == 1
    assert lines[0].startswith(str(tmp_path / "instances.json"))
    assert lines[0].endswith("car -> Auto, cup -> Tasse, zebra -> Zebra")


def test_a_long_list_of_other_names_is_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_coco(tmp_path, categories=[{"id": index, "name": f"c{index}"} for index in range(100)])
    yaml.write_text(yaml.read_text() + f"names: [{', '.join(f'n{index}' for index in range(100))}]\n")
    load(yaml, "val")
    assert "c0 -> n0, c1 -> n1, c2 -> n2, c3 -> n3, c4 -> n4 and 95 more\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[cup, Auto, zebra]", r"not among them car; classes without a category: Auto"),
        ("[Auto, zebra, Tasse]", r"not among them car, cup; classes without a category: Auto, Tasse"),
        ("[car, cup, zebra, cup]", r"class names used more than once: cup"),
    ],
)
def test_names_that_agree_in_part(names: str, message: str, tmp_path: Path) -> None:
    """Taken in order, the cup of the first case would be learnt as a car."""
    yaml = write_coco(tmp_path)
    yaml.write_text(yaml.read_text() + f"names: {names}\n")
    with pytest.raises(UserError, match=message) as error:
        load(yaml, "val")
    assert "\n" not in str(error.value)


def test_a_file_may_use_a_name_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {3: "car", 44: "cup", 90: "car"}
    yaml = write_coco(tmp_path, categories=[{"id": key, "name": name} for key, name in names.items()])
    annotations = load(yaml, "val")
    assert (annotations.names, annotations.category_ids) == (("car", "cup", "car"), (3, 44, 90))
    assert "order" not in capsys.readouterr().out


@pytest.mark.parametrize("huge", [2**63, 20240131123456789012, -(2**63) - 1])
def test_image_ids_beyond_64_bits(huge: int, tmp_path: Path) -> None:
    yaml = write_coco(tmp_path)
    file = tmp_path / "instances.json"
    file.write_text(file.read_text().replace("701", str(huge)))
    annotations = load(yaml, "val")
    assert [annotations.image_id(index) for index in range(3)] == ["700", str(huge), "702"]


def test_sizes_written_as_floats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_coco(tmp_path)
    file = tmp_path / "instances.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["height"], image["width"] = float(image["height"]), float(image["width"])
    file.write_text(json.dumps(content))
    assert len(load(yaml, "val")) == 3
    assert "skipped" not in capsys.readouterr().out


def test_numbers_may_be_text(tmp_path: Path) -> None:
    """Some tools write every value as text; "0" is no crowd, and what is null is not stated."""
    from pycocotools.coco import COCO

    plain, text = write_coco(tmp_path / "plain"), write_coco(tmp_path / "text")
    file = text.parent / "instances.json"
    content = json.loads(file.read_text())
    for number, record in enumerate(content["annotations"]):
        record |= {
            key: f"{float(record[key])}" if number % 2 else f"{record[key]}" for key in ("image_id", "category_id")
        }
        record["bbox"] = [f" {value}" for value in record["bbox"]]
        record["area"] = str(record["area"]) if "area" in record else None
        record["iscrowd"] = {0: "0", 1: "true", None: None}[record.get("iscrowd")]
    for record in content["images"]:
        record |= {"height": str(record["height"]), "width": f"{record['width']}.0"}
    for record in content["categories"]:
        record["id"] = str(record["id"])
    file.write_text(json.dumps(content))
    expected, found = load(plain, "val").ground_truth(), load(text, "val").ground_truth()
    assert found["annotations"] == expected["annotations"]
    assert found["categories"] == expected["categories"]
    original = COCO(str(plain.parent / "instances.json")).dataset["annotations"]
    assert sorted(record["iscrowd"] for record in found["annotations"]) == sorted(
        record.get("iscrowd", 0) for record in original
    )


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        (0, 0),
        (1, 1),
        ("0", 0),
        ("1", 1),
        ("0.0", 0),
        (1.0, 1),
        ("false", 0),
        ("True", 1),
        (False, 0),
        (True, 1),
        (None, 0),
    ],
)
def test_crowds(value: object, crowd: int, tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, categories=[CAR], annotations=[{**BOX, "iscrowd": value}])
    assert load(yaml, "val").truth.crowd.tolist() == [bool(crowd)]


def test_category_ids_of_64_bits(tmp_path: Path) -> None:
    """Two that are the same number to a float."""
    ids = [2**62, 2**62 + 1]
    yaml = write_coco(
        tmp_path,
        categories=[{"id": number, "name": f"n{number}"} for number in ids],
        annotations=[{**BOX, "category_id": str(number)} for number in ids],
    )
    annotations = load(yaml, "val")
    assert annotations.category_ids == tuple(ids)
    assert annotations.truth.class_id.tolist() == [0, 1]


ROOT = [
    {"id": 0, "name": "animals", "supercategory": "none"},
    {"id": 1, "name": "cat", "supercategory": "animals"},
    {"id": 2, "name": "dog", "supercategory": "animals"},
    {"id": 3, "name": "cow", "supercategory": "animals"},
]


def box(category_id: int) -> dict[str, object]:
    return {**BOX, "category_id": category_id}


@pytest.mark.parametrize(
    ("names", "objects", "expected", "ids"),
    [
        ("names: [cat, dog, cow]\n", [1, 2], ("cat", "dog", "cow"), (1, 2, 3)),
        ("names: [dog, cat]\n", [1, 2], ("dog", "cat"), (2, 1)),
        ("names: [animals, cat, dog, cow]\n", [1], ("animals", "cat", "dog", "cow"), (0, 1, 2, 3)),
        ("names: [Katze, Hund, Kuh]\n", [1, 2], ("Katze", "Hund", "Kuh"), (1, 2, 3)),
        ("", [1, 2], ("cat", "dog", "cow"), (1, 2, 3)),
        ("", [0, 1], ("animals", "cat", "dog", "cow"), (0, 1, 2, 3)),
    ],
)
def test_a_category_without_objects(
    names: str,
    objects: list[int],
    expected: tuple[str, ...],
    ids: tuple[int, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Roboflow adds a root: no class, unless it has objects or the names list it."""
    yaml = write_coco(tmp_path, categories=ROOT, annotations=[box(number) for number in objects])
    yaml.write_text(yaml.read_text() + names)
    annotations = load(yaml, "val")
    assert (annotations.names, annotations.category_ids) == (expected, ids)
    assert [annotations.category_ids[index] for index in annotations.truth.class_id] == objects
    assert ("not counted among the classes, without objects: animals" in capsys.readouterr().out) == (len(ids) < 4)


@pytest.mark.parametrize(
    ("names", "root"), [("", 0), ("names: [cat]\n", 0), ("names: [Katze]\n", 0), ("names: [cat]\n", 9)]
)
def test_a_root_that_is_named_like_its_class(names: str, root: int, tmp_path: Path) -> None:
    categories = [{"id": key, "name": "cat", "supercategory": "none" if key == root else "cat"} for key in (root, 3)]
    yaml = write_coco(tmp_path, categories=categories, annotations=[BOX])
    yaml.write_text(yaml.read_text() + names)
    annotations = load(yaml, "val")
    assert (len(annotations.names), annotations.category_ids) == (1, (3,))


@pytest.mark.parametrize("name", ["background", "__background__", "Ignore", "ignored regions", "Don't care"])
def test_backgrounds_without_objects_are_no_classes(name: str, tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, categories=[{"id": 0, "name": name}, CAR, {"id": 4, "name": "bus"}], annotations=[BOX])
    assert load(yaml, "val").names == ("car", "bus")


def test_where_nothing_else_is_a_class_a_background_is_one(tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, categories=[{"id": 0, "name": "background"}], annotations=[])
    assert load(yaml, "val").names == ("background",)


def test_classes_are_the_same_in_every_split(tmp_path: Path) -> None:
    """A parent that has objects in one split only is a class in both."""
    yaml = write_coco(tmp_path, categories=ROOT, annotations=[box(1)])
    content = json.loads((tmp_path / "instances.json").read_text())
    for name, category_id in (("root", 0), ("leaf", 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content | {"annotations": [box(category_id)]}))
    entry = "{images: images, annotations: %s.json}"
    for train, expected in (("root", ("animals", "cat", "dog", "cow")), ("leaf", ("cat", "dog", "cow"))):
        yaml.write_text(f"train: {entry % train}\nval: {entry % 'instances'}\n")
        assert load(yaml, "train").names == load(yaml, "val").names == expected


def test_an_object_of_a_category_that_is_no_class(tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, categories=ROOT, annotations=[box(0)])
    yaml.write_text(yaml.read_text() + "names: [cat, dog, cow]\n")
    with pytest.raises(UserError, match="not among them animals"):
        load(yaml, "val")


@pytest.mark.parametrize("name", ["images/0.png", r"images\1/0.png"])
def test_the_whole_path_of_a_missing_image_is_told(name: str, tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, categories=[CAR], images=[{**IMAGE, "file_name": name}], annotations=[])
    with pytest.raises(UserError) as error:
        load(yaml, "val")
    assert str(error.value).endswith(f"0.png (no such file); the first is {tmp_path}/images/{name}")


def test_file_names_of_another_system(tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, categories=[CAR], images=[{**IMAGE, "file_name": r"..\images\0.png"}], annotations=[])
    assert len(load(yaml, "val")) == 1


def test_string_image_ids(tmp_path: Path) -> None:
    yaml = write_coco(tmp_path)
    file = tmp_path / "instances.json"
    file.write_text(file.read_text().replace("701", '"image-b"').replace("700", '"a"').replace("702", '"c"'))
    annotations = load(yaml, "val")
    assert [annotations.image_id(index) for index in range(3)] == ["a", "image-b", "c"]


CAR = {"id": 3, "name": "car"}
IMAGE = {"id": 700, "file_name": "0.png"}
BOX = {"image_id": 700, "category_id": 3, "bbox": [1, 1, 5, 5]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "expected COCO JSON with the lists"),
        ({"categories": []}, "expected categories, found none"),
        ({"categories": [CAR, CAR]}, r"category 2 \(id 3\): id: expected one of its own, found 3"),
        (
            {"categories": [{"id": "x", "name": "car"}]},
            r"category 1 \(id 'x'\): id: expected a whole number",
        ),
        ({"categories": [{"id": 3, "name": None}]}, r"category 1 \(id 3\): name: expected text, found None"),
        ({"images": [{"id": 1}]}, r"image 1 \(id 1\): file_name: expected the image's path, found None"),
        ({"images": [{**IMAGE, "id": True}]}, r"image 1 \(id True\): id: expected a number or text, found True"),
        ({"images": [{**IMAGE, "file_name": "a\0b"}]}, r"file_name: expected the image's path, found 'a\\x00b'"),
        ({"images": [{**IMAGE, "height": 480.5}]}, r"image 1 \(id 700\): height: expected whole pixels, found 480\.5"),
        ({"images": [{**IMAGE, "width": "wide"}]}, r"image 1 \(id 700\): width: expected whole pixels, found 'wide'"),
        ({"images": [{**IMAGE, "width": -640}]}, "width: expected whole pixels, found -640"),
        ({"images": [{**IMAGE, "width": True}]}, "width: expected whole pixels, found True"),
        ({"images": [{**IMAGE, "width": float("inf")}]}, "width: expected whole pixels, found inf"),
        ({"images": [{**IMAGE, "width": 1e300}]}, r"width: expected whole pixels, found 1e\+300"),
        ({"images": [IMAGE, IMAGE]}, "its own id, found 1 used again"),
        ({"images": [IMAGE, {**IMAGE, "id": "700"}]}, "its own id, found 1 used again"),
        ({"images": [], "annotations": []}, "found none listed"),
        (
            {"annotations": [{**BOX, "bbox": [1, 2, 3]}]},
            r"annotation 1: bbox: .*\[left.*found \[1, 2, 3\]",
        ),
        ({"annotations": [{**BOX, "bbox": [1, 2, -3, 4]}]}, "bbox: expected a width and a height of 0 or more"),
        ({"annotations": [{**BOX, "bbox": [1, 2, float("nan"), 4]}]}, "bbox: expected numbers"),
        ({"annotations": [{**BOX, "bbox": [1, 2, True, 4]}]}, "bbox: expected numbers"),
        ({"annotations": [{**BOX, "bbox": [1, 2, 10**30, 4]}]}, "bbox: expected a width"),
        ({"annotations": [{**BOX, "bbox": None}]}, "bbox: expected numbers.*found None"),
        ({"annotations": [BOX, {**BOX, "id": 9, "category_id": 4}]}, r"annotation 2 \(id 9\): category_id: .*found 4"),
        ({"annotations": [{**BOX, "category_id": "cup"}]}, "category_id: expected a whole number, found 'cup'"),
        ({"annotations": [{**BOX, "category_id": 3.5}]}, r"category_id: expected a whole number, found 3\.5"),
        ({"annotations": [{**BOX, "category_id": True}]}, "category_id: expected a whole number, found True"),
        ({"annotations": [{**BOX, "category_id": None}]}, "category_id: expected a whole number, found None"),
        ({"annotations": [{**BOX, "image_id": 4}]}, "image_id: expected the id of an image, found 4"),
        ({"annotations": [{**BOX, "image_id": "0700"}]}, "image_id: expected the id of an image, found '0700'"),
        ({"annotations": [{**BOX, "image_id": None}]}, "image_id: expected the id of an image, found None"),
        ({"annotations": [{**BOX, "area": "large"}]}, "area: expected a number of pixels, found 'large'"),
        ({"annotations": [{**BOX, "area": ""}]}, "area: expected a number of pixels, found ''"),
        ({"annotations": [{**BOX, "area": float("nan")}]}, "area: expected a number of pixels, found nan"),
        ({"annotations": [{**BOX, "area": -5}]}, "area: expected a number of pixels, found -5"),
        ({"annotations": [{**BOX, "area": True}]}, "area: expected a number of pixels, found True"),
        ({"annotations": [{**BOX, "iscrowd": "no"}]}, "iscrowd: expected 0 or 1, found 'no'"),
        ({"annotations": [{**BOX, "iscrowd": 2}]}, "iscrowd: expected 0 or 1, found 2"),
        ({"annotations": [{**BOX, "iscrowd": []}]}, r"iscrowd: expected 0 or 1, found \[\]"),
        ({"annotations": ["x"]}, "annotation 1: expected a mapping, found 'x'"),
        ({"annotations": {"a": 1}}, "expected a list of annotations"),
        ({"images": [{**IMAGE, "file_name": "gone.png"}], "annotations": []}, r"none usable; 1 skipped: gone\.png"),
    ],
)
def test_wrong_files(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, **{"categories": [CAR], "images": [IMAGE], "annotations": [BOX], **changes})
    with pytest.raises(UserError, match=message) as error:
        load(yaml, "val")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_files_that_are_no_json(text: str, tmp_path: Path) -> None:
    yaml = write_coco(tmp_path)
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(UserError, match=r"instances\.json: expected"):
        load_data_config(yaml)


def test_both_places_must_exist(tmp_path: Path) -> None:
    yaml = write_coco(tmp_path)
    for text in ("{images: nowhere, annotations: instances.json}", "{images: images, annotations: no.json}"):
        with pytest.raises(UserError, match="does not exist; tried"):
            load(write_yaml(yaml.parent, f"val: {text}\nnames: [a, b, c]\n"), "val")


def test_an_image_of_another_size_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_coco(tmp_path)
    file = tmp_path / "instances.json"
    content = json.loads(file.read_text())
    content["images"][0]["width"] = 600
    del content["images"][1]["height"]
    file.write_text(json.dumps(content))
    annotations = load(yaml, "val")
    assert [annotations.image_id(index) for index in range(2)] == [701, 702]
    assert len(annotations.truth.image) == 1
    assert "1 skipped: 0.png (60x40 pixels, 600x40 in the JSON)" in capsys.readouterr().out


def test_a_large_file_is_parsed_once(tmp_path: Path) -> None:
    yaml = write_coco(tmp_path, info="x" * (1 << 20))
    first = load(yaml, "val")
    overwrite(tmp_path / "instances.json")
    second = load(yaml, "val")
    assert first.ground_truth() == second.ground_truth()
    assert first.names == second.names


def test_original_coco_files(shared: Path) -> None:
    annotations = load(shared / "data/tiny_coco/tiny_coco.yaml", "val")
    assert (len(annotations), len(annotations.names), max(annotations.category_ids)) == (6, 80, 90)
    assert int(annotations.truth.crowd.sum()) == 1
    assert len(annotations.boxes) == 135
