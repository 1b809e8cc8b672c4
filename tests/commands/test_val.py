"""Evaluation: geometry, independence of batch size, what the command writes; the official weights' AP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.commands.conftest import SIZES
from tests.inference.white_box import WhiteBoxBackend
from yolorep.cli import main
from yolorep.commands.candidate import Candidate
from yolorep.commands.val import validate
from yolorep.data.catalog import load_data_config
from yolorep.data.dataset import DetectionDataset
from yolorep.data.scan import load_annotations
from yolorep.errors import UserError
from yolorep.evaluation.evaluator import Evaluation, evaluate
from yolorep.formats.base import Backend
from yolorep.inference.predictor import Predictor
from yolorep.ops.decode import Decoded
from yolorep.options import ValOptions


@pytest.fixture
def options(data: Path, tmp_path: Path) -> ValOptions:
    return ValOptions(weights="w.pt", data=str(data), imgsz=320, project=str(tmp_path / "runs"), workers=0)


def val(options: ValOptions, backend: Backend | None = None) -> Evaluation:
    return validate(Candidate.of(backend or WhiteBoxBackend(), options.weights, options), options)


@pytest.mark.parametrize("rect", [True, False])
def test_boxes_return_to_their_pixels(data: Path, rect: bool) -> None:
    dataset = DetectionDataset(load_annotations(load_data_config(data), "val"), image_size=320)
    evaluation = evaluate(WhiteBoxBackend(), dataset, batch_size=4, rect=rect)
    for index, (height, width) in enumerate(SIZES):
        best = evaluation.detections[index][0]
        expected = np.array([width // 4, height // 3, width * 3 // 4, height * 2 // 3])
        slack = 2.5 * max(1, max(height, width) / 320)  # resampling blurs the edge
        np.testing.assert_allclose(best.xyxy, expected, atol=slack)
        assert best.class_id == 1


def test_batch_size_does_not_matter(data: Path) -> None:
    dataset = DetectionDataset(load_annotations(load_data_config(data), "val"), image_size=320)
    results = [evaluate(WhiteBoxBackend(), dataset, batch_size=size) for size in (1, 3, 32)]
    assert results[0].results == results[1].results == results[2].results
    assert results[0].coco.metrics == results[2].coco.metrics
    assert results[0].coco.metrics["AP50"] > 0.99


class ChainBackend(Backend):
    """Boxes of which each overlaps the next one; the last one is surer of its second class."""

    names = ("cat", "dog")
    stride = 32
    image_size = None
    batch_size = None

    def _run(self, images: Tensor) -> Decoded:
        left = torch.tensor([0.0, 20.0, 33.0, 36.0])  # IoU 0.5 from the first to the second, 0.65 to the third
        boxes = torch.stack([left, torch.zeros(4), left + 60, torch.full((4,), 60.0)], dim=1)
        scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.3, 0.6]])
        return Decoded(boxes.expand(len(images), -1, -1), scores.expand(len(images), -1, -1))


def test_what_is_shown_is_what_detect_finds(data: Path) -> None:
    """What validation's NMS leaves would not do: it has no third box, and the last one twice."""
    dataset = DetectionDataset(load_annotations(load_data_config(data), "val"), image_size=320)
    evaluation = evaluate(ChainBackend(), dataset, batch_size=4, rect=False)
    square = SIZES.index((300, 300))
    predicted = Predictor(ChainBackend(), image_size=320)(dataset.annotations.paths[square])
    shown = evaluation.detected[square]
    np.testing.assert_array_equal(shown.xyxy, predicted.xyxy)
    np.testing.assert_array_equal(shown.confidence, predicted.confidence)
    assert shown.class_id.tolist() == predicted.class_id.tolist() == [0, 0, 1]
    assert shown.confidence.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert evaluation.detections[square].confidence.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.3])


