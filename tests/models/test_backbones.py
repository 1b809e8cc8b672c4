"""The published backbones as they ship: counts, geometry, gradients, fusing."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.randomize import randomize_
from yolorep.errors import UserError
from yolorep.models.classifier import Classifier
from yolorep.models.detector import Detector, build_model, build_network
from yolorep.models.model_file import ModelConfig, load_config, parse_config
from yolorep.models.network import Network
from yolorep.nn.layer_scale import LayerScale
from yolorep.nn.reparam import count_parameters, fuse, fused_form

#: Parameters: classifier trained and fused, backbone rows trained and fused. Trained counts are the published
#: networks'; fused ones hold no norm and no layer scale.
PUBLISHED = {
    "mobileone/s0": (5_293_272, 2_078_504, 4_268_272, 1_053_504),
    "mobileone/s1": (4_825_192, 4_764_840, 3_544_192, 3_483_840),
    "mobileone/s2": (7_884_648, 7_808_168, 5_835_648, 5_759_168),
    "mobileone/s3": (10_170_600, 10_078_312, 8_121_600, 8_029_312),
    "mobileone/s4": (14_951_248, 14_838_352, 12_902_248, 12_789_352),
    "repvgg/a0": (9_108_968, 8_309_384, 7_827_968, 7_028_384),
    "repvgg/a1": (14_092_264, 12_789_864, 12_811_264, 11_508_864),
    "repvgg/a2": (28_210_600, 25_499_944, 26_801_600, 24_090_944),
    "repvgg/b0": (15_817_960, 14_339_048, 14_536_960, 13_058_048),
    "repvgg/b1": (57_415_016, 51_829_480, 55_366_016, 49_780_480),
    "repvgg/b1g4": (39_966_056, 36_125_416, 37_917_056, 34_076_416),
    "repvgg/b2": (89_022_376, 80_315_112, 86_461_376, 77_754_112),
    "repvgg/b2g4": (61_758_376, 55_777_512, 59_197_376, 53_216_512),
    "repvgg/b3": (123_085_288, 110_960_872, 120_524_288, 108_399_872),
    "repvgg/b3g4": (83_825_128, 75_626_728, 81_264_128, 73_065_728),
    "fastvit/t8": (4_026_232, 3_992_392, 3_171_936, 3_141_168),
    "fastvit/t12": (7_553_704, 7_502_952, 6_382_208, 6_335_552),
    "fastvit/s12": (9_473_576, 9_422_824, 8_302_080, 8_255_424),
    "fastvit/sa12": (11_580_968, 11_539_432, 10_409_472, 10_372_032),
    "fastvit/sa24": (21_554_216, 21_489_512, 20_382_720, 20_322_112),
    "fastvit/sa36": (31_527_464, 31_439_592, 30_355_968, 30_272_192),
    "fastvit/ma36": (44_068_004, 43_963_656, 42_647_856, 42_548_372),
}
FAST = ("mobileone/s0", "repvgg/a0", "repvgg/b1g4", "fastvit/t8", "fastvit/sa12")
VARIANTS = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in PUBLISHED]


def narrow(name: str) -> ModelConfig:
    """A model file at a quarter of its width: the same structure in little time."""
    return replace(load_config(f"cfg/{name}.yaml"), width_multiple=0.25)


def backbone(network: Network) -> list[nn.Module]:
    return list(network.model)[: len(network.config.sections["backbone"])]


def taps(network: Network, image: Tensor) -> list[Tensor]:
    """The backbone's features that carry a tag, P2 to P5."""
    features = []
    for layer, row in zip(backbone(network), network.config.sections["backbone"], strict=True):
        image = layer(image)
        if len(row) == 5:
            features.append(image)
    return features


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        classifier = build_network(f"cfg/{name}-cls.yaml").eval()
        detector = build_model(f"cfg/{name}.yaml").eval()
        assert isinstance(classifier, Classifier)
        trained = count_parameters(classifier), sum(map(count_parameters, backbone(detector)))
        fused = count_parameters(fused_form(classifier)), sum(map(count_parameters, backbone(fused_form(detector))))
    assert (trained[0], fused[0], trained[1], fused[1]) == PUBLISHED[name]
    assert detector.strides == (8, 16, 32) and detector.max_stride == classifier.max_stride == 32
    assert classifier.names[0] == "tench" and len(classifier.names) == 1000


