from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from tests.formats.conftest import tiny_model
from tests.inference.white_box import WhiteBoxBackend
from tests.media.cameras import jpeg, mjpeg, part, web_server
from tests.media.files import make_image, write_frames, write_image, write_video
from yolorep.detections import Detections
from yolorep.errors import UserError
from yolorep.inference.predictor import Predictor, Timing
from yolorep.ops.letterbox import Size
from yolorep.weights.checkpoint import save_checkpoint


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
        ((96, 128), (640, 640), (480, 640)),
        ((96, 128), (320, 640), (320, 448)),
        ((96, 128), [600, 320], (256, 320)),
    ],
)
def test_geometry(size: tuple[int, int], image_size: Size, network: tuple[int, int]) -> None:
    backend = WhiteBoxBackend()
    height, width = size
    box = (width // 4, height // 4, width // 2, height // 2)
    found = Predictor(backend, image_size=image_size, agnostic_nms=True)(make_image(*size, box=box))
    assert backend.seen == [(1, 3, *network)]
    assert len(found) == 1
    np.testing.assert_allclose(found.xyxy[0], box, atol=max(1.0, 1.5 * max(size) / max(network)))


@pytest.mark.parametrize("network", [(64, 64), (64, 192), (320, 320)])
def test_static_file_gets_its_size(network: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    backend = WhiteBoxBackend(image_size=network, batch_size=1)
    predictor = Predictor(backend, image_size=640, agnostic_nms=True)
    found = predictor(make_image(120, 160, box=(40, 30, 120, 90)))
    assert backend.seen == [(1, 3, *network)]
    assert predictor.image_size == (network if network[0] != network[1] else network[0])
    said = f"the model: imgsz {network[0]}x{network[1]}, which it was exported for, instead of 640\n"
    assert capsys.readouterr().out == said
    np.testing.assert_allclose(found.xyxy[0], (40, 30, 120, 90), atol=3.5)


def test_channels_are_bgr() -> None:
    backend = WhiteBoxBackend()
    Predictor(backend, image_size=64)(np.full((64, 64, 3), (10, 20, 30), np.uint8))
    assert backend.pixels[0].tolist() == [30, 20, 10]


def test_best_class_of_a_box() -> None:
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


def test_one_image_or_several(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    write_frames(tmp_path / "clip.avi", [make_image(), np.zeros_like(make_image())])
    rgb = np.ascontiguousarray(make_image()[..., ::-1])
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    predictor = Predictor(WhiteBoxBackend(), image_size=128)
    expected = predictor(make_image())
    assert isinstance(expected, Detections) and expected.image_size == (96, 128)
    for one in (path, str(path), PIL.Image.fromarray(rgb), tensor, tensor / 255):
        found = predictor(one)
        assert isinstance(found, Detections)
        np.testing.assert_array_equal(found.xyxy, expected.xyxy)
    np.testing.assert_array_equal(predictor(rgb, colour="rgb").xyxy, expected.xyxy)
    several = ([path, make_image()], [path], tmp_path / "*.png", tensor[None], iter([rgb, tensor]))
    for source, count in zip(several, (2, 1, 1, 1, 2), strict=True):
        results = predictor(source)
        assert isinstance(results, list) and len(results) == count
        for found in results:
            np.testing.assert_array_equal(found.xyxy, expected.xyxy)
    assert [len(found) for found in predictor(tmp_path)] == [2, 2, 0]
    assert [len(found) for found in predictor(tmp_path / "clip.avi")] == [2, 0]
    assert predictor([]) == []


def test_stream(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_video(tmp_path / "clip.mp4", 5, fps=10)
    backend = WhiteBoxBackend()
    found = Predictor(backend).stream(tmp_path, vid_stride=2)
    assert not backend.seen  # nothing happens before it is asked for
    first = next(found)
    assert len(backend.seen) == 1
    np.testing.assert_array_equal(first.image, make_image())
    assert (Path(first.path).name, first.index, first.time, len(first.detections)) == ("a.png", 0, 0, 2)
    assert first.timing.total > 0
    rest = list(found)
    assert [(Path(one.path).name, one.index) for one in rest] == [("clip.mp4", i) for i in (0, 2, 4)]
    assert [one.time for one in rest] == pytest.approx([0, 0.2, 0.4])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("fixed", [{}, {"image_size": (64, 64), "batch_size": 2}])
def test_batches(batch_size: int, fixed: dict[str, Any]) -> None:
    sizes = [(96, 128), (96, 128), (128, 96), (96, 128), (48, 64), (300, 100), (96, 128)]
    images = [make_image(*size, box=(i, i, 30 + i, 30 + i)) for i, size in enumerate(sizes)]
    backend = WhiteBoxBackend(**fixed)
    found = Predictor(backend, image_size=128, batch_size=batch_size)(images)
    for one, image in zip(found, images, strict=True):
        expected = Predictor(WhiteBoxBackend(**fixed), image_size=128)(image)
        np.testing.assert_array_equal(one.xyxy, expected.xyxy)
        assert one.image_size == image.shape[:2]
    if not fixed:
        assert [shape[0] for shape in backend.seen] == {
            1: [1] * 7,
            2: [2, 1, 1, 1, 1, 1],
            3: [2, 1, 2, 1, 1],
            8: [5, 1, 1],
        }[batch_size]  # fmt: skip


@pytest.mark.parametrize("name", ["yolov5n.pt", "tiny"])
def test_results_of_a_network_do_not_depend_on_the_batch(name: str, request: pytest.FixtureRequest) -> None:
    if name == "tiny":
        weights, images = str(request.getfixturevalue("tiny_weights")), noise_images()
        options: dict[str, Any] = {"image_size": 64, "confidence": 0.05}
    else:
        shared = request.getfixturevalue("shared")
        weights, images = str(shared / "weights" / name), sorted((shared / "data").rglob("coco128/**/*.jpg"))[:12]
        options = {"image_size": 160}
    expected = Predictor(weights, device="cpu", **options)(images)
    assert sum(map(len, expected)) > 10
    for batch_size in (4, 12):
        found = Predictor(weights, device="cpu", batch_size=batch_size, **options)(images)
        for one, other in zip(found, expected, strict=True):
            assert one.class_id.tolist() == other.class_id.tolist()
            np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)
            np.testing.assert_allclose(one.xyxy, other.xyxy, rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(path, tiny_model())
    return path


def noise_images() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (size, 64, 3), np.uint8) for size in (64, 64, 40, 64, 40, 64)]


def test_image_is_not_changed() -> None:
    image = make_image()
    image.setflags(write=False)
    Predictor(WhiteBoxBackend())(image)
    np.testing.assert_array_equal(image, make_image())


def test_unreadable_files(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"")
    predictor = Predictor(WhiteBoxBackend(), batch_size=4)
    message = r"b\.jpg: expected an image or video, cannot read it: empty file"
    with pytest.raises(UserError, match=f"{message}$"):
        predictor(tmp_path / "b.jpg")
    with pytest.raises(UserError, match=rf"{message}; stream\(…, skip_unreadable=True\) goes on without it$"):
        predictor(tmp_path)
    found = predictor.stream(tmp_path)
    assert Path(next(found).path).name == "a.png"  # what came before is not lost
    with pytest.raises(UserError, match=message):
        next(found)
    with pytest.warns(UserWarning, match=message):
        assert [Path(one.path).name for one in predictor.stream(tmp_path, skip_unreadable=True)] == ["a.png", "c.png"]


def test_live_frames_do_not_wait_for_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    backend = WhiteBoxBackend()
    with web_server(mjpeg([part(jpeg())], then=lambda: time.sleep(60))) as server:
        before = time.time()
        found = Predictor(backend, image_size=128, batch_size=4).stream(server.url)
        one = next(found)
        assert one.captured is not None and before <= one.captured <= time.time()
        found.close()  # type: ignore[attr-defined]
    assert capsys.readouterr().out == f"{server.url}: connected, 128x96\n"
    (still,) = Predictor(backend, image_size=128).stream([make_image()])
    assert still.captured is None


def test_a_list_of_live_streams_is_read_side_by_side() -> None:
    endless = mjpeg(repeat(part(jpeg())), pause=0.01)
    with web_server(endless) as one, web_server(endless) as other:
        found = Predictor(WhiteBoxBackend(), image_size=128).stream([one.url, other.url])
        paths: set[str] = set()
        while len(paths) < 2:
            paths.add(next(found).path)
        found.close()  # type: ignore[attr-defined]
    assert paths == {one.url, other.url}


@pytest.mark.parametrize("source", [0, "0", "rtsp://host/stream"])
def test_a_call_needs_an_end(source: int | str) -> None:
    with pytest.raises(UserError, match=rf"source '{source}' has no end, .*: use stream\('{source}'\)"):
        Predictor(WhiteBoxBackend())(source)


def test_wrong_sources_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not found"):
        Predictor(WhiteBoxBackend()).stream(tmp_path / "gone.mp4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size: expected a whole number of at least 1, found 0"),
        ({"image_size": (64, 64, 64)}, r"image_size: expected a whole number of at least 1, found \(64, 64, 64\)"),
        ({"image_size": (64, 0)}, "image_size: expected a whole number of at least 1, found 0"),
        ({"image_size": 10**5000}, "image_size: expected a number of at most 4294967295, found a larger one"),
        ({"image_size": 64.5}, "image_size: expected a whole number of at least 1, found 64.5"),
        ({"confidence": 1.5}, "confidence: expected a number from 0 to 1, found 1.5"),
        ({"confidence": None}, "confidence: expected a number from 0 to 1, found None"),
        ({"iou": -0.1}, "iou: expected a number from 0 to 1, found -0.1"),
        ({"iou": "a"}, "iou: expected a number from 0 to 1, found 'a'"),
        ({"max_detections": 0}, "max_detections: expected a whole number of at least 1, found 0"),
        ({"batch_size": True}, "batch_size: expected a whole number of at least 1, found True"),
        ({"classes": [1, 2, -1]}, "classes: expected indices from 0 to 1, got 2"),
        ({"classes": 1.5}, "classes: expected names or indices, found 1.5"),
        ({"classes": [0, None]}, "classes: expected names or indices, found None"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Predictor(WhiteBoxBackend(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [None, 3, torch.nn.Identity()])
def test_wrong_weights(weights: Any) -> None:
    with pytest.raises(UserError, match="weights: expected a path, a Detector or a Backend, got"):
        Predictor(weights)


def test_a_model_in_training_mode() -> None:
    with pytest.raises(UserError, match="expected a Detector in eval mode, found one in training mode; call its eval"):
        Predictor(tiny_model().train(), device="cpu")


@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu"])
def test_devices(device: torch.device | str) -> None:
    assert Predictor(tiny_model(), device=device).names == tiny_model().names


def test_a_list_has_one_result_an_item(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    predictor = Predictor(WhiteBoxBackend())
    for several in ([make_image(), make_image()], tmp_path):
        with pytest.raises(UserError, match="item 1: expected one image an item, found .*; pass it alone"):
            predictor([make_image(), several])
        assert [found.index for found in predictor.stream([make_image(), several])][:2] == [0, 0]
    assert [found.index for found in predictor.stream([tmp_path / "a.png", tmp_path / "a.png", make_image()])] == [
        0, 1, 2,
    ]  # fmt: skip


@pytest.mark.slow
def test_importing_nms_is_not_timed() -> None:
    code = """
import sys
from tests.inference.white_box import WhiteBoxBackend
from yolorep import Predictor
assert "torchvision" not in sys.modules
Predictor(WhiteBoxBackend())
assert "torchvision.ops" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_repr() -> None:
    assert repr(Predictor(WhiteBoxBackend(), image_size=64)) == "Predictor(2 classes, image size 64)"


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


def test_weights_are_loaded(white_box: str) -> None:
    predictor = Predictor(white_box, device="cpu", image_size=128, agnostic_nms=True)
    assert predictor.names == ("rectangle", "square")
    np.testing.assert_allclose(predictor(make_image(box=(10, 20, 50, 60))).xyxy, [(10, 20, 50, 60)], atol=1)


def test_a_prediction_shows_itself() -> None:
    (found,) = Predictor(WhiteBoxBackend()).stream([make_image()])
    assert repr(found) == f"Prediction(image, 0, 0.00 s, {found.detections})"
    assert found in {found} and found != replace(found)  # compared by identity
    np.testing.assert_array_equal(found.plot(), found.detections.plot(found.image))
    assert found._repr_png_().startswith(b"\x89PNG")  # type: ignore[union-attr]