def test_what_the_command_writes(options: ValOptions) -> None:
    folder = val(replace(options, save_json=True, save_txt=True, save_conf=True)).folder
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["AP50"] > 0.99 and len(metrics["per_class"]) == 2
    assert metrics["speed"].keys() == {"preprocess", "inference", "nms"}
    predictions = json.loads((folder / "predictions.json").read_text())
    assert {entry["image_id"] for entry in predictions} == set(range(len(SIZES)))  # the file names are numbers
    first = (folder / "labels" / "0.txt").read_text().splitlines()[0].split()
    assert first[0] == "1" and [float(x) for x in first[1:]] == pytest.approx([0.5, 0.5, 0.5, 1 / 3, 0.9], abs=0.02)
    for name in ("pr_curve.png", "confidence_curves.png", "confusion_matrix_normalized.png", "val_batch0.jpg"):
        assert (folder / name).stat().st_size > 1000
    assert metrics["best_confidence"] == pytest.approx(0.45, abs=0.01)  # anything below the squares' 0.9 would do
    assert metrics["best_f1"] == 1.0


def test_one_class(options: ValOptions) -> None:
    options = replace(options, single_cls=True)
    metrics = json.loads((val(options).folder / "metrics.json").read_text())
    assert [entry["name"] for entry in metrics["per_class"]] == ["item"]
    assert metrics["AP50"] > 0.99


def test_a_file_for_one_size_is_evaluated_at_it(options: ValOptions, capsys: pytest.CaptureFixture[str]) -> None:
    backend = WhiteBoxBackend(image_size=(160, 160), batch_size=2)
    val(options, backend)
    assert {shape[2:] for shape in backend.seen} == {(160, 160)}
    assert "exported for 160x160" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "--data: missing"),
        ({"weights": "x.onnx", "data": None}, "--data: missing"),
        ({"data": "data/shapes.yaml"}, "has 5 classes, but w.pt predicts 2"),
        ({"task": "test"}, "test"),
        ({"project": "/proc/nothing"}, "--project"),
    ],
)
def test_wrong_input(options: ValOptions, change: dict[str, object], message: str, tmp_path: Path) -> None:
    if change.get("data", "") is None:
        weights = tmp_path / "w.pt"
        from tests.models.test_parser import tiny
        from yolorep.models.detector import build_model
        from yolorep.weights.checkpoint import save_checkpoint

        save_checkpoint(weights, build_model(tiny()))
        options = replace(options, weights=str(weights))
        change = {**change, "weights": change.get("weights", str(weights))}
    with pytest.raises(UserError, match=message) as raised:
        val(replace(options, **change))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "ap", "ap50"),
    [
        ([], 0.338, 0.508),
        (["--task", "train", "--batch-size", "32"], 0.313, 0.474),
        (["--no-rect", "--no-fuse"], 0.334, 0.498),
    ],
)
def test_the_official_weights_score_as_published(
    flags: list[str], ap: float, ap50: float, shared: Path, tmp_path: Path
) -> None:
    """Against YOLOv5's own program, its detections scored by pycocotools."""
    weights, data = shared / "weights/yolov5n.pt", shared / "data/coco128/coco128.yaml"
    assert main(["val", "--weights", str(weights), "--data", str(data), "--project", str(tmp_path), *flags]) == 0
    metrics = json.loads((tmp_path / "exp" / "metrics.json").read_text())
    assert metrics["AP"] == pytest.approx(ap, abs=0.003)
    assert metrics["AP50"] == pytest.approx(ap50, abs=0.006)


def test_coco_json_with_crowds(shared: Path, tmp_path: Path) -> None:
    """The original annotations: ids with gaps, crowds that neither count as found nor as missed."""
    weights, data = shared / "weights/yolov5n.pt", shared / "data/tiny_coco/tiny_coco.yaml"
    flags = [
        "--weights",
        str(weights),
        "--data",
        str(data),
        "--project",
        str(tmp_path),
        "--save-json",
        "--imgsz",
        "320",
    ]
    assert main(["val", *flags]) == 0
    annotations = json.loads((shared / "data/tiny_coco/annotations/instances_val2017.json").read_text())
    predictions = json.loads((tmp_path / "exp" / "predictions.json").read_text())
    assert {entry["image_id"] for entry in predictions} <= {image["id"] for image in annotations["images"]}
    assert max(entry["category_id"] for entry in predictions) > 80
    assert json.loads((tmp_path / "exp" / "metrics.json").read_text())["AP"] > 0.1
