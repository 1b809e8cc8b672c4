"""``yolorep classify``: what it reads, what it prints, what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image

from tests.media.pipes import pipe_in
from yolorep import Predictor
from yolorep.cli import main
from yolorep.commands.classify import DEFAULT, FASTVIT, Preprocessing, preprocessing
from yolorep.commands.classify import run as classify
from yolorep.errors import UserError
from yolorep.models.detector import build_network
from yolorep.nn.reparam import fuse
from yolorep.options import ClassifyOptions
from yolorep.weights.checkpoint import save_checkpoint

MODEL = {
    "nc": 6,
    "backbone": [[-1, 1, "Normalize", []], [-1, 1, "MobileOneStem", [16]], [-1, 1, "MobileOne", [16, 2, 2]]],
    "head": [[-1, 1, "Classify", ["nc"]]],
}
NAMES = ["red", "green", "blue", "dark", "grey", "bright"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("a", (0, 0, 255)), ("b", (0, 255, 0))):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((40, 60, 3), colour, np.uint8))
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_network(MODEL, names=NAMES).eval()
    save_checkpoint(tmp_path / "classifier.pt", network)
    return tmp_path / "classifier.pt"


def test_probabilities_are_the_unfused_networks(
    weights: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify(ClassifyOptions(weights=str(weights), source=str(images), imgsz=32, json=True)) == 2
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(result["path"]).name for result in results] == ["a.png", "b.png"]
    torch.manual_seed(0)
    network = build_network(MODEL, names=NAMES).eval()
    red = torch.zeros(1, 3, 32, 32)
    red[:, 0] = 1
    with torch.inference_mode():
        expected = network(red)[0].softmax(0)
    order = expected.argsort(descending=True)[:5].tolist()
    assert [name for name, _ in results[0]["top"]] == [NAMES[i] for i in order]
    assert [p for _, p in results[0]["top"]] == pytest.approx([float(expected[i]) for i in order], abs=1e-4)
    assert main(["classify", "--weights", str(weights), "--source", str(images), "--imgsz", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{images / 'a.png'}: {NAMES[order[0]]} ")


def test_an_image_is_piped_in(
    weights: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classify(ClassifyOptions(weights=str(weights), source=str(images / "a.png"), imgsz=32))
    expected = capsys.readouterr().out.removeprefix(str(images / "a.png"))
    pipe_in(monkeypatch, (images / "a.png").read_bytes())
    assert classify(ClassifyOptions(weights=str(weights), source="-", imgsz=32)) == 1
    assert capsys.readouterr().out == f"stdin{expected}"


def test_json_and_unreadable_images(weights: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "c.png").write_bytes(b"no image")
    assert main(["classify", "--weights", str(weights), "--source", str(images), "--imgsz", "32", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"skipped {images / 'c.png'}: ") and printed.err.count("\n") == 1
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [len(line["top"]) for line in lines] == [5, 5]


def test_fused_checkpoints_run(weights: Path, images: Path, tmp_path: Path) -> None:
    fused, _ = fuse(build_network(MODEL, names=NAMES).eval(), strict=True)
    save_checkpoint(tmp_path / "fused.pt", fused, fused=True)
    assert classify(ClassifyOptions(weights=str(tmp_path / "fused.pt"), source=str(images), imgsz=32)) == 2


@pytest.mark.parametrize("name", ["mobileone_s0", "repvgg_a0", "fastvit_t8"])
@pytest.mark.parametrize("shape", [(300, 451), (640, 480), (100, 80)])
def test_preprocessing_is_the_published_one(name: str, shape: tuple[int, int]) -> None:
    published = timm.get_pretrained_cfg(name)
    ours = FASTVIT if name.startswith("fastvit") else DEFAULT
    assert (ours.size, ours.crop, ours.interpolation.value) == (
        published.input_size[1],
        published.crop_pct,
        published.interpolation,
    )
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (9, 11, 3), np.uint8), shape[::-1], interpolation=cv2.INTER_CUBIC)
    transform = timm.data.create_transform(
        published.input_size,
        interpolation=published.interpolation,
        crop_pct=published.crop_pct,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    expected = transform(Image.fromarray(image))
    found = ours(torch.from_numpy(image).permute(2, 0, 1)) / 255
    assert (found - expected).abs().max() <= 2.5 / 255  # PIL rounds after each of its two passes


def test_family_decides_unless_a_size_is_given() -> None:
    with torch.device("meta"):
        fastvit, mobileone = (build_network(f"cfg/{name}-cls.yaml") for name in ("fastvit/t8", "mobileone/s0"))
    assert preprocessing(fastvit) == FASTVIT and preprocessing(mobileone) == DEFAULT
    assert preprocessing(fastvit, size=64) == Preprocessing(64, FASTVIT.crop, FASTVIT.interpolation)


@pytest.mark.parametrize("shape", [(1, 20000), (4000, 4), (1, 1)])
def test_long_thin_images_need_little_memory(shape: tuple[int, int]) -> None:
    assert DEFAULT(torch.zeros(3, *shape, dtype=torch.uint8)).shape == (3, 224, 224)


def test_refusals(weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = build_network("cfg/yolov5n_mobileone.yaml", num_classes=2).eval()
    save_checkpoint(tmp_path / "detector.pt", detector)
    (images / "empty").mkdir()
    (images / "empty" / "x.png").write_bytes(b"no image")
    for arguments, message in (
        (["--source", str(images)], "--weights: missing"),
        (["--weights", str(weights)], "--source is missing"),
        (
            ["--weights", str(tmp_path / "detector.pt"), "--source", str(images)],
            "detector.pt: expected a classifier, found a detector; it runs with 'yolorep detect'",
        ),
        (["--weights", str(tmp_path / "no.pt"), "--source", str(images)], "no such file"),
        (["--weights", str(weights), "--source", str(images / "empty")], "not one image could be read"),
    ):
        assert main(["classify", *arguments, "--imgsz", "32"]) == 2
        error = capsys.readouterr().err.strip()
        *skipped, last = error.splitlines()
        assert message in last and all(line.startswith("skipped ") for line in skipped)


def test_a_detector_of_yolov5_and_an_exported_one(
    images: Path, shared: Path, white_box: str, capsys: pytest.CaptureFixture[str]
) -> None:
    yolov5 = str(shared / "weights" / "yolov5n.pt")
    for weights, message in (
        (yolov5, "expected a classifier, found a detector; it runs with 'yolorep detect'"),
        (white_box, "expected a classifier, found an exported detector; it runs with 'yolorep detect'"),
    ):
        assert main(["classify", "--weights", weights, "--source", str(images)]) == 2
        assert capsys.readouterr().err == f"error: {weights}: {message}\n"


@pytest.mark.parametrize("command", ["detect", "val", "export", "Predictor"])
def test_a_classifier_is_told_where_it_runs(
    weights: Path, images: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    message = f"{weights}: expected a detector, found a classifier; it runs with 'yolorep classify'"
    if command == "Predictor":
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            Predictor(weights)
        return
    more = {"detect": ["--source", str(images)], "val": ["--data", "data/shapes.yaml"], "export": []}[command]
    assert main([command, "--weights", str(weights), *more]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
