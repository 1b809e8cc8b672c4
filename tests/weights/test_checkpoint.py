"""Our checkpoints: what goes in comes out, and failures leave the old file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.data.toy import small_disk
from tests.models.test_parser import tiny
from tests.randomize import randomize_
from yolorep.errors import UserError
from yolorep.inference.open import load_backend, load_model
from yolorep.models.detector import Detector, build_model
from yolorep.nn.reparam import fuse
from yolorep.weights.checkpoint import bn_values, save_checkpoint
from yolorep.weights.load import load_checkpoint


@pytest.fixture
def model() -> Detector:
    return randomize_(build_model(tiny(), names=["cat", "dog"])).eval()  # type: ignore[return-value]


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return a.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in a.state_dict().items()
    )


def test_round_trip(model: Detector, tmp_path: Path) -> None:
    ema = copy.deepcopy(model)
    with torch.no_grad():
        next(ema.parameters()).add_(1)
    save_checkpoint(tmp_path / "w.pt", model, ema=ema, training={"epoch": 3}, data="data/x.yaml")
    checkpoint = load_checkpoint(tmp_path / "w.pt")
    assert (checkpoint.training, checkpoint.data, checkpoint.names) == ({"epoch": 3}, "data/x.yaml", ("cat", "dog"))
    assert same(checkpoint.build(), ema) and same(checkpoint.build(use_ema=False), model)
    assert not load_model(tmp_path / "w.pt").training


def test_fitted_anchors_and_norm_values_survive(model: Detector, tmp_path: Path) -> None:
    model.head.anchors.mul_(1.5)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    norm.eps = 1e-5
    assert len(bn_values(model)) == 1
    save_checkpoint(tmp_path / "w.pt", model)
    again = load_model(tmp_path / "w.pt")
    assert torch.equal(again.head.anchors, model.head.anchors)
    assert next(m for m in again.modules() if isinstance(m, nn.BatchNorm2d)).eps == 1e-5


def test_fused_form(model: Detector, tmp_path: Path) -> None:
    fused, _ = fuse(model)
    save_checkpoint(tmp_path / "fused.pt", fused, fused=True)
    assert load_checkpoint(tmp_path / "fused.pt").fused
    again = load_model(tmp_path / "fused.pt")
    assert same(again, fused)
    images = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(
        load_backend(tmp_path / "fused.pt")(images).boxes, load_backend(tmp_path / "fused.pt")(images).boxes
    )


def test_holds_nothing_but_plain_values(model: Detector, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "w.pt", model, ema=model)
    assert torch.load(tmp_path / "w.pt", weights_only=True)["format"] == "yolorep-1"
    assert torch.serialization.get_unsafe_globals_in_checkpoint(str(tmp_path / "w.pt")) == []


def test_a_failed_save_keeps_the_old_file(model: Detector, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "w.pt", model)
    with small_disk(1000), pytest.raises(OSError, match=r"could not be written \(File too large\): '.*w.pt'"):
        save_checkpoint(tmp_path / "w.pt", build_model(tiny()))
    assert same(load_model(tmp_path / "w.pt"), model)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_missing_file() -> None:
    with pytest.raises(UserError, match=r"nowhere\.pt: no such file"):
        load_model("nowhere.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="yolorep-9"), "expected a checkpoint of format 'yolorep-1', found 'yolorep-9'"),
        (lambda c: c.pop("names"), "names is missing"),
        (lambda c: c.update(names=5), "names does not fit"),
        (lambda c: c.update(names="abc"), "names does not fit"),
        (lambda c: c.update(state_dict={"a": 3}), "state_dict does not fit"),
        (lambda c: c.update(bn={"a": 5}), "bn does not fit"),
        (lambda c: c["state_dict"]["model.0.conv.bn.bias"].fill_(float("nan")), "bias is not finite: .*diverged"),
        (lambda c: c["state_dict"].pop("model.0.conv.bn.weight"), r"1 missing \(model\.0\.conv\.bn\.weight\)"),
        (lambda c: c["state_dict"].update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda c: c["state_dict"].update({"model.0.conv.bn.bias": torch.zeros(3)}), "1 of another shape"),
        (lambda c: c["model_config"].pop("nc"), "nc: missing"),
    ],
)
def test_damaged_content(model: Detector, change: Any, message: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "w.pt", model)
    content = torch.load(tmp_path / "w.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "--weights: missing"),
        ("w.pth", r"expected weights ending in .*\(did you mean '\.pt'\?\)"),
        ("no.onnx", "no such file"),
    ],
)
def test_backends_of_files_that_are_none(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backend(name)
