"""Key maps: ours, timm's, Apple's and RepVGG's authors' names of the same tensors, one to one and both ways."""

from __future__ import annotations

from functools import cache

import pytest
import timm
import torch

from yolorep.config import resources_dir
from yolorep.models.detector import build_network
from yolorep.weights.layouts import (
    Family,
    Layout,
    detect_layout,
    from_timm,
    is_backbone,
    is_fused,
    timm_names,
    to_timm,
    unfused_file,
)

VARIANTS: dict[Family, tuple[str, ...]] = {
    "mobileone": ("s0", "s1", "s2", "s3", "s4"),
    "repvgg": ("a0", "a1", "a2", "b0", "b1", "b2", "b3", "b1g4", "b2g4", "b3g4"),
    "fastvit": ("t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36"),
}
AUTHORS = {
    "mobileone": Layout("apple", "mobileone"),
    "repvgg": Layout("official", "repvgg"),
    "fastvit": Layout("apple", "fastvit"),
}
FAST = ("s0", "s4", "a0", "t8", "sa12")
every_variant = pytest.mark.parametrize(
    ("family", "variant"),
    [
        pytest.param(family, variant, marks=() if variant in FAST else pytest.mark.slow, id=f"{family}/{variant}")
        for family, variants in VARIANTS.items()
        for variant in variants
    ],
)

Shapes = dict[str, tuple[int, ...]]


@cache
def timm_shapes(family: str, variant: str, *, features_only: bool = False) -> Shapes:
    with torch.device("meta"):
        model = timm.create_model(f"{family}_{variant}", features_only=features_only)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_every_shipped_variant_is_tested() -> None:
    for family, variants in VARIANTS.items():
        shipped = (resources_dir() / "cfg" / family).glob("*-cls.yaml")
        assert {path.name.removesuffix("-cls.yaml") for path in shipped} == set(variants)


@every_variant
@pytest.mark.parametrize("suffix", ["-cls", ""], ids=["classifier", "detector"])
def test_ours_are_timms(family: str, variant: str, suffix: str) -> None:
    """Every published tensor has one place in our network, of the same shape, and every one of ours its name."""
    with torch.device("meta"):
        network = build_network(f"cfg/{family}/{variant}{suffix}.yaml")
    state, names = network.state_dict(), timm_names(network)
    theirs = timm_shapes(family, variant)
    if suffix:
        assert names.keys() == state.keys()
    else:
        theirs = {name: shape for name, shape in theirs.items() if is_backbone(name)}
    assert len(set(names.values())) == len(names)
    assert {timm_name: tuple(state[name].shape) for name, timm_name in names.items()} == theirs


@every_variant
def test_round_trips(family: Family, variant: str) -> None:
    names = list(timm_shapes(family, variant))
    assert detect_layout(names) == Layout("timm", family)
    unchanged = {name: name for name in names}
    assert to_timm(names, Layout("timm", family)) == from_timm(names, Layout("timm", family)) == unchanged

    layout = AUTHORS[family]
    theirs = from_timm(names, layout)
    assert len(set(theirs.values())) == len(names)
    assert detect_layout(theirs.values()) == layout
    assert to_timm(theirs.values(), layout) == {value: key for key, value in theirs.items()}

    flat = list(timm_shapes(family, variant, features_only=True))
    layout = Layout("timm features_only", family)
    assert detect_layout(flat) == layout
    names = to_timm(flat, layout)
    assert set(names.values()) == set(filter(is_backbone, timm_shapes(family, variant)))
    assert from_timm(names.values(), layout) == {value: key for key, value in names.items()}


