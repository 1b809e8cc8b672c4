"""Weights remember the image size they were trained at, and every command takes it unless told otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from tests.training.toy_run import MODEL
from yolorep import Predictor, load_model, val
from yolorep import train as train_in_python
from yolorep.cli import main
from yolorep.errors import UserError
from yolorep.models.detector import build_model
from yolorep.ops.letterbox import Geometry
from yolorep.options import TrainOptions
from yolorep.training.run import train
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for index in range(2):
            image = np.full((60, 80, 3), 40, np.uint8)
            image[20:40, 20:60, index] = 250
            cv2.imwrite(str(tmp_path / "images" / split / f"{index}.png"), image)
            (tmp_path / "labels" / split / f"{index}.txt").write_text(f"{index} 0.5 0.5 0.5 0.333\n")
    (tmp_path / "data.yaml").write_text("{train: images/train, val: images/val, names: [blue, green]}")
    return tmp_path


def weights(folder: Path, size: int | None) -> str:
    model = build_model(MODEL)
    model.geometry = Geometry(size)
    save_checkpoint(folder / "w.pt", model.eval())
    return str(folder / "w.pt")


def test_a_run_is_evaluated_at_its_own_size(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "model.yaml").write_text(yaml.safe_dump(MODEL))
    common = {"cfg": str(data / "model.yaml"), "data": str(data / "data.yaml"), "device": "cpu", "workers": 0}
    train(TrainOptions(imgsz=96, epochs=1, batch_size=2, project=str(data / "runs"), **common))
    best = data / "runs/exp/weights/best.pt"
    for name in ("best.pt", "last.pt"):
        assert load_checkpoint(best.with_name(name)).geometry == Geometry(96)
    assert load_model(best).geometry.image_size == 96
    capsys.readouterr()
    common = ["--weights", str(best), "--project", str(data / "out")]
    assert main(["val", "--data", str(data / "data.yaml"), "--workers", "0", *common]) == 0
    said = f"{best}: imgsz 96, which it was trained at\n"
    assert said in capsys.readouterr().out
    Predictor(best, device="cpu")
    assert capsys.readouterr().out == said
    assert main(["detect", "--source", str(data / "images/val"), *common]) == 0
    assert said in capsys.readouterr().out
    assert main(["export", "--include", "torchscript", "--weights", str(best)]) == 0
    out = capsys.readouterr().out
    assert said in out and "input 1x3x96x96" in out
    Predictor(best.with_suffix(".torchscript"), image_size=128, device="cpu")
    said = f"{best.with_suffix('.torchscript')}: imgsz 96x96, which it was exported for, instead of 128\n"
    assert capsys.readouterr().out == said
    assert main(["fuse", "--weights", str(best), "--output", str(data / "fused.pt")]) == 0
    assert load_checkpoint(data / "fused.pt").geometry == Geometry(96)


@pytest.mark.parametrize(
    ("trained", "asked", "taken"), [(96, None, 96), (96, 64, 64), (None, None, 640), (None, 64, 64)]
)
def test_what_is_asked_for_counts_first(data: Path, trained: int | None, asked: int | None, taken: int) -> None:
    file = weights(data, trained)
    assert Predictor(file, image_size=asked, device="cpu").image_size == taken
    assert main(["export", "--include", "torchscript", "--dynamic", "--weights", file]) == 0
    assert Predictor(Path(file).with_suffix(".torchscript"), image_size=asked, device="cpu").image_size == taken


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_height_and_width(data: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    file = Path(weights(data, None))
    assert main(["export", "--include", kind, "--imgsz", "64", "120", "--weights", str(file)]) == 0
    out = capsys.readouterr().out
    assert "--imgsz 64x120: rounded up to 64x128, a multiple of the largest stride" in out and "input 1x3x64x128" in out
    exported = file.with_suffix(f".{kind}")
    images = [cv2.imread(str(path)) for path in sorted((data / "images/val").iterdir())]
    options = {"device": "cpu", "confidence": 0.0}
    model, static = Predictor(file, image_size=(64, 128), **options), Predictor(exported, **options)
    assert model.image_size == static.image_size == (64, 128)
    for one, other in zip(
        model([image[:40] for image in images]), static([image[:40] for image in images]), strict=True
    ):
        np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-3)
    common = ["--data", str(data / "data.yaml"), "--workers", "0", "--project", str(data / "out")]
    found = []
    for name, argv in (("a", [str(file), "--imgsz", "64", "128", "--no-rect"]), ("b", [str(exported)])):
        assert main(["val", *common, "--name", name, "--save-json", "--weights", *argv]) == 0
        found.append(json.loads((data / "out" / name / "predictions.json").read_text()))
    assert len(found[0]) == len(found[1]) > 0
    np.testing.assert_allclose(*([entry["score"] for entry in entries] for entries in found), atol=1e-3)
    assert "equal letterboxes, as it was exported for 64x128 only" in capsys.readouterr().out


def test_height_and_width_in_python(data: Path) -> None:
    file = weights(data, None)
    with pytest.raises(UserError, match=r"val\(\): imgsz: expected int .* found \(1, 2, 3\)"):
        val(weights=file, data=data / "data.yaml", imgsz=[1, 2, 3])
    (data / "model.yaml").write_text(yaml.safe_dump(MODEL))
    with pytest.raises(UserError, match=r"train\(\): imgsz: expected int, found \(96, 64\)"):
        train_in_python(cfg=data / "model.yaml", data=data / "data.yaml", imgsz=(96, 64))  # type: ignore[arg-type]


THIN = [(1, 1080), (1080, 1), (1, 1), (2, 3), (1, 9)]


@pytest.mark.slow
def test_thin_images(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for number, (height, width) in enumerate(THIN):
            image = np.full((height, width, 3), 10 + 40 * number, np.uint8)
            cv2.imwrite(str(data / "images" / split / f"thin{number}.{'jpg' if number % 2 else 'png'}"), image)
            (data / "labels" / split / f"thin{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 1 1\n")
    (data / "model.yaml").write_text(yaml.safe_dump(MODEL))
    common = ["--data", str(data / "data.yaml"), "--imgsz", "64", "--workers", "0"]
    argv = ["--cfg", str(data / "model.yaml"), "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
    assert main(["train", *argv, *common, "--project", str(data / "runs"), "--rect"]) == 0
    best = str(data / "runs/exp/weights/best.pt")
    assert main(["val", "--weights", best, *common, "--augment", "--project", str(data / "v")]) == 0
    assert (data / "v/exp/val_batch0.jpg").exists()
    source = ["--source", str(data / "images/val"), "--imgsz", "64", "--conf-thres", "0"]
    assert main(["detect", "--weights", best, *source, "--save-crop", "--save-txt", "--project", str(data / "d")]) == 0
    assert len(list((data / "d/exp").glob("thin*"))) == len(THIN)
    assert "not written" not in capsys.readouterr().out


def test_the_suffix_of_weights_in_capitals(data: Path) -> None:
    file = Path(weights(data, 96))
    upper = file.rename(file.with_name("W.PT"))
    assert Predictor(upper, device="cpu").image_size == 96
    assert main(["export", "--include", "torchscript", "--weights", str(upper)]) == 0
    exported = upper.with_suffix(".torchscript")
    assert Predictor(exported.rename(upper.with_suffix(".TorchScript")), device="cpu").image_size == 96


def test_no_word_where_nothing_is_known(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--source", str(data / "images/val"), "--nosave", "--weights", weights(data, None)]) == 0
    assert "trained at" not in capsys.readouterr().out


def test_files_of_before(data: Path) -> None:
    file = weights(data, 96)
    content = torch.load(file, weights_only=True)
    del content["geometry"]
    torch.save(content, file)
    assert load_checkpoint(file).geometry == Geometry()


@pytest.mark.parametrize(
    "damage",
    [None, [], {"image_size": 0, "pad": 0.5}, {"image_size": "96", "pad": 0.5}, {"size": 3}, {"image_size": True}],
)
def test_damaged_geometry(data: Path, damage: object) -> None:
    file = weights(data, 96)
    torch.save({**torch.load(file, weights_only=True), "geometry": damage}, file)
    with pytest.raises(UserError, match="damaged checkpoint: geometry does not fit"):
        load_checkpoint(file)
