"""What a label format of one's own takes: one reader, here of Pascal VOC's XML files, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from tests.data.toy import SIZES, smooth_image, write_yaml, write_yolo
from yolorep.data.annotations import Annotations, Truth
from yolorep.data.catalog import load_data_config
from yolorep.data.readers import READERS
from yolorep.data.readers.base import NamingReader, Places, Reader, list_images
from yolorep.data.readers.probe import probe_images
from yolorep.data.scan import load_annotations
from yolorep.errors import UserError


@dataclass(frozen=True)
class VocReader(NamingReader):
    form = "{images: DIR, xml: DIR}"
    keys = ("images", "xml")

    def images(self, places: Places) -> list[str]:
        return list_images(self.paths[:1], places)

    def names(self, places: Places) -> tuple[str, ...]:
        return tuple(sorted({name for file in places.find(self.paths[1]).glob("*.xml") for name, _ in _objects(file)}))

    def read(self, names: tuple[str, ...], places: Places) -> Annotations:
        images, folder = self.images(places), places.find(self.paths[1])
        found = [_objects(folder / f"{Path(image).stem}.xml") for image in images]
        objects = [(number, names.index(name), *box) for number, pairs in enumerate(found) for name, box in pairs]
        rows = np.array(objects, np.float64).reshape(-1, 6)
        xywh = np.concatenate([rows[:, 2:4], rows[:, 4:] - rows[:, 2:4]], axis=1)
        truth = Truth(
            image=rows[:, 0].astype(np.int64),
            class_id=rows[:, 1].astype(np.int64),
            xywh=xywh,
            area=xywh[:, 2:].prod(axis=1),
            crowd=np.zeros(len(rows), bool),
        )
        probed = probe_images(images, places.where)
        return probed.annotations(names, tuple(range(len(names))), truth=truth, where=places.where)


def _objects(file: Path) -> list[tuple[str, list[float]]]:
    """(class, left, top, right, bottom) of each object."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    return [
        (record.findtext("name", ""), [float(record.findtext(f"bndbox/{side}", "nan")) for side in sides])
        for record in ElementTree.parse(file).iter("object")
    ]


def write_voc(root: Path, text: str = "val: {images: JPEGImages, xml: Annotations}\n") -> Path:
    """Two images: a dog in the first, a cat and a dog in the second. Returns the data YAML."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    for number, names in enumerate((["dog"], ["cat", "dog"])):
        cv2.imwrite(str(root / "JPEGImages" / f"{number}.jpg"), smooth_image(*SIZES[number]))
        boxes = [
            f"<object><name>{name}</name><bndbox><xmin>{5 + place}</xmin><ymin>4</ymin><xmax>25</xmax><ymax>34</ymax>"
            "</bndbox></object>"
            for place, name in enumerate(names)
        ]
        (root / "Annotations" / f"{number}.xml").write_text(f"<annotation>{''.join(boxes)}</annotation>")
    return write_yaml(root, text)


def test_a_format_is_one_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_data_config(write_voc(tmp_path), readers=[VocReader])
    assert config.names == ("cat", "dog")
    assert [Path(path).name for path in config.images("val")] == ["0.jpg", "1.jpg"]
    annotations = load_annotations(config, "val")
    assert annotations.truth.class_id.tolist() == [1, 0, 1]
    height, width = SIZES[0]
    np.testing.assert_allclose(
        annotations.labels(0), [[1, 15 / width, 19 / height, 20 / width, 30 / height]], atol=1e-6
    )
    assert "data.yaml: val: 2 images, 3 boxes\n" in capsys.readouterr().out


def test_it_has_what_formats_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path)
    text = "train: {images: JPEGImages, xml: Annotations}\nval: images/train\nnames: [cat, dog, cow]\n"
    yaml = write_voc(tmp_path, text)
    (tmp_path / "JPEGImages/0.jpg").write_bytes(b"")
    config = load_data_config(yaml, readers=[VocReader])
    assert [len(load_annotations(config, split)) for split in ("train", "val")] == [1, 8]
    assert "train: 1 images, 2 boxes; 1 skipped: 0.jpg (empty file)" in capsys.readouterr().out
    (tmp_path / "JPEGImages/1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"train: expected images, found none that can be read; 2 skipped: 0\.jpg"):
        load_annotations(config, "train")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{images: JPEGImages, xnl: Annotations}", r"val\.xnl: unknown key; val\.annotations"),
        ("{images: JPEGImages, xml: 3}", r"val\.xml: expected a path, found 3"),
        ("{xml: Annotations}", r"val\.images: expected a path, found None"),
        ("{images: JPEGImages, xml: gone}", r"val: gone does not exist; tried .*/gone"),
        ("3", r"a list of these, \{images: DIR, annotations: FILE\.json\}, or \{images: DIR, xml: DIR\}, found 3"),
    ],
)
def test_wrong_entries(entry: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_data_config(write_voc(tmp_path, f"val: {entry}\n"), readers=[VocReader])


@pytest.mark.parametrize("reader", [*READERS, VocReader])
def test_every_reader_says_what_it_takes(reader: type[Reader]) -> None:
    assert reader.form
    assert all(f"{key}: " in reader.form for key in reader.keys)
    assert len({other.keys for other in (*READERS, VocReader)}) == len(READERS) + 1