# What the publishers' files hold, as far as the rules differ.
PAIRS: dict[tuple[Family, str], dict[str, str]] = {
    ("mobileone", "s4"): {
        "stem.conv_kxk.0.conv.weight": "stage0.rbr_conv.0.conv.weight",
        "stem.conv_scale.bn.running_var": "stage0.rbr_scale.bn.running_var",
        "stages.0.2.identity.weight": "stage1.2.rbr_skip.weight",
        "stages.2.19.attn.fc1.weight": "stage3.19.se.reduce.weight",
        "stages.3.0.attn.fc2.bias": "stage4.0.se.expand.bias",
        "head.fc.weight": "linear.weight",
    },
    ("repvgg", "a0"): {
        "stem.conv_kxk.conv.weight": "stage0.rbr_dense.conv.weight",
        "stages.2.13.conv_1x1.bn.bias": "stage3.13.rbr_1x1.bn.bias",
        "stages.0.1.identity.running_mean": "stage1.1.rbr_identity.running_mean",
        "head.fc.bias": "linear.bias",
    },
    ("fastvit", "t8"): {
        "stem.1.conv_scale.conv.weight": "patch_embed.1.rbr_scale.conv.weight",
        "stages.0.blocks.1.token_mixer.norm.identity.bias": "network.0.1.token_mixer.norm.rbr_skip.bias",
        "stages.1.downsample.proj.0.small_conv.bn.weight": "network.1.proj.0.small_conv.bn.weight",
        "stages.3.blocks.0.layer_scale.gamma": "network.6.0.layer_scale",
        "stages.3.blocks.0.token_mixer.layer_scale.gamma": "network.6.0.token_mixer.layer_scale",
        "final_conv.se.fc1.weight": "conv_exp.se.reduce.weight",
        "final_conv.conv_kxk.0.conv.weight": "conv_exp.rbr_conv.0.conv.weight",
        "head.fc.weight": "head.weight",
    },
    ("fastvit", "sa12"): {
        "stages.0.blocks.0.mlp.conv.bn.weight": "network.0.0.convffn.conv.bn.weight",
        "stages.3.downsample.proj.0.large_conv.conv.weight": "network.5.proj.0.lkb_origin.conv.weight",
        "stages.3.downsample.proj.1.identity.weight": "network.5.proj.1.rbr_skip.weight",
        "stages.3.pos_emb.pos_enc.bias": "network.6.pe.bias",
        "stages.3.blocks.1.norm.weight": "network.7.1.norm.weight",
        "stages.3.blocks.1.layer_scale_2.gamma": "network.7.1.layer_scale_2",
        "stages.3.blocks.1.mlp.fc1.weight": "network.7.1.convffn.fc1.weight",
        "stages.3.blocks.0.token_mixer.proj.bias": "network.7.0.token_mixer.proj.bias",
    },
}


@pytest.mark.parametrize(("family", "variant"), PAIRS)
def test_rules(family: Family, variant: str) -> None:
    theirs = from_timm(timm_shapes(family, variant), AUTHORS[family])
    assert {name: theirs[name] for name in PAIRS[family, variant]} == PAIRS[family, variant]


def test_se_of_repvgg() -> None:
    names = ["stages.0.0.attn.fc1.weight", "stages.0.0.attn.fc2.bias"]
    assert list(from_timm(names, AUTHORS["repvgg"]).values()) == ["stage1.0.se.down.weight", "stage1.0.se.up.bias"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_other_networks_have_no_layout(name: str) -> None:
    with torch.device("meta"):
        assert detect_layout(timm.create_model(name).state_dict()) is None


def test_a_stage_of_several_rows() -> None:
    """A row with a stride begins a stage; one without goes on with it. What a neck is made of is not published."""
    network = build_network(
        {
            "nc": 2,
            "backbone": [
                [-1, 1, "MobileOneStem", [8]],
                [-1, 2, "MobileOne", [16, 1, 2]],
                [-1, 1, "SPPF", [16, 5]],
                [-1, 1, "MobileOne", [16, 1, 1]],
                [-1, 1, "MobileOne", [24, 1, 2]],
            ],
            "neck": [[-1, 1, "MobileOne", [24, 1, 1]]],
            "head": [[-1, 1, "Classify", ["nc"]]],
        }
    )
    names = timm_names(network)
    assert names["model.1.1.pw.conv.conv_kxk.0.conv.weight"] == "stages.0.3.conv_kxk.0.conv.weight"
    assert names["model.3.0.dw.conv.conv_scale.bn.weight"] == "stages.0.4.conv_scale.bn.weight"
    assert names["model.4.0.dw.conv.conv_scale.bn.weight"] == "stages.1.0.conv_scale.bn.weight"
    assert names["model.6.linear.bias"] == "head.fc.bias"
    assert not any(name.startswith(("model.2.", "model.5.")) for name in names)


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("stage0.reparam_conv.weight", True),
        ("stage1.0.rbr_reparam.bias", True),
        ("network.1.proj.0.lkb_reparam.weight", True),
        ("reparam_conv.weight", True),
        ("stage0.rbr_conv.0.conv.weight", False),
        ("my_reparam_convolution.weight", False),
    ],
)
def test_fused(name: str, fused: bool) -> None:
    assert is_fused(["stem.weight", name]) is fused


@pytest.mark.parametrize(
    ("file", "instead"),
    [
        ("mobileone_s0.pth.tar", "mobileone_s0_unfused.pth.tar"),
        ("fastvit_sa12_reparam.pth.tar", "fastvit_sa12.pth.tar"),
        ("RepVGG-B1g4-deploy.pth", "RepVGG-B1g4-train.pth"),
        ("mine.pt", "the one it was made from"),
    ],
)
def test_file_to_get_instead(file: str, instead: str) -> None:
    assert unfused_file(file).startswith(instead)