@pytest.mark.parametrize("name", VARIANTS)
def test_backbone_at_odd_sizes(name: str) -> None:
    model = build_model(narrow(name)).eval()
    with torch.inference_mode():
        shapes = [tuple(feature.shape[2:]) for feature in taps(model, torch.rand(1, 3, 100, 164))]
    assert shapes == [(25, 41), (13, 21), (7, 11), (4, 6)]
    with pytest.raises(UserError, match="multiple of 32, the model's largest stride, found 164x100"):
        model(torch.rand(1, 3, 100, 164))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(narrow(name), num_classes=3)
    for scale in model.modules():  # published values of 1e-5 would hide a dead branch behind rounding
        if isinstance(scale, LayerScale):
            nn.init.ones_(scale.gamma)
    model.double().train()
    raw = model(torch.rand(2, 3, 96, 96, dtype=torch.float64))
    sum(level.square().mean() for level in raw.levels).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        # Shifts that only BatchNorms follow are taken out again by these: the patch embedding has no activation.
        if not key.endswith(("large_conv.bn.bias", "small_conv.bn.bias")):
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("form", ["", "-cls"], ids=["detector", "classifier"])
@pytest.mark.parametrize("name", VARIANTS)
def test_fuses_completely(name: str, form: str) -> None:
    network = randomize_(build_network(narrow(f"{name}{form}"), num_classes=3).double()).eval()
    before = copy.deepcopy(network.state_dict())
    fused, report = fuse(network, strict=True, image_size=64)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not report.kept and report.max_error <= 1e-9
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d | LayerScale)]
    again, second = fuse(fused, image_size=64)
    assert not second.records and count_parameters(again) == count_parameters(fused)
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    expected, largest = outputs(network, image)
    found, _ = outputs(fused, image)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= 1e-9 * (1 + largest)


@torch.inference_mode()
def outputs(network: nn.Module, image: Tensor) -> tuple[list[Tensor], float]:
    """What a network returns, and the largest value inside of it: what rounding errors are relative to."""
    largest = 0.0

    def watch(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, float(output.abs().max()))

    hooks = [module.register_forward_hook(watch) for module in network.modules()]
    output = network(image)
    for hook in hooks:
        hook.remove()
    return (output.levels if isinstance(network, Detector) else [output]), largest


@pytest.mark.parametrize(
    "name",
    [pytest.param(v, marks=[] if v in FAST else [pytest.mark.slow]) for v in PUBLISHED if "/sa" in v or "/ma" in v],
)
def test_attention_stage_reaches_the_head(name: str) -> None:
    model = randomize_(build_model(narrow(name), num_classes=3)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before, raw = taps(model, image), model(image)
        for parameter in backbone(model)[-1].parameters():
            parameter.mul_(1.1)
        after, raw_after = taps(model, image), model(image)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, True, False]
    assert not torch.equal(raw.levels[2], raw_after.levels[2])


