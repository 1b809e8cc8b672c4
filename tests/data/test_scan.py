from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.toy import SIZES, load, smooth_image, write_coco, write_yaml, write_yolo
from yolorep.config import Hyp
from yolorep.data import scan
from yolorep.data.annotations import FlatStrings
from yolorep.data.dataset import DetectionDataset
from yolorep.data.loader import eval_loader, train_loader
from yolorep.errors import UserError


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
    }


def test_reads_sizes_boxes_and_backgrounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = load(write_yolo(tmp_path))
    assert annotations.sizes.tolist() == [list(size) for size in SIZES]
    assert [len(annotations.labels(index)) for index in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert annotations.names == ("a", "b", "c")
    assert annotations.category_ids == (0, 1, 2)
    row = (tmp_path / "labels/train/001.txt").read_text().split()
    np.testing.assert_allclose(annotations.labels(1)[0], np.array(row, np.float32), atol=1e-6)
    assert "8 images, 12 boxes; 2 without a label file" in capsys.readouterr().out


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


def test_unreadable_images_are_skipped_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path, suffix=".jpg")
    images = tmp_path / "images/train"
    content = (images / "001.jpg").read_bytes()
    (images / "001.jpg").write_bytes(content[: len(content) // 2])
    (images / "003.jpg").write_bytes(b"")
    (images / "zz.jpg").write_bytes(b"hello")
    annotations = load(yaml)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "6 images, 8 boxes" in lines[0]
    assert "3 skipped: 001.jpg (truncated), 003.jpg (empty file), zz.jpg (not an image)" in lines[0]
    assert [Path(path).stem for path in annotations.paths] == ["000", "002", "004", "005", "006", "007"]
    assert [len(annotations.labels(index)) for index in range(6)] == [0, 2, 0, 1, 2, 3]
    assert annotations.truth.image.tolist() == [1, 1, 3, 4, 4, 5, 5, 5]
    # Told again when everything comes from the cache.
    load(yaml)
    assert "3 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize(("write", "split", "name"), [(write_yolo, "train", "001.png"), (write_coco, "val", "1.png")])
def test_a_read_error_is_told_but_not_remembered(
    write: Callable[[Path], Path],
    split: str,
    name: str,
    code: int,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    yaml = write(tmp_path)
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == name:
            raise OSError(code, os.strerror(code), str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        fewer = len(load(yaml, split))
        assert f"1 skipped: {name} (cannot be read ({os.strerror(code)}))" in capsys.readouterr().out
    assert not list(cache.rglob("*.npz"))
    assert len(load(yaml, split)) == fewer + 1
    assert list(cache.rglob("*.npz"))


def test_many_faults_are_counted_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path, count=1)
    for number in range(9):
        (tmp_path / f"images/train/bad{number}.png").write_bytes(b"")
    load(yaml)
    assert "bad4.png (empty file) and 4 more" in capsys.readouterr().out


def test_no_usable_image(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, count=1)
    (tmp_path / "images/train/000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"expected images, found none that can be read; 1 skipped: 000\.png"):
        load(yaml)


def test_missing_images_of_a_list_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path, count=2)
    (tmp_path / "list.txt").write_text("images/train/000.png\nimages/train/gone.png\n")
    assert len(load(write_yaml(tmp_path, "train: list.txt\nnc: 3\n"))) == 1
    assert "gone.png (no such file)" in capsys.readouterr().out


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


def test_cache_is_used_and_follows_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = write_yolo(tmp_path)
    first = load(yaml)
    calls = []
    probe = scan.probe_image
    monkeypatch.setattr(scan, "probe_image", lambda path: calls.append(path) or probe(path))
    second = load(yaml)
    assert not calls
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.truth.xywh, second.truth.xywh)

    label = tmp_path / "labels/train/001.txt"
    text = label.read_text()
    label.write_text(text[::-1].strip()[::-1].rsplit(" ", 1)[0] + " 0.1234\n")  # as long as before
    os.utime(label, ns=(1, 1))
    assert load(yaml).labels(1)[0, 4] == pytest.approx(0.1234)
    assert len(calls) == 8

    Image.fromarray(smooth_image(77, 66)).save(tmp_path / "images/train/000.png")
    assert load(yaml).sizes[0].tolist() == [77, 66]
    (tmp_path / "labels/train/000.txt").write_text("0 .5 .5 .1 .1\n")
    assert len(load(yaml).labels(0)) == 1
    label.unlink()
    assert len(load(yaml).labels(1)) == 0


def test_damaged_or_unwritable_cache_costs_time_only(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path)
    expected = load(yaml).boxes
    (file,) = cache.rglob("*.npz")
    for content in (b"", b"junk", file.read_bytes()[:300]):
        file.write_bytes(content)
        np.testing.assert_array_equal(load(yaml).boxes, expected)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("YOLOREP_CACHE", str(blocked))
    np.testing.assert_array_equal(load(yaml).boxes, expected)
    assert "labels are not cached" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["/d/000139.jpg", "/d/7.jpg"], [139, 7]),
        (["/d/001.jpg", "/d/1.jpg"], ["001", "1"]),
        (["/d/a.jpg", "/d/7.jpg"], ["a", "7"]),
        (["/d/x/1.jpg", "/d/y/1.jpg"], ["x/1.jpg", "y/1.jpg"]),
        (["/d/1.jpg", "/d/1.png"], ["1.jpg", "1.png"]),
        ([f"/d/{2**63 - 1}.jpg", "/d/7.jpg"], [2**63 - 1, 7]),
        ([f"/d/{2**63}.jpg", "/d/7.jpg"], [f"{2**63}", "7"]),
    ],
)
def test_image_ids(paths: list[str], ids: list[int] | list[str]) -> None:
    assert scan._image_ids(paths) == ids


def test_names_of_twenty_digits(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, count=2)
    long = "20240131123456789012"
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        folder = tmp_path / kind / "train"
        (folder / f"001{suffix}").rename(folder / f"{long}{suffix}")
    annotations = load(yaml)
    assert [annotations.image_id(index) for index in range(2)] == ["000", long]
    assert annotations.ground_truth()["annotations"][0]["image_id"] == long


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


def test_flat_strings() -> None:
    texts = ["", "a", "ümläut/日本.jpg", "b" * 300, os.fsdecode(b"bad\xff.jpg")]
    strings = FlatStrings.of(texts)
    assert list(strings) == texts
    assert strings[-1] == texts[-1]
    with pytest.raises(IndexError):
        strings[5]
    assert len(FlatStrings.of([])) == 0


@pytest.mark.parametrize(
    ("name", "split", "images", "boxes"),
    [("coco128", "train", 128, 929), ("coco128", "val", 128, 898), ("bccd", "train", 205, 2804)],
)
def test_real_images_are_all_kept(name: str, split: str, images: int, boxes: int, shared: Path) -> None:
    annotations = load(shared / "data" / name / f"{name}.yaml", split)
    assert (len(annotations), len(annotations.truth.image)) == (images, boxes)
