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
        ({"categories": []}, "expected categories"),
        ({"categories": [CAR, CAR]}, "expected categories with distinct"),
        ({"categories": [{"id": "x", "name": "car"}]}, "expected categories"),
        ({"images": [{"id": 1}]}, "expected every image to have 'id' and 'file_name', found {'id': 1}"),
        (
            {"images": [{**IMAGE, "height": 480.5}]},
            r"height and width of 0\.png in whole pixels, found 480\.5 and None",
        ),
        ({"images": [{**IMAGE, "width": "640"}]}, "height and width of .*, found None and '640'"),
        ({"images": [{**IMAGE, "width": float("inf")}]}, "height and width of .*, found None and inf"),
        ({"images": [{**IMAGE, "width": 1e300}]}, "height and width of .*, found None and 1e"),
        ({"images": [IMAGE, IMAGE]}, "its own id, found 1 used again"),
        ({"images": [], "annotations": []}, "found none listed"),
        ({"annotations": [{**BOX, "bbox": [1, 2, 3]}]}, "expected every annotation"),
        ({"annotations": [{**BOX, "bbox": [1, 2, -3, 4]}]}, "expected every annotation"),
        ({"annotations": [{**BOX, "bbox": [1, 2, float("nan"), 4]}]}, "expected every annotation"),
        ({"annotations": [{**BOX, "category_id": 4}]}, "expected every annotation"),
        ({"annotations": [{**BOX, "image_id": 4}]}, "expected every annotation"),
        ({"annotations": ["x"]}, "expected every annotation"),
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
