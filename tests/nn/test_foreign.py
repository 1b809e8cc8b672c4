"""Backbones of timm and torchvision as rows: the same features, strides and tags, fused, saved, exported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from tests.randomize import randomize_
from tests.timm_files import needs_timm
from yolorep.errors import FuseError, UserError
from yolorep.formats import FORMATS, load_format
from yolorep.formats.base import Deployed, Format
from yolorep.formats.metadata import Metadata
from yolorep.formats.pytorch import TorchBackend
from yolorep.formats.samples import sample_batches
from yolorep.formats.verify import compare
from yolorep.models.detector import build_model
from yolorep.models.model_file import load_config, parse_config
from yolorep.nn.foreign import ForeignBackbone, Timm, TorchVision
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.training.start import freeze_layers
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint

#: What a row must say; timm's ``test_`` networks are its small ones.
ROWS = [
    pytest.param(Timm, "test_resnet", [2, 3, 4], (48, 192, 96), (8, 16, 32), marks=needs_timm),
    pytest.param(Timm, "test_convnext", [1, 2, 3], (32, 48, 64), (8, 16, 32), marks=needs_timm),
    pytest.param(Timm, "mobilenetv3_small_050", [1, 2, 4], (8, 16, 288), (4, 8, 32), marks=needs_timm),
    pytest.param(Timm, "resnet18", [2], (128,), (8,), marks=needs_timm),
    (TorchVision, "resnet18", [2, 3, 4], (128, 256, 512), (8, 16, 32)),
    (TorchVision, "convnext_tiny", [1, 2, 3], (192, 384, 768), (8, 16, 32)),
    (TorchVision, "mobilenet_v3_small", [0, 2, 3], (16, 24, 48), (2, 8, 16)),
    (TorchVision, "shufflenet_v2_x0_5", [1, 4], (24, 1024), (4, 32)),
]


def image(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("row", "name", "indices", "channels", "strides"), ROWS)
def test_channels_and_strides(
    row: type[ForeignBackbone], name: str, indices: list[int], channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    backbone = row(name, indices).eval()
    assert (backbone.out_channels, backbone.strides) == (channels, strides)
    with torch.inference_mode():
        features = backbone(torch.rand(1, 3, 96, 64))
    assert [tuple(feature.shape) for feature in features] == [
        (1, count, 96 // stride, 64 // stride) for count, stride in zip(channels, strides, strict=True)
    ]


@needs_timm
@pytest.mark.parametrize(
    ("name", "indices"),
    [("test_resnet", [2, 3, 4]), ("test_convnext", [0, 1, 3]), ("mobilenetv3_small_050", [2, 3, 4])],
)
def test_features_are_those_of_timm(name: str, indices: list[int]) -> None:
    import timm

    ours = randomize_(Timm(name, indices).double()).eval()
    theirs = timm.create_model(name, pretrained=False, features_only=True, out_indices=indices).double().eval()
    theirs.load_state_dict({key.removeprefix("net."): value for key, value in ours.state_dict().items()}, strict=True)
    x = image(2, 3, 64, 96)
    for found, expected in zip(ours(x), theirs(x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "indices", "nodes"),
    [
        ("resnet18", [2, 3, 4], ["layer2", "layer3", "layer4"]),
        ("mobilenet_v3_small", [2, 3, 4], ["features.3", "features.8", "features.12"]),
        ("efficientnet_b0", [1, 2], ["features.2", "features.3"]),
        ("densenet121", [1, 4], ["features.denseblock1", "features.norm5"]),
        ("regnet_x_400mf", [1, 2], ["trunk_output.block1", "trunk_output.block2"]),
    ],
)
def test_features_are_those_of_torchvision(name: str, indices: list[int], nodes: list[str]) -> None:
    theirs = randomize_(models.get_model(name, weights=None).double()).eval()
    ours = TorchVision(name, indices).double().eval()
    missing, _ = ours.net.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing  # the names are torchvision's; what follows the last feature is left out
    expected = create_feature_extractor(theirs, {node: str(number) for number, node in enumerate(nodes)})
    x = image(1, 3, 64, 96)
    for number, (found, wanted) in enumerate(zip(ours(x), expected(x).values(), strict=True)):
        assert torch.equal(found, wanted), number


@pytest.mark.parametrize(("name", "indices"), [("resnet18", [2, 3]), ("mobilenet_v3_small", [2, 3])])
def test_what_follows_the_last_feature_is_left_out(name: str, indices: list[int]) -> None:
    backbone = TorchVision(name, indices).train()
    sum(feature.square().mean() for feature in backbone(torch.rand(2, 3, 64, 64))).backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key


@pytest.mark.parametrize(
    ("row", "name", "indices", "units"),
    [
        pytest.param(Timm, "test_resnet", [2, 3, 4], 15, marks=needs_timm),
        pytest.param(Timm, "mobilenetv3_small_050", [2, 3, 4], 34, marks=needs_timm),
        (TorchVision, "resnet18", [1, 4], 20),
        (TorchVision, "mobilenet_v3_small", [2, 3, 4], 34),
        (TorchVision, "efficientnet_b0", [2, 3], 33),
    ],
)
def test_what_is_convolutions_and_batchnorms_fuses_completely(
    row: type[ForeignBackbone], name: str, indices: list[int], units: int
) -> None:
    backbone = randomize_(row(name, indices).double()).eval()
    fused, report = fuse(backbone, strict=True)
    assert report.kinds == {"ConvBN": units} and report.max_error < 1e-12
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert report.params_fused < report.params and (fused.out_channels, fused.strides) == (
        backbone.out_channels,
        backbone.strides,
    )
    x = image(2, 3, 64, 96)
    for found, expected in zip(fused(x), backbone(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not fuse(fused)[1].records


@pytest.mark.parametrize(
    ("row", "name", "reason"),
    [
        pytest.param(Timm, "test_convnext", "LayerNorm2d is no BatchNorm", marks=needs_timm),
        pytest.param(Timm, "test_efficientnet_evos", "EvoNorm2dS0 is no BatchNorm", marks=needs_timm),
        pytest.param(Timm, "tf_mobilenetv3_small_minimal_100", "a Conv2dSame, which is no plain", marks=needs_timm),
        pytest.param(Timm, "repvit_m0_9", "which is no layer's output", marks=needs_timm),
        (TorchVision, "convnext_tiny", "LayerNorm2d is no BatchNorm"),
        (TorchVision, "densenet121", "it reads cat, which is no layer's output"),
    ],
)
def test_what_does_not_fold_is_kept_with_its_reason(row: type[ForeignBackbone], name: str, reason: str) -> None:
    backbone = randomize_(row(name, [1, 2]).double()).eval()
    fused, report = fuse(backbone)
    assert any(reason in kept.reason for kept in report.kept)
    left = {
        key for key, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm)
    }
    assert left <= {kept.name for kept in report.kept}
    x = image(1, 3, 64, 96)
    for found, expected in zip(fused(x), backbone(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(FuseError, match="is kept"):
        fuse(backbone, strict=True)


def detector(row: str, name: str, indices: list[int], tags: object, **changes: Any) -> dict[str, Any]:
    """A model file with that backbone and a head on the features tagged P4 and P5."""
    return {
        "nc": 2,
        "backbone": [[-1, 1, "Normalize", []], [-1, 1, row, [name, {"out_indices": indices}], tags]],
        "head": [
            [-1, 1, "Conv", [16, 1, 1]],
            ["P4", 1, "Conv", [16, 1, 1]],
            [[3, 2], 1, "DetectFree", ["nc", 4]],
        ],
        **changes,
    }


VISION = ("TorchVision", "mobilenet_v3_small", [3, 4], ["P4", "P5"])


def test_tags_name_the_features_and_the_row_before_is_the_last() -> None:
    model = build_model(detector("TorchVision", "mobilenet_v3_small", [2, 3, 4], ["P3", "P4", "P5"]))
    assert [str(source) for source in model.model.routes[2:4]] == ["1", "1[1]"]
    assert [model.model[index].conv.conv.in_channels for index in (2, 3)] == [576, 48]
    assert model.strides == (16, 32) and model.max_stride == 32


def test_a_single_tag_is_the_last_feature() -> None:
    model = build_model(detector("TorchVision", "mobilenet_v3_small", [2, 3], "P4"))
    assert [model.model[index].conv.conv.in_channels for index in (2, 3)] == [48, 48]


def test_multiples_leave_a_foreign_backbone_alone() -> None:
    wide, narrow = (build_model(detector(*VISION, width_multiple=width)) for width in (1, 0.5))
    assert count_parameters(wide.model[1]) == count_parameters(narrow.model[1])
    assert narrow.model[2].conv.conv.out_channels == 8


def rows(row: str, args: list[Any], *, repeats: int = 1, before: list[Any] | None = None) -> dict[str, Any]:
    backbone = [*([before] if before else []), [-1, repeats, row, args]]
    return {"nc": 2, "backbone": backbone, "head": [[[-1], 1, "DetectFree", ["nc", 4]]]}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown to torchvision": (
        rows("TorchVision", ["resnet19", {"out_indices": [1]}]),
        r"backbone row 0 .*: expected the name of one of torchvision's networks, found 'resnet19' \(did you mean 'resn",
    ),
    "a detector": (
        rows("TorchVision", ["fasterrcnn_resnet50_fpn", {"out_indices": [1]}]),
        "one of torchvision's networks, found 'fasterrcnn_resnet50_fpn'",
    ),
    "no word": (rows("TorchVision", [18, {"out_indices": [1]}]), "one of torchvision's networks, found 18"),
    "no options": (
        rows("TorchVision", ["resnet18"]),
        r"missing a required argument: 'out_indices'; found \['resnet18'",
    ),
    "weights": (
        rows("TorchVision", ["resnet18", {"out_indices": [1], "weights": "DEFAULT"}]),
        r"unexpected keyword argument 'weights'; .* it is called as \(name, out_indices\)",
    ),
    "a number for indices": (rows("TorchVision", ["resnet18", {"out_indices": 3}]), "expected ascending whole numbers"),
    "no indices": (rows("TorchVision", ["resnet18", {"out_indices": []}]), "expected ascending whole numbers"),
    "descending": (rows("TorchVision", ["resnet18", {"out_indices": [3, 2]}]), r"found \[3, 2\]"),
    "counted back": (rows("TorchVision", ["resnet18", {"out_indices": [-1]}]), r"found \[-1\]"),
    "too far": (
        rows("TorchVision", ["resnet18", {"out_indices": [2, 5]}]),
        r"resnet18 has features \[0, 1, 2, 3, 4\] of strides \[2, 4, 8, 16, 32\], found \[2, 5\]",
    ),
    "images of one size": (
        rows("TorchVision", ["vit_b_16", {"out_indices": [0]}]),
        "vit_b_16: expected that images of 256x384 pixels do, found 'Wrong image height",
    ),
    "no feature by stride": (rows("TorchVision", ["alexnet", {"out_indices": [0]}]), "alexnet has features .. of"),
    "not of the image": (
        rows("TorchVision", ["resnet18", {"out_indices": [1]}], before=[-1, 1, "Conv", [8, 1, 1]]),
        r"backbone row 1 .*: expected to read the image, 3 channels, found \[8\]",
    ),
    "repeated": (rows("TorchVision", ["resnet18", {"out_indices": [1]}], repeats=2), "TorchVision cannot be repeated"),
    "too few tags": (
        detector("TorchVision", "mobilenet_v3_small", [2, 3, 4], ["P3", "P4"]),
        r"backbone row 1 .*: expected a tag for each of 3 features, found \['P3', 'P4'\]",
    ),
    "a tag twice": (detector(*VISION[:3], ["P4", "P4"]), "or a different one for each feature; found"),
    "a tag that is no word": (detector(*VISION[:3], ["P4", 5]), "expected a word as the tag"),
    "tags for one feature": (
        rows("Conv", [8]) | {"backbone": [[-1, 1, "Conv", [8], ["P3"]]]},
        r"Conv gives one feature: expected a word as the tag, found \['P3'\]",
    ),
    "a tag of a feature again": (
        detector(*VISION, head=[["P4", 1, "Conv", [8], "P5"], [[-1], 1, "DetectFree", ["nc", 4]]]),
        r"head row 0 .*: the tag 'P5' is taken by row 1\[1\]",
    ),
}
TIMM_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown to timm": (
        rows("Timm", ["resnet18.a1_in1k", {"out_indices": [1]}]),
        r"expected the name of one of timm's networks, found 'resnet18.a1_in1k' \(did you mean 'resnet",
    ),
    "a hub": (rows("Timm", ["hf-hub:timm/resnet18", {"out_indices": [1]}]), "one of timm's networks, found 'hf-hub:"),
    "weights of timm": (
        rows("Timm", ["resnet18", {"out_indices": [1], "pretrained": True}]),
        "unexpected keyword argument 'pretrained'",
    ),
    "too far in timm": (
        rows("Timm", ["test_resnet", {"out_indices": [2, 7]}]),
        r"out_indices: test_resnet has no such features, found \[2, 7\]",
    ),
    "images of one size in timm": (
        rows("Timm", ["test_vit_relpos", {"out_indices": [1]}]),
        "found .Input height .256. doesn't",
    ),
    "by hooks": (rows("Timm", ["pit_ti_224", {"out_indices": [1]}]), "takes its features by hooks"),
    "channels last": (rows("Timm", ["test_mambaout", {"out_indices": [1]}]), "expected maps .batch, channels, height"),
    "coarser inside": (
        rows("Timm", ["hrnet_w18_small", {"out_indices": [1]}]),
        "expected that images of 8x12 pixels do, .*and its coarsest feature too",
    ),
}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *(pytest.param(*fault, id=key) for key, fault in FAULTS.items()),
        *(pytest.param(*fault, id=key, marks=needs_timm) for key, fault in TIMM_FAULTS.items()),
    ],
)
def test_faults_are_named(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build_model(value)
    assert "\n" not in str(raised.value)


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # what makes importing it fail
    with pytest.raises(UserError, match=r"backbone row 0 .*: needs timm: pip install 'yolorep\[timm\]'$"):
        build_model(rows("Timm", ["resnet18", {"out_indices": [2]}]))


@pytest.mark.parametrize("fused", [False, True])
def test_a_checkpoint_is_enough_to_build_from(tmp_path: Path, fused: bool) -> None:
    model = randomize_(build_model(detector(*VISION))).eval()
    saved = fuse(model)[0] if fused else model
    save_checkpoint(tmp_path / "best.pt", saved, fused=fused)
    again = load_checkpoint(tmp_path / "best.pt").build()
    assert again.config.sections == parse_config(model.config.to_dict()).sections
    x = model.example_input()
    with torch.inference_mode():
        for found, expected in zip(again(x).levels, saved(x).levels, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "regnet_x_400mf"])  # a regnet computes while it is built
def test_building_for_shapes_alone_draws_no_random_numbers(name: str) -> None:
    state = torch.get_rng_state()
    with torch.device("meta"):
        backbone = TorchVision(name, [2, 3])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())


def test_building_and_fusing_change_no_statistics() -> None:
    backbone = TorchVision("mobilenet_v3_small", [2, 3])
    assert backbone.training
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert not any(value.any() for key, value in before.items() if key.endswith(("_mean", "_tracked")))
    fuse(backbone.eval())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_a_foreign_backbone_can_be_frozen() -> None:
    model = build_model(detector(*VISION))
    freeze_layers(model, [0, 1])
    assert not any(parameter.requires_grad for parameter in model.model[1].parameters())
    fused, _ = fuse(model.eval())
    assert not any(parameter.requires_grad for parameter in fused.model[1].parameters())
    assert all(parameter.requires_grad for parameter in fused.model[2].parameters())


@needs_timm
def test_the_shipped_example_learns() -> None:
    config = load_config("cfg/timm/resnet18.yaml")
    model = build_model(config, num_classes=2).train()
    assert model.strides == (8, 16, 32) and model.model[1].out_channels == (128, 256, 512)
    raw = model(torch.rand(2, 3, 64, 64))
    sum(level.square().mean() for level in raw.levels).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.slow
@pytest.mark.parametrize("made", [load_format(name) for name in FORMATS], ids=FORMATS)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(detector("Timm", "mobilenetv3_small_050", [3, 4], ["P4", "P5"]), marks=needs_timm, id="timm"),
        pytest.param(detector("Timm", "test_convnext", [2, 3], ["P4", "P5"]), marks=needs_timm, id="kept"),
        pytest.param(detector(*VISION), id="torchvision"),
    ],
)
def test_rows_export_at_any_size(value: dict[str, Any], made: Format, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(value)
    with torch.no_grad():
        for _ in range(3):  # BatchNorm statistics that fit
            model(torch.rand(2, 3, 64, 96))
    fused, _ = fuse(model.eval())
    metadata = Metadata.of(model)
    example, *others = sample_batches([(2, 64, 96), (1, 32, 64), (3, 96, 64)])
    path = tmp_path / f"model{made.suffix}"
    made.write(Deployed(fused).eval(), path, example=example.float() / 255, metadata=metadata)
    backend = made.open(path, device=torch.device("cpu"))
    compare(backend, TorchBackend(fused), [example, *others]).require_equal()
