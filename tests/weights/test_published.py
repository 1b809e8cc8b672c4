"""Published weights: equal features and logits whoever's names they come in, and training from them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.randomize import randomize_
from tests.weights.published_files import config, network, published, same, saved
from tests.weights.test_layouts import AUTHORS, VARIANTS
from yolorep.errors import UserError
from yolorep.models.classifier import Classifier
from yolorep.models.detector import Detector, build_network
from yolorep.nn.conv import Normalize
from yolorep.nn.expand import ExpandedConv
from yolorep.nn.mobileone import BN_EPS, BN_MOMENTUM
from yolorep.options import TrainOptions
from yolorep.training.run import train
from yolorep.training.start import starting_model
from yolorep.weights.layouts import Layout, from_timm
from yolorep.weights.published import (
    build_published,
    load_backbone_weights,
    read_published,
    recognize,
)


def timm_model(name: str) -> nn.Module:
    """timm's network as training leaves it."""
    torch.manual_seed(0)
    model = randomize_(timm.create_model(name).eval())
    for key, parameter in model.named_parameters():
        if key.endswith("gamma"):
            nn.init.uniform_(parameter, -1.5, 1.5)
    return model


def written(model: nn.Module, layout: Layout, folder: Path) -> Path:
    """The file in which its publisher would put the model."""
    state = model.state_dict()
    names = from_timm(state, layout)
    state = {names[name]: tensor for name, tensor in state.items()}
    if layout.publisher == "timm":
        path = folder / "model.safetensors"
        save_file(state, path)
    elif layout.publisher == "official":
        path = folder / "RepVGG-train.pth"
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        path = folder / "unfused.pth.tar"
        torch.save({"state_dict": state} if layout.family == "fastvit" else state, path)
    return path


def outputs(model: nn.Module, taps: list[nn.Module], image: Tensor) -> list[Tensor]:
    """What the taps give, and the model."""
    found: list[Tensor] = []
    hooks = [tap.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for tap in taps]
    with torch.inference_mode():
        logits = model(image)
    for hook in hooks:
        hook.remove()
    return [*found, logits]


@pytest.mark.parametrize(
    ("family", "variant", "by"),
    [
        pytest.param(
            family,
            variant,
            by,
            marks=() if variant in ("s0", "a0") or (variant, by) == ("t8", "authors") else pytest.mark.slow,
            id=f"{family}/{variant}-{by}",
        )
        for family, variants in VARIANTS.items()
        for variant in variants
        for by in ("timm", "authors")
        # The key maps of all are tested by name; of the files under the authors' names one of every kind is loaded.
        if by == "timm" or variant in ("s0", "s4", "a0", "t8", "sa12")
    ],
)
def test_same_features_and_logits(family: Any, variant: str, by: str, tmp_path: Path) -> None:
    theirs = timm_model(f"{family}_{variant}")
    path = written(theirs, AUTHORS[family] if by == "authors" else Layout("timm", family), tmp_path)
    ours = build_published(path)
    assert isinstance(ours, Classifier) and not ours.training and f"{family}/{variant}-cls" in ours.config.source

    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    tagged = [row for row, spec in enumerate(ours.config.sections["backbone"]) if len(spec) == 5]
    mine = outputs(ours.double(), [ours.model[row] for row in tagged], image)
    expected = outputs(theirs.double(), list(theirs.stages), Normalize().double()(image))
    assert [image.shape[2] // feature.shape[2] for feature in mine[:-1]] == [4, 8, 16, 32]
    for feature, reference in zip(mine, expected, strict=True):
        assert reference.std() > 0
        assert (feature - reference).abs().max() <= 1e-10 * reference.abs().max()


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".pth.tar", ".bin"])
def test_endings(ending: str, tmp_path: Path) -> None:
    source, target = network(1), network(2)
    path = tmp_path / f"weights{ending}"
    save_file(published(source), path) if ending == ".safetensors" else torch.save(published(source), path)
    report = load_backbone_weights(target, path)
    assert same(source, target)
    count = sum(not name.endswith("num_batches_tracked") for name in source.state_dict()) - 2
    assert str(report) == (f"{path}: apple layout, {count}/{count} backbone tensors matched; 2 of the classifier too")


@pytest.mark.parametrize("layout", ["timm", "timm features_only", "apple"])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema", None])
def test_layouts_and_wrappers(layout: Any, wrapper: str | None, tmp_path: Path) -> None:
    source, target = network(1), network(2)
    state: Any = published(source, Layout(layout, "mobileone"))
    if layout == "timm features_only":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    path = tmp_path / "weights.pth"
    torch.save(state if wrapper is None else {"epoch": 3, "state_dict": {}, wrapper: state}, path)
    report = load_backbone_weights(target, path)
    assert report.layout == Layout(layout, "mobileone")
    assert same(source, target, but="model.4." if layout == "timm features_only" else "")
    assert report.fresh == (("4 Classify",) if layout == "timm features_only" else ())


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    raw, averaged, target = network(1), network(2), network(3)
    torch.save({"state_dict": published(raw), "state_dict_ema": published(averaged)}, tmp_path / "w.pth")
    load_backbone_weights(target, tmp_path / "w.pth")
    assert same(averaged, target)


