from __future__ import annotations

import io
import random
from collections.abc import Iterator
from itertools import chain, pairwise, repeat

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media.files import make_image
from yolorep.media.jpegs import find_jpegs, split_jpegs

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def jpeg(image: np.ndarray = NOISE, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)  # type: ignore[arg-type]
    return file.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG with another one in a segment, as cameras write them."""
    whole, thumbnail = jpeg(), jpeg(NOISE[:8, :8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return whole[:2] + segment + whole[2:]


#: Pictures whose markers differ.
KINDS = {
    "baseline": jpeg(quality=95),
    "progressive": jpeg(progressive=True),
    "restarts": cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes(),
    "thumbnail": with_thumbnail(),
    "comment": jpeg(comment=b"\xff\xd9 is no end \xff\xd8"),
    "filled": jpeg()[:2] + b"\xff\xff\xff\xff" + jpeg()[2:],
}


def cut(data: bytes, *, most: int) -> list[bytes]:
    """In pieces of random length."""
    draw = random.Random(0)
    places = [0]
    while places[-1] < len(data):
        places.append(places[-1] + draw.randint(1, most))
    return [data[a:b] for a, b in pairwise(places)]


def part(picture: bytes) -> bytes:
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(picture), picture)


@pytest.mark.parametrize("most", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("kind", KINDS)
def test_concatenated(kind: str, most: int) -> None:
    pictures = [KINDS[kind], jpeg(make_image()), KINDS[kind]]
    assert all(cv2.imdecode(np.frombuffer(picture, np.uint8), 1) is not None for picture in pictures)
    assert list(split_jpegs(cut(b"".join(pictures), most=most))) == pictures
    assert list(split_jpegs(cut(b"\0\n".join(pictures) + b"\0", most=most))) == pictures


@pytest.mark.parametrize("most", [1, 1000])
def test_parts(most: int) -> None:
    pictures = list(KINDS.values())
    stream = b"".join(map(part, pictures))
    for data in (stream, b"\r\n" + stream + b"--frame--\r\n"):
        assert list(split_jpegs(cut(data, most=most))) == pictures


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\xff", []),
        (b"no picture", []),
        (jpeg() + b"\0\0\0\x18ftypmp42" + jpeg(), [jpeg()]),  # a motion photo: a video behind the picture
        (jpeg() + jpeg()[:-2], [jpeg(), jpeg()[:-2]]),  # cut off
        (jpeg() + jpeg()[:300], [jpeg(), jpeg()[:300]]),
        (jpeg() + b"\xff\xd8", [jpeg(), b"\xff\xd8"]),
        (jpeg() + b"\xff\xd8\xff\xe0\xff", [jpeg(), b"\xff\xd8\xff\xe0\xff"]),
    ],
)
def test_other_streams(data: bytes, expected: list[bytes]) -> None:
    for most in (1, 10**6):
        assert list(split_jpegs(cut(data, most=most))) == expected


def test_a_header_without_end() -> None:
    assert list(split_jpegs(repeat(b"--" + b"x" * 1000))) == []


def test_no_byte_too_many_is_waited_for() -> None:
    arrived = []

    def chunks() -> Iterator[bytes]:
        for picture in KINDS.values():
            arrived.append(picture)
            yield picture

    for picture in split_jpegs(chunks()):
        assert picture == arrived[-1]
    assert len(arrived) == len(KINDS)


@pytest.mark.parametrize("most", [1, 1000])
@pytest.mark.parametrize(
    ("garbage", "count"),
    [
        (b"", 0),
        (b"\r\n", 0),
        (b"nonsense", 1),
        (part(b"nonsense"), 1),
        (part(b"\xff\xee" * 50) * 20, 20),
        (part(b"\0\xff\xfe\xff") + b"more\r\n" + part(b""), 2),
        (bytes(range(256)) * 30, 1),
    ],
)
def test_garbage_between_jpegs(garbage: bytes, count: int, most: int) -> None:
    pictures = list(KINDS.values())
    stream = b"".join(garbage + part(picture) for picture in pictures)
    expected = [one for picture in pictures for one in [*[b""] * count, picture]]
    assert list(find_jpegs(cut(stream, most=most))) == expected


def test_a_jpeg_that_is_cut_off_takes_none_with_it() -> None:
    whole = jpeg()
    for end in (20, 300, len(whole) - 2):
        found = list(find_jpegs([part(whole[:end]) + part(whole) + part(whole) + part(whole)]))
        assert whole in found[1:] and found[-1] == whole
    assert list(split_jpegs([whole[:-2] + whole])) == [whole[:-2], whole]


@pytest.mark.slow
def test_a_jpeg_without_end() -> None:
    endless = chain([jpeg()[:-2]], repeat(b"\0" * (1 << 20), 40), [part(jpeg())])
    first, *_, last = find_jpegs(endless)
    assert len(first) < 1 << 26 and last == jpeg()
