from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.toy import load, overwrite, smooth_image, write_coco, write_yaml, write_yolo
from yolorep.data.readers.probe import ids_of_files
from yolorep.errors import UserError


def write_list(root: Path) -> Path:
    write_yolo(root)
    (root / "list.txt").write_text("".join(f"images/train/{number:03}.png\n" for number in range(8)))
    return write_yaml(root, "train: list.txt\nnames: [a, b, c]\n")


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


@pytest.mark.parametrize(("write", "split", "name"), [(write_list, "train", "001.png"), (write_coco, "val", "1.png")])
def test_a_read_error_is_told_but_not_remembered(
    write: Callable[[Path], Path],
    split: str,
    name: str,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    yaml = write(tmp_path)
    (file,) = (tmp_path / "images").rglob(name)
    away = file.rename(tmp_path / name)
    file.mkdir()
    fewer = len(load(yaml, split))
    assert f"1 skipped: {name} (cannot be read ({os.strerror(errno.EISDIR)}))" in capsys.readouterr().out
    assert not list(cache.rglob("*.npz"))
    file.rmdir()
    away.rename(file)
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


def test_cache_is_used_and_follows_every_change(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path)
    first = load(yaml)
    image = tmp_path / "images/train/003.png"
    overwrite(image)
    second = load(yaml)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.truth.xywh, second.truth.xywh)
    np.testing.assert_array_equal(first.sizes, second.sizes)

    label = tmp_path / "labels/train/001.txt"
    text = label.read_text()
    label.write_text(text[::-1].strip()[::-1].rsplit(" ", 1)[0] + " 0.1234\n")  # as long as before
    os.utime(label, ns=(1, 1))
    third = load(yaml)
    assert third.labels(1)[0, 4] == pytest.approx(0.1234)
    assert len(third) == 7  # everything was read again

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
    packed = file.read_bytes()
    flipped = (packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :] for at in range(0, len(packed), 97))
    for content in (b"", b"junk", packed[:300], packed[:-1], packed + b"0", *flipped):
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
    assert ids_of_files(paths) == ids


def test_names_of_twenty_digits(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, count=2)
    long = "20240131123456789012"
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        folder = tmp_path / kind / "train"
        (folder / f"001{suffix}").rename(folder / f"{long}{suffix}")
    annotations = load(yaml)
    assert [annotations.image_id(index) for index in range(2)] == ["000", long]
    assert annotations.ground_truth()["annotations"][0]["image_id"] == long
