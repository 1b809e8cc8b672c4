from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.inference.white_box import WhiteBoxBackend
from tests.media.files import make_image, write_image
from yolorep.detections import Detections
from yolorep.errors import UserError
from yolorep.inference import predictor as module
from yolorep.inference.predictor import Predictor, Timing


@pytest.mark.parametrize(
    ("size", "image_size", "network"),
    [
        ((96, 128), 128, (96, 128)),  # as it is
        ((96, 128), 640, (480, 640)),  # enlarged
        ((272, 640), 640, (288, 640)),  # short side up to the stride, no extra half stride
        ((640, 640), 640, (640, 640)),
        ((768, 1024), 320, (256, 320)),
        ((1000, 90), 320, (320, 32)),
        ((96, 128), 100, (96, 128)),  # image size itself rounded up
    ],
)
def test_geometry(size: tuple[int, int], image_size: int, network: tuple[int, int]) -> None:
    backend = WhiteBoxBackend()
    height, width = size
    box = (width // 4, height // 4, width // 2, height // 2)
    found = Predictor(backend, image_size=image_size, agnostic_nms=True)(make_image(*size, box=box))
    assert backend.seen == [(1, 3, *network)]
    assert len(found) == 1
    np.testing.assert_allclose(found.xyxy[0], box, atol=max(1.0, 1.5 * max(size) / image_size))


@pytest.mark.parametrize("network", [(64, 64), (64, 192), (320, 320)])
def test_static_file_gets_its_size(network: tuple[int, int]) -> None:
    backend = WhiteBoxBackend(image_size=network, batch_size=1)
    predictor = Predictor(backend, image_size=640, agnostic_nms=True)
    found = predictor(make_image(120, 160, box=(40, 30, 120, 90)))
    assert backend.seen == [(1, 3, *network)]
    assert predictor.image_size == max(network) and "exported" in predictor.why_image_size
    np.testing.assert_allclose(found.xyxy[0], (40, 30, 120, 90), atol=3.5)


def test_channels_are_bgr() -> None:
    backend = WhiteBoxBackend()
    Predictor(backend, image_size=64)(np.full((64, 64, 3), (10, 20, 30), np.uint8))
    assert backend.pixels[0].tolist() == [30, 20, 10]


def test_best_class_of_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    # One candidate scores in both classes and is kept for the better one; the other candidate is of class 0 only.
    found = Predictor(WhiteBoxBackend())(make_image())
    assert found.class_id.tolist() == [1, 0]
    np.testing.assert_allclose(found.confidence, [0.9, 0.6])


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"agnostic_nms": True}, [1]),
        ({"confidence": 0.7}, [1]),
        ({"confidence": 0.95}, []),
        ({"classes": [0]}, [0]),
        ({"classes": "square"}, [1]),
        ({"classes": []}, []),
        ({"max_detections": 1}, [1]),
    ],
)
def test_options(options: dict[str, object], classes: list[int]) -> None:
    assert Predictor(WhiteBoxBackend(), **options)(make_image()).class_id.tolist() == classes  # type: ignore[arg-type]


def test_nothing_found() -> None:
    found = Predictor(WhiteBoxBackend())(np.zeros((50, 70, 3), np.uint8))
    assert isinstance(found, Detections) and len(found) == 0


def test_names_and_size_of_the_image() -> None:
    found = Predictor(WhiteBoxBackend())(make_image(50, 70))
    assert (found.names, found.image_size) == (("rectangle", "square"), (50, 70))


def test_kinds_of_input(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    predictor = Predictor(WhiteBoxBackend(), image_size=128)
    from_array = predictor(make_image())
    assert isinstance(from_array, Detections)
    for found in (predictor(path), predictor(str(path)), *predictor([path, make_image()])):
        np.testing.assert_array_equal(found.xyxy, from_array.xyxy)
    assert predictor([]) == []


def test_image_is_not_changed() -> None:
    image = make_image()
    image.setflags(write=False)
    Predictor(WhiteBoxBackend())(image)
    np.testing.assert_array_equal(image, make_image())


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_wrong_arrays(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a \(height, width, 3\) uint8 BGR image, got"):
        Predictor(WhiteBoxBackend())(image)


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg: expected an image, cannot read it"):
        Predictor(WhiteBoxBackend())(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image size: expected a positive"),
        ({"confidence": 1.5}, "confidence threshold: expected 0 to 1, got 1.5"),
        ({"iou": -0.1}, "IoU threshold"),
        ({"max_detections": 0}, "max_detections: expected 1 or more"),
        ({"classes": [1, 2, -1]}, "classes: expected indices from 0 to 1, got 2"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Predictor(WhiteBoxBackend(), **options)  # type: ignore[arg-type]


def test_timing() -> None:
    predictor = Predictor(WhiteBoxBackend())
    assert predictor.timing == Timing()
    predictor(make_image())
    timing = predictor.timing
    assert min(timing.preprocess, timing.inference, timing.nms) > 0
    assert timing.total == pytest.approx(timing.preprocess + timing.inference + timing.nms)
    assert (timing + timing).total == pytest.approx(2 * timing.total)


def test_augment_runs_several_sizes() -> None:
    backend = WhiteBoxBackend()
    found = Predictor(backend, image_size=128, augment=True, agnostic_nms=True)(make_image(box=(10, 20, 50, 60)))
    assert len({shape[2:] for shape in backend.seen}) > 1
    np.testing.assert_allclose(found.xyxy[0], (10, 20, 50, 60), atol=1.5)


def test_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def load(weights: object, **options: object) -> WhiteBoxBackend:
        asked.update(weights=weights, **options)
        return WhiteBoxBackend()

    monkeypatch.setattr(module, "load_backend", load)
    assert Predictor("w.pt", device="cpu").names == ("rectangle", "square")
    assert (asked["weights"], str(asked["device"]), asked["half"]) == ("w.pt", "cpu", False)
