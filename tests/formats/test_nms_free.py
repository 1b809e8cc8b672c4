"""Files of the anchor-free head: with NMS, and of its one-to-one branch, without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.randomize import randomize_
from yolorep.commands.export import run as export
from yolorep.errors import UserError
from yolorep.formats.pytorch import TorchBackend
from yolorep.inference.open import load_backend
from yolorep.inference.predictor import Predictor
from yolorep.models.detector import Detector, build_model
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.options import ExportOptions
from yolorep.weights.checkpoint import save_checkpoint

FORMATS = ("onnx", "torchscript")
SIZE = 64


def tiny_model(reg_max: int, *, one2one: bool) -> Detector:
    """With statistics as after training, and scores over the whole range."""
    torch.manual_seed(0)
    rows = {
        "nc": 3,
        "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2], "P3"], [-1, 1, "Conv", [24, 3, 2], "P4"]],
        "head": [[["P3", "P4"], 1, "DetectFree", ["nc", reg_max, one2one]]],
    }
    model = build_model(rows)
    with torch.no_grad():
        for branches in filter(None, (model.head.cls, model.head.one2one)):
            for level in branches:
                level[-1].bias.zero_()
    return randomize_(model).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("reg_max", "nms_free", "dynamic"),
    [
        pytest.param(16, True, True, marks=pytest.mark.slow),
        (1, False, True),
        pytest.param(16, False, False, marks=pytest.mark.slow),
        pytest.param(1, True, False, marks=pytest.mark.slow),
    ],
)
def test_files_compute_what_their_branch_computes(
    reg_max: int, nms_free: bool, dynamic: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(reg_max, one2one=True)
    save_checkpoint(tmp_path / "w.pt", model)
    options = ExportOptions(
        weights=str(tmp_path / "w.pt"), include=list(FORMATS), imgsz=SIZE, dynamic=dynamic, nms_free=nms_free
    )
    files = export(options)
    out = capsys.readouterr().out
    assert ("needs no NMS" in out) == nms_free
    deployed = fuse(model.for_inference(nms_free=nms_free))[0]
    assert f"{count_parameters(deployed):,} parameters" in out
    other = TorchBackend(model.for_inference(nms_free=not nms_free))
    for file in files:
        backend = load_backend(file)
        assert backend.nms_free == nms_free
        for shape in [(1, 3, SIZE, SIZE), (3, 3, 32, 96)] if dynamic else [(2, 3, SIZE, SIZE)]:
            ours, theirs = TorchBackend(model.for_inference(nms_free=nms_free))(images(*shape)), backend(images(*shape))
            assert (ours.scores - theirs.scores).abs().max() < 1e-4
            assert (ours.boxes - theirs.boxes).abs().max() < 1e-2
            assert (other(images(*shape)).scores - theirs.scores).abs().max() > 0.01
        if nms_free:
            assert load_backend(file, nms_free=True).nms_free
        else:
            with pytest.raises(UserError, match="--nms-free: expected a file exported with --nms-free"):
                load_backend(file, nms_free=True)


def test_the_predictor_honours_the_file_without_being_told(tmp_path: Path) -> None:
    model = tiny_model(16, one2one=True)
    save_checkpoint(tmp_path / "w.pt", model)
    (file,) = export(ExportOptions(weights=str(tmp_path / "w.pt"), imgsz=SIZE, nms_free=True))
    image = images(SIZE, SIZE, 3).numpy()
    settings = {"image_size": SIZE, "device": "cpu", "confidence": 0.3, "iou": 0.0, "max_detections": 40}
    told = Predictor(tmp_path / "w.pt", nms_free=True, **settings)(image)
    found = Predictor(file, **settings)(image)
    given = Predictor(fuse(model)[0], nms_free=True, **settings)(image)
    suppressed = Predictor(tmp_path / "w.pt", **settings)(image)
    assert len(found) == len(told) == len(given) > 2 * len(suppressed)  # an IoU of 0 leaves few boxes
    assert found.confidence == pytest.approx(told.confidence, abs=1e-4)
    assert given.confidence == pytest.approx(told.confidence, abs=1e-4)
    with pytest.raises(UserError, match="--agnostic-nms: this model runs without NMS"):
        Predictor(file, agnostic_nms=True, **settings)


def test_a_model_without_the_branch(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "w.pt", tiny_model(16, one2one=False))
    options = ExportOptions(weights=str(tmp_path / "w.pt"), imgsz=SIZE, nms_free=True)
    for call in (lambda: export(options), lambda: load_backend(tmp_path / "w.pt", nms_free=True)):
        with pytest.raises(UserError, match="--nms-free: expected a head with a one-to-one branch") as raised:
            call()
        assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