@pytest.mark.parametrize(
    ("family", "row", "message"),
    [
        ("repvgg", [-1, 2, "RepVGG", [50, 2, 4]], r"backbone row 2 .*groups that divide the channels, found 4 for 50"),
        ("mobileone", [-1, 2, "MobileOne", [64, 1, 2, True], "P2"], r"at least 16 channels, found 8"),
        ("fastvit", [-1, 1, "FastVit", [3], "P2"], r"unknown module 'FastVit'.*FastViT"),
        ("fastvit", [-1, 1, "PatchEmbed", [100], "P2"], r"backbone row 2 .*100"),
        ("fastvit", [-1, 2, "FastViTAttention", [4], "P2"], r"backbone row 2 .*32"),
        ("repvgg", [-1, 1, "RepVGG", [48, 2, 5]], r"groups that divide the channels, found 5 for 48"),
        ("repvgg", [-1, 2, "RepVGG", [48, 2, "4"]], r"g: expected a whole number, found '4'"),
        ("repvgg", [-1, 2, "RepVGG", [48, 0]], r"stride and groups of at least 1, found 0 and 1"),
        ("mobileone", [-1, 2, "MobileOne", [64, 1, 2, "no"]], r"se: expected True or False, found 'no'"),
        ("mobileone", [-1, 2, "MobileOne", [64, -1, 2]], r"k of at least 0 .* found -1"),
        ("fastvit", [-1, 2, "RepMixer", ["3"]], r"ratio: expected a number, found '3'"),
        ("fastvit", [-1, 1, "Normalize", [[0.5], [0]]], r"deviations above 0"),
    ],
)
def test_wrong_rows_give_one_line(family: str, row: list[object], message: str) -> None:
    stem = {"repvgg": ["RepVGG", [48, 2]], "mobileone": ["MobileOneStem", [8]], "fastvit": ["FastViTStem", [48]]}
    rows = [[-1, 1, "Normalize", []], [-1, 1, *stem[family]], row]
    with pytest.raises(UserError, match=message) as caught:
        build_network({"nc": 2, "backbone": rows, "head": [[-1, 1, "Classify", ["nc"]]]})
    assert "\n" not in str(caught.value)


def test_unknown_variant_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'cfg/mobileone/s\d"):
        load_config("cfg/mobileone/s9.yaml")


def test_branches_change_training_alone() -> None:
    """The key reaches the RepConvs inside RepELAN and the head; the deployed network stays the same."""
    config = load_config("cfg/yolorep/n.yaml")
    models = {number: build_model(replace(config, branches=number)).eval() for number in (None, 0, 1, 4)}
    trained = {number: count_parameters(model) for number, model in models.items()}
    assert trained == {None: 2_415_056, 0: 2_250_864, 1: 2_415_056, 4: 6_868_112}
    deployed = {number: fuse(model, strict=True)[0] for number, model in models.items()}
    shapes = {number: {k: v.shape for k, v in model.state_dict().items()} for number, model in deployed.items()}
    assert shapes[0] == shapes[1] == shapes[4]
    assert parse_config(replace(config, branches=0).to_dict()).branches == 0
    with pytest.raises(UserError, match="branches: no row of this model"):
        build_model(replace(narrow("mobileone/s0"), branches=2))
    with pytest.raises(UserError, match="branches: expected a whole number of at least 0, found -1"):
        parse_config(config.to_dict() | {"branches": -1})


def test_drop_path_is_spread_over_the_blocks() -> None:
    config = replace(narrow("fastvit/sa12"), drop_path=0.22)
    model = build_model(config)
    rates = [m.p for m in model.modules() if type(m).__name__ == "StochasticDepth"]
    assert rates == pytest.approx([0.02 * i for i in range(12)])
    with pytest.raises(UserError, match="drop_path: no row"):
        build_model(replace(narrow("mobileone/s0"), drop_path=0.1))


def test_classifier_takes_any_size_and_is_no_detector() -> None:
    network = build_network(narrow("mobileone/s0-cls"), num_classes=5).eval()
    assert network(torch.rand(2, 3, 100, 164)).shape == (2, 5)
    assert network.names == ("class0", "class1", "class2", "class3", "class4")
    with pytest.raises(UserError, match="expected a detector.*found a classifier"):
        build_model("cfg/mobileone/s0-cls.yaml")


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["mobileone/s0-cls", "repvgg/a0-cls"])
def test_half_precision_networks_are_not_refused_by_luck(name: str, dtype: torch.dtype) -> None:
    config = replace(narrow(name), depth_multiple=0.33)
    for seed in range(4):
        network = randomize_(build_network(config, num_classes=10), seed=seed).eval()
        fuse(network.to(dtype), strict=True, image_size=64)