def test_detector_takes_the_backbone_only(tmp_path: Path) -> None:
    """Rows of other kinds in the backbone section, the neck and the head keep their initial values."""
    source = network(1)
    torch.save(published(source), tmp_path / "w.pth")
    rows = [*config()["backbone"], [-1, 1, "SPPF", [24, 5]]]
    target = build_network(config(backbone=rows, anchors=3, head=[[[2, 4], 1, "Detect", ["nc", "anchors"]]]))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    report = load_backbone_weights(target, tmp_path / "w.pth")
    for name, tensor in target.state_dict().items():
        published_row = int(name.split(".")[1]) < 4
        assert torch.equal(tensor, source.state_dict()[name] if published_row else before[name])
    assert str(report).endswith("matched; not used: head.fc (2); rows that keep initial values: 4 SPPF")


def test_other_classes_keep_the_initial_classifier(tmp_path: Path) -> None:
    torch.save(published(network(1)), tmp_path / "w.pth")
    report = load_backbone_weights(network(2, nc=5), tmp_path / "w.pth")
    assert report.classifier == () and report.unused == ("head.fc.weight", "head.fc.bias")
    assert report.fresh == ("4 Classify",)


def test_norm_constants_stay(tmp_path: Path) -> None:
    """YOLOv5's 1e-3 would change published features several times over."""
    torch.save(published(network(1)), tmp_path / "w.pth")
    target = network(2)
    load_backbone_weights(target, tmp_path / "w.pth")
    norms = [module for module in target.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and {(norm.eps, norm.momentum) for norm in norms} == {(BN_EPS, BN_MOMENTUM)} == {(1e-5, 0.1)}


def test_counters_may_be_missing_and_types_differ(tmp_path: Path) -> None:
    source, target = network(1), network(2)
    state = {name: tensor.double() for name, tensor in published(source).items() if "num_batches" not in name}
    torch.save(state, tmp_path / "w.pth")
    load_backbone_weights(target, tmp_path / "w.pth")
    assert same(source, target)
    assert target.state_dict()["model.1.conv.conv_kxk.0.conv.weight"].dtype == torch.float32


def test_training_checkpoint_with_objects_of_the_trainer(tmp_path: Path) -> None:
    """torch refuses such a file; the restricted reader takes its tensors and leaves the rest inert."""
    source, target = network(1), network(2)
    content = {"args": argparse.Namespace(lr=0.1), "state_dict": published(source), "metric": 0.7}
    torch.save(content, tmp_path / "w.pth.tar")
    load_backbone_weights(target, tmp_path / "w.pth.tar")
    assert same(source, target)


def test_another_number_of_classes(tmp_path: Path) -> None:
    state = published(build_network("cfg/mobileone/s1-cls.yaml", num_classes=4))
    built = build_published(saved(state, tmp_path))
    assert built.num_classes == 4 and len(built.names) == 4


def test_unknown_widths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one of mobileone/s0, .*, found mobileone of other widths or depths"):
        build_published(saved(published(network()), tmp_path))


def test_a_file_without_classifier(tmp_path: Path) -> None:
    path = saved(timm.create_model("mobileone_s0", features_only=True).state_dict(), tmp_path)
    assert recognize(read_published(path)) == "mobileone/s0"
    with pytest.raises(UserError, match="found the backbone of mobileone/s0 without one"):
        build_published(path)


@pytest.mark.slow
def test_a_file_without_fastvits_last_block(tmp_path: Path) -> None:
    state = timm.create_model("fastvit_t8").state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("final_conv.")}
    with pytest.raises(UserError, match="expected all of fastvit/t8, found nothing that fits: .* FastViTTail"):
        build_published(saved(state, tmp_path))


@pytest.fixture
def detector_yaml(tmp_path: Path) -> str:
    path = tmp_path / "model.yaml"
    backbone = [*config()["backbone"], [-1, 1, "Conv", [24, 3, 1]]]
    head = [[[2, 4], 1, "Detect", ["nc", [[10, 10], [30, 30]]]]]
    path.write_text(str(config(backbone=backbone, head=head)).replace("'", '"'))
    return str(path)


def test_training_starts_from_them(detector_yaml: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = network(1)
    path = str(saved(published(source), tmp_path))
    model = starting_model(detector_yaml, None, names=("a", "b", "c"), backbone_weights=path)
    assert isinstance(model, Detector)
    assert torch.equal(
        model.state_dict()["model.3.0.pw.conv.conv_kxk.0.conv.weight"],
        source.state_dict()["model.3.0.pw.conv.conv_kxk.0.conv.weight"],
    )
    assert f"{path}: apple layout" in capsys.readouterr().out


def test_expanded_after_loading(detector_yaml: str, tmp_path: Path) -> None:
    path = str(saved(published(network(1)), tmp_path))
    models = []
    for rule in (None, "mobileone"):
        torch.manual_seed(0)  # of the rows that are not loaded
        model = starting_model(detector_yaml, None, names=("a", "b", "c"), backbone_weights=path, expand=rule)
        models.append(model.eval())
    plain, expanded = models
    assert any(isinstance(module, ExpandedConv) for module in expanded.modules())
    image = plain.example_input()
    torch.testing.assert_close(expanded(image).levels, plain(image).levels)


@pytest.mark.parametrize(
    ("cfg", "weights", "expected"),
    [
        ("model.yaml", "best.pt", "found --weights best.pt"),
        (None, "best.pt", "found --weights"),
        (None, None, "neither"),
    ],
)
def test_two_sources_are_refused(cfg: str | None, weights: str | None, expected: str) -> None:
    with pytest.raises(UserError, match=f"--backbone-weights w.pth: expected --cfg, .* {expected}"):
        starting_model(cfg, weights, names=("a",), backbone_weights="w.pth")


def test_train_takes_the_option(detector_yaml: str) -> None:
    with pytest.raises(UserError, match="^missing.pth: no such file"):
        train(TrainOptions(cfg=detector_yaml, backbone_weights="missing.pth"))
