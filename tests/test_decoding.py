from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.toy import smooth_image
from tests.image_files import Tag, tiff
from yolorep.decoding import bytes_of
from yolorep.images import ImageError, decode_image, probe_image

BGR = smooth_image(30, 40)
GRAY = BGR[..., 1]


def stored(pixels: np.ndarray, numbers: str, top: float) -> np.ndarray:
    """Pixels as a file of such numbers holds them, colours in RGB order."""
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return (pixels / 255 * top).astype(numbers)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(
    ("numbers", "top"),
    [
        ("float32", 1), ("float32", 255), ("float32", 65535), ("float64", 1), ("float64", 255),
        ("int32", 255), ("int32", 65535), ("uint32", 255), ("uint32", 65535), ("int16", 255),
    ],
)  # fmt: skip
def test_unusual_numbers_become_the_picture_they_are(
    numbers: str, top: float, colours: int, order: str, deflate: bool, tmp_path: Path
) -> None:
    if numbers == "uint32" and cv2.__version__ < "5" and (colours == 3 or order == ">"):
        pytest.skip("OpenCV 4 has no unsigned type of 32 bits; Pillow reads one channel, little-endian")
    picture = GRAY if colours == 1 else BGR
    (tmp_path / "a.tif").write_bytes(tiff(stored(picture, numbers, top), order=order, deflate=deflate))
    notes: list[str] = []
    pixels = decode_image((tmp_path / "a.tif").read_bytes(), note=notes.append)
    expected = np.repeat(GRAY[..., None], 3, axis=2) if colours == 1 else BGR
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert notes == [f"{numbers} values taken as 0 to {top}"]
    assert probe_image(tmp_path / "a.tif") == (30, 40)


def test_neighbours_stay_comparable() -> None:
    """A dark image of a set is dark beside a bright one: no image is stretched by its own extremes."""
    for numbers, top in (("float32", 1), ("float32", 255), ("int32", 255)):
        bright, dark = (
            decode_image(tiff(stored(pixels, numbers, top))) for pixels in (np.full_like(GRAY, 250), GRAY // 4)
        )
        assert abs(int(bright.max()) - 250) <= 1
        assert abs(int(dark.max()) - int(GRAY.max()) // 4) <= 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.float32([[0.2, 7.5]]), "float32 values from 0.2 to 7.5, expected 0 to 1, 0 to 255 or 0 to 65535"),
        (np.float32([[-1, 1]]), "float32 values from -1 to 1"),
        (np.float32([[-3.4e38, 200]]), "float32 values from -3.4e"),
        (np.float64([[0, np.inf]]), "float64 values from 0 to inf"),
        (np.float64([[np.nan, np.nan]]), "float64 values from nan to nan"),
        (np.int32([[0, 300]]), "int32 values from 0 to 300, expected 0 to 255 or 0 to 65535; save"),
        (np.int32([[-5, 200]]), "int32 values from -5 to 200"),
        (np.uint32([[0, 2**32 - 1]]), "uint32 values from 0 to 4.29497e"),
        (np.int16([[-32768, 32767]]), "int16 values from -32768 to 32767"),
    ],
)
def test_a_range_that_says_nothing_is_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError) as error:
        bytes_of(values)
    assert str(error.value).startswith(words)
    with pytest.raises(ImageError):
        decode_image(tiff(values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1.04, -0.03]]), [0, 128, 255, 0]),  # resampled
        (np.float32([[0, np.nan, 1]]), [0, 0, 255]),
        (np.float64([[0, 127.4, 270, -20]]), [0, 127, 255, 0]),
        (np.zeros((1, 2), np.float32), [0, 0]),
        (np.int32([[0, 7, 255]]), [0, 7, 255]),
    ],
)
def test_what_lies_beside_a_range(values: np.ndarray, expected: list[int]) -> None:
    assert bytes_of(values)[0, :, 0].tolist() == expected
    assert decode_image(tiff(values))[0, :, 2].tolist() == expected


@pytest.mark.parametrize("extra", [0, 2])
def test_sixteen_bits_keep_their_upper_byte(extra: int) -> None:
    gray = GRAY.astype(np.uint16) * 256
    alpha = np.arange(gray.size, dtype=np.uint16).reshape(gray.shape)
    for values in (gray + 77, np.dstack([gray] * 3), np.dstack([gray, gray, gray, alpha])):
        tags: list[Tag] = [(338, "SHORT", [extra])] if values.ndim == 3 and values.shape[2] == 4 else []
        notes: list[str] = []
        pixels = decode_image(tiff(values, *tags), note=notes.append)
        assert np.abs(pixels.astype(int) - GRAY[..., None]).max() <= 1
        assert not notes
