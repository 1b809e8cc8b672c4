from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.toy import load, write_yaml, write_yolo
from yolorep.config import Hyp
from yolorep.data.dataset import DetectionDataset
from yolorep.data.loader import eval_loader, train_loader


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
    }


def test_the_data_set_is_never_written(tmp_path: Path, cache: Path) -> None:
    yaml = write_yolo(tmp_path)
    for path in tmp_path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(tmp_path)
    for mode in (None, "ram", "disk"):
        dataset = DetectionDataset(load(yaml), image_size=32, cache=mode, training=True)
        list(train_loader(dataset, Hyp(), batch_size=4))
        list(eval_loader(dataset, batch_size=4))
    assert snapshot(tmp_path) == before
    assert any(cache.rglob("*.npz"))
    assert any(cache.rglob("*.npy"))


def test_single_class(tmp_path: Path) -> None:
    annotations = load(write_yolo(tmp_path), single_class=True)
    assert annotations.names == ("item",)
    assert set(annotations.boxes[:, 0]) == {0}
    truth = annotations.ground_truth()
    assert {record["category_id"] for record in truth["annotations"]} == {0}
    assert len(truth["categories"]) == 1
    for label in (tmp_path / "labels").rglob("*.txt"):
        label.write_text("0 .5 .5 .1 .1\n")
    yaml = write_yaml(tmp_path, "train: images/train\nnames: [cell]\n")
    assert load(yaml, single_class=True).names == ("cell",)


@pytest.mark.parametrize(
    ("name", "split", "images", "boxes"),
    [("coco128", "train", 128, 929), ("coco128", "val", 128, 898), ("bccd", "train", 205, 2804)],
)
def test_real_images_are_all_kept(name: str, split: str, images: int, boxes: int, shared: Path) -> None:
    annotations = load(shared / "data" / name / f"{name}.yaml", split)
    assert (len(annotations), len(annotations.truth.image)) == (images, boxes)
