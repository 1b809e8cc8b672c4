"""What a run starts from: transferred weights, class rows, frozen layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolorep.errors import UserError
from yolorep.models.detector import Detector, build_model
from yolorep.training.start import freeze_layers, starting_model
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.transfer import transfer_weights

MODEL = {
    "nc": 2,
    "anchors": [[16, 16, 24, 24], [32, 32, 48, 48]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


def model(*names: str, seed: int = 0, **changes: object) -> Detector:
    torch.manual_seed(seed)
    return build_model({**MODEL, **changes}, names=names)


def rows(detector: Detector, level: int = 0) -> torch.Tensor:
    """Predictor weights by anchor: (2, 5 + nc, c)."""
    return detector.head.m[level].weight.unflatten(0, (2, -1)).squeeze((-1, -2))


def test_same_classes_take_everything() -> None:
    source, target = model("a", "b", seed=1), model("a", "b", seed=2)
    report = transfer_weights(target, source.state_dict(), names=source.names, anchors=True)
    assert str(report) == "transferred 23/23 tensors"
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("names", [("c", "d"), ("c", "d", "e"), ("c",)], ids=len)
def test_other_classes_take_all_but_the_class_rows(names: tuple[str, ...]) -> None:
    source, target = model("a", "b", seed=1), model(*names, seed=2)
    fresh = rows(target).clone()
    bias = target.head.m[1].bias.clone()
    report = transfer_weights(target, source.state_dict(), names=source.names, anchors=True)
    assert str(report) == "transferred 23/23 tensors, class rows initialized anew"
    assert torch.equal(rows(target)[:, :5], rows(source)[:, :5])
    assert torch.equal(rows(target)[:, 5:], fresh[:, 5:])
    width = 5 + len(names)
    assert torch.equal(target.head.m[1].bias.view(2, width)[:, 5:], bias.view(2, width)[:, 5:])
    assert torch.equal(target.head.m[1].bias.view(2, width)[:, :5], source.head.m[1].bias.view(2, 7)[:, :5])


def test_another_number_of_anchors_takes_no_rows() -> None:
    """3 anchors of 1 class have as many rows as 2 anchors of 4."""
    source = model("a", seed=1, anchors=[[16, 16, 24, 24, 28, 28], [32, 32, 48, 48, 60, 60]])
    target = model("a", "b", seed=2)
    before = rows(target).clone()
    report = transfer_weights(target, source.state_dict(), names=source.names, anchors=False)
    assert torch.equal(rows(target), before)
    assert {"model.3.m.0.weight", "model.3.m.1.bias"} <= set(report.missing)


def test_other_shapes_and_anchors_stay() -> None:
    source = model("a", "b", seed=1)
    source.head.anchors += 1
    backbone = [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [24, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]
    target = model("a", "b", seed=2, backbone=backbone)
    anchors = target.head.anchors.clone()
    report = transfer_weights(target, source.state_dict(), names=source.names, anchors=False)
    assert torch.equal(target.head.anchors, anchors)
    assert "model.1.conv.conv.weight" in report.missing
    assert "model.3.m.0.weight" in report.missing
    assert "model.3.m.1.weight" in report.transferred
    assert report.outside_head == 12  # two layers but for a weight, and the count of batches between


def test_from_a_file_the_anchors_and_norms_are_the_files(tmp_path: Path) -> None:
    source = model("a", "b", seed=1, anchors=2)
    source.head.anchors.copy_(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]))
    source.model[0].conv.bn.eps = 0.02
    save_checkpoint(tmp_path / "w.pt", source)
    assert source.head.needs_fitting
    target = starting_model(None, str(tmp_path / "w.pt"), names=("x",))
    assert torch.equal(target.head.anchors, source.head.anchors)
    assert not target.head.needs_fitting
    assert target.model[0].conv.bn.eps == 0.02
    assert (target.names, target.num_classes) == (("x",), 1)


def test_averaged_weights_are_the_ones_to_start_from(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", model("a", "b", seed=1), ema=model("a", "b", seed=2))
    target = starting_model(None, str(tmp_path / "last.pt"), names=("a", "b"))
    assert torch.equal(rows(target), rows(model("a", "b", seed=2)))


@pytest.mark.parametrize(
    ("layers", "frozen"), [([], set()), ([0], set()), ([2], {0, 1}), ([0, 2], {0, 2}), ([1, 3], {1, 3})]
)
def test_freeze(layers: list[int], frozen: set[int]) -> None:
    detector = model("a", "b")
    freeze_layers(detector, layers)
    for index, layer in enumerate(detector.model):
        assert all(parameter.requires_grad != (index in frozen) for parameter in layer.parameters())


@pytest.mark.parametrize("layers", [[4], [5], [-1], [0, 4], [0, 1, 2, 3]])
def test_wrong_freeze(layers: list[int]) -> None:
    with pytest.raises(UserError, match="--freeze"):
        freeze_layers(model("a", "b"), layers)
