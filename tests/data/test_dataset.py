from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.toy import SIZES, load, small_disk, smooth_image, write_yolo
from yolorep.data.dataset import DetectionDataset, resized_shape
from yolorep.errors import UserError
from yolorep.image_headers import limit_pixels, max_pixels
from yolorep.images import read_image


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((480, 640), 640, (480, 640)),
        ((375, 500), 640, (480, 640)),
        ((333, 500), 640, (427, 640)),  # 426.24
        ((640, 427), 320, (320, 214)),  # 213.5
        ((10, 2000), 320, (2, 320)),
        ((1, 1), 32, (32, 32)),
    ],
)
def test_resized_shape(size: tuple[int, int], image_size: int, expected: tuple[int, int]) -> None:
    assert resized_shape(size, image_size) == expected


@given(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), st.integers(32, 2048))
def test_resized_shape_is_the_least_that_holds_the_image(size: tuple[int, int], image_size: int) -> None:
    height, width = resized_shape(size, image_size)
    gain = image_size / max(size)
    assert max(height, width) == image_size
    assert -1e-6 < height - size[0] * gain < 1 + 1e-6
    assert -1e-6 < width - size[1] * gain < 1 + 1e-6


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_every_cache_gives_the_same_pixels(image_size: int, training: bool, tmp_path: Path) -> None:
    annotations = load(write_yolo(tmp_path))
    plain, ram, disk, disk_again = (
        DetectionDataset(annotations, image_size=image_size, cache=cache, training=training)
        for cache in (None, "ram", "disk", "disk")
    )
    for index in range(8):
        image = plain.load_image(index)
        assert image.shape == (*resized_shape(SIZES[index], image_size), 3)
        for other in (ram, disk, disk_again):
            np.testing.assert_array_equal(other.load_image(index), image)


def test_interpolation(tmp_path: Path) -> None:
    """Evaluation shrinks by area, training by sampling; both enlarge by sampling."""
    annotations = load(write_yolo(tmp_path))
    source = read_image(annotations.paths[0])
    for image_size, training, method in [
        (30, False, cv2.INTER_AREA),
        (30, True, cv2.INTER_LINEAR),
        (90, False, cv2.INTER_LINEAR),
        (90, True, cv2.INTER_LINEAR),
    ]:
        image = DetectionDataset(annotations, image_size=image_size, training=training).load_image(0)
        expected = cv2.resize(source, image.shape[1::-1], interpolation=method)
        np.testing.assert_array_equal(image, expected)


def test_training_lets_the_jpeg_decoder_shrink(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, count=1, suffix=".jpg")
    cv2.imwrite(str(tmp_path / "images/train/000.jpg"), smooth_image(300, 403), [cv2.IMWRITE_JPEG_QUALITY, 98])
    (tmp_path / "labels/train/000.txt").write_text("0 .5 .5 .1 .1\n")
    annotations = load(yaml)
    for image_size in (400, 200, 96, 48):
        train = DetectionDataset(annotations, image_size=image_size, training=True).load_image(0)
        val = DetectionDataset(annotations, image_size=image_size).load_image(0)
        assert train.shape == val.shape
        assert np.abs(train.astype(int) - val).mean() < 3


def test_disk_cache_follows_the_file(tmp_path: Path, cache: Path) -> None:
    yaml = write_yolo(tmp_path, count=2)
    dataset = DetectionDataset(load(yaml), image_size=64, cache="disk")
    first = dataset.load_image(0).copy()
    assert len(list(cache.rglob("*.npy"))) == 2
    for file in cache.rglob("*.npy"):
        file.write_bytes(b"damaged")
    np.testing.assert_array_equal(dataset.load_image(0), first)
    cv2.imwrite(str(tmp_path / "images/train/000.png"), smooth_image(*SIZES[0], seed=99))
    changed = DetectionDataset(load(yaml), image_size=64, cache="disk").load_image(0)
    assert np.abs(changed.astype(int) - first).mean() > 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: b"",
        lambda packed: packed[:-1],
        lambda packed: packed + b"x",
        lambda packed: packed[:200] + bytes([packed[200] ^ 1]) + packed[201:],
        lambda packed: _packed(np.zeros((5, 5, 3), np.uint8)),
        lambda packed: _packed(np.zeros((43, 64, 3), np.float32)),
        lambda packed: _packed(np.zeros(7, object)),
    ],
)
def test_a_damaged_disk_cache_is_made_anew(damage: Callable[[bytes], bytes], tmp_path: Path, cache: Path) -> None:
    annotations = load(write_yolo(tmp_path, count=1))
    whole = DetectionDataset(annotations, image_size=64).load_image(0)
    dataset = DetectionDataset(annotations, image_size=64, cache="disk")
    (file,) = cache.rglob("*.npy")
    packed = file.read_bytes()
    file.write_bytes(damage(packed))
    np.testing.assert_array_equal(dataset.load_image(0), whole)
    assert file.read_bytes() == packed


def _packed(array: np.ndarray) -> bytes:
    """As a file that another program wrote, with a right checksum."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue() + zlib.crc32(out.getvalue()).to_bytes(4, "little")


def test_a_worker_that_is_not_forked_knows_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    packed = pickle.dumps(DetectionDataset(load(write_yolo(tmp_path, count=1)), image_size=64))
    limit_pixels(10)
    assert pickle.loads(packed).load_image(0).shape == (43, 64, 3)
    assert max_pixels() == 5000


def test_an_image_above_the_limit_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path, count=8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert len(load(yaml)) == 6
    assert "2 skipped: 004.png (48x64 pixels are more than the limit of 3,000; raise it" in capsys.readouterr().out
    limit_pixels(5000)
    assert len(load(yaml)) == 8


def test_full_disk(tmp_path: Path, cache: Path) -> None:
    annotations = load(write_yolo(tmp_path))
    with small_disk(1024), pytest.raises(UserError, match=r"cannot be cached on disk \(File too large\)"):
        DetectionDataset(annotations, image_size=64, cache="disk")
    assert not [path for path in (cache / "images").rglob("*") if path.is_file()]


def test_too_little_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = load(write_yolo(tmp_path))
    for image_size, fits in ((64, True), (2_000_000, False)):
        assert DetectionDataset(annotations, image_size=image_size, cache="ram").in_memory == fits
        assert ("images are not cached" in capsys.readouterr().out) != fits


def test_file_that_vanished_after_the_scan(tmp_path: Path) -> None:
    dataset = DetectionDataset(load(write_yolo(tmp_path)), image_size=64)
    (tmp_path / "images/train/003.png").unlink()
    with pytest.raises(UserError, match=r"003\.png: no such file; it could be read when"):
        dataset.load_image(3)


def test_holds_arrays_only(tmp_path: Path) -> None:
    """Workers must not touch the reference count of a Python object an image."""
    small = DetectionDataset(load(write_yolo(tmp_path / "a", count=2)), image_size=64)
    large = DetectionDataset(load(write_yolo(tmp_path / "b", count=60)), image_size=64)

    class Counter(pickle.Pickler):
        count = 0

        def persistent_id(self, obj: object) -> None:
            self.count += not isinstance(obj, np.ndarray)

    def objects(dataset: DetectionDataset) -> int:
        import io

        counter = Counter(io.BytesIO())
        counter.dump(dataset)
        return counter.count

    assert objects(small) == objects(large)
