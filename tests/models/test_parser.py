"""Model files: what is understood, and how wrong ones are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolorep.config import resources_dir
from yolorep.errors import UserError
from yolorep.models.detector import build_model
from yolorep.models.model_file import load_config, parse_config
from yolorep.models.parser import build_graph, parse_rows
from yolorep.models.values import parse_activation
from yolorep.nn.conv import Conv

ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]]


def tiny(**changes: Any) -> dict[str, Any]:
    """A two-level model in YOLOv5's form."""
    return {
        "nc": 2,
        "depth_multiple": 0.33,
        "width_multiple": 0.5,
        "anchors": ANCHORS,
        "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 6, "C3", [16]], [-1, 1, "Conv", [32, 3, 2]]],
        "head": [[-1, 1, "Conv", [32, 3, 1]], [[1, 3], 1, "Detect", ["nc", "anchors"]]],
        **changes,
    }


def test_scaling() -> None:
    model = build_model(tiny(width_multiple=0.6))
    assert model.model[0].conv.conv.out_channels == 16  # ceil8(16 * 0.6)
    assert len(model.model[1].m) == 2  # round(6 * 0.33)
    assert model.strides == (2, 4)


def test_channels_scale_whatever_their_number() -> None:
    """YOLOv5 leaves rows alone whose channels happen to be anchors * (nc + 5)."""
    rows = [[-1, 1, "Conv", [96, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]]
    model = build_model(tiny(nc=27, backbone=rows, head=[[[0, 1], 1, "Detect", ["nc", "anchors"]]]))
    assert model.model[0].conv.conv.out_channels == 48


def test_repeated_rows_become_a_sequence() -> None:
    rows = [[-1, 6, "Conv", [16, 3, 1]], [-1, 1, "Conv", [32, 3, 2]]]
    model = build_model(tiny(backbone=rows, head=[[[0, 1], 1, "Detect", ["nc", "anchors"]]]))
    assert isinstance(model.model[0], nn.Sequential) and len(model.model[0]) == 2
    assert [block.conv.conv.in_channels for block in model.model[0]] == [3, 8]


@pytest.mark.parametrize("from_", [1, -3])
def test_absolute_and_relative_from(from_: int) -> None:
    head = [[-1, 1, "Conv", [32, 3, 1]], [from_, 1, "Conv", [8, 1, 1]], [[3, 4], 1, "Detect", ["nc", "anchors"]]]
    model = build_model(tiny(head=head))
    assert model.model.routes[4] == 1
    assert model.model[4].conv.conv.in_channels == 8


def test_tags() -> None:
    backbone = [[-1, 1, "Conv", [16, 3, 2], "fine"], [-1, 1, "Conv", [32, 3, 2]]]
    model = build_model(tiny(backbone=backbone, head=[[["fine", -1], 1, "Detect", ["nc", "anchors"]]]))
    assert model.model.routes[-1] == (0, 1)


def test_placeholder_anchors() -> None:
    model = build_model(tiny(anchors=3))
    assert model.head.needs_fitting and model.head.anchors.shape == (2, 3, 2)


def test_a_word_may_be_none() -> None:
    head = [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[1, 3], 1, "Detect", ["nc", "anchors"]]]
    assert build_model(tiny(head=head)).model[3].size is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nn.LeakyReLU(0.1)", nn.LeakyReLU),
        ("nn.ReLU", nn.ReLU),
        ("torch.nn.SiLU()", nn.SiLU),
        ("nn.GELU(approximate='tanh')", nn.GELU),
        ("nn.Hardswish(inplace=True)", nn.Hardswish),
    ],
)
def test_activations(text: str, kind: type[nn.Module]) -> None:
    assert isinstance(parse_activation(text)(), kind)


def test_activation_reaches_every_conv() -> None:
    model = build_model(tiny(activation="nn.LeakyReLU(0.1)"))
    kinds = {type(m.act) for m in model.modules() if isinstance(m, Conv)}
    assert kinds == {nn.LeakyReLU}
    assert model.model[0].act.negative_slope == 0.1


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('true')", "nn.LeakyReLU(__import__('os'))", "lambda: 0", "nn.Conv2d", "nn.ReLU(9, 9)"],
)
def test_other_activations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="activation"):
        parse_activation(text)


def rows(backbone: list[Any]) -> dict[str, Any]:
    """A model of these rows and a head on the last one."""
    return tiny(backbone=backbone, head=[[[-1], 1, "Detect", ["nc", "anchors"]]], anchors=ANCHORS[:1])


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown module": (
        rows([[-1, 1, "Cnv", [16]]]),
        r"backbone row 0 \[-1, 1, Cnv, \[16\]\]: unknown module 'Cnv' \(did you mean 'Conv'\?\)",
    ),
    "code as a module": (rows([[-1, 1, "os.system", ["true"]]]), "unknown module 'os.system'"),
    "a list as a module": (rows([[-1, 1, ["Conv"], [16]]]), r"expected the name of a row, found \['Conv'\]"),
    "a mapping as a module": (rows([[-1, 1, {"Conv": 1}, [16]]]), "expected the name of a row, found {'Conv': 1}"),
    "too many arguments": (
        rows([[-1, 1, "SPPF", [16, 5, 1, 1]]]),
        r"wrong arguments for SPPF: too many positional arguments; found \[16, 5, 1, 1\]",
    ),
    "no arguments": (rows([[-1, 1, "Conv", []]]), "expected the output channels"),
    "from ahead": (rows([[5, 1, "Conv", [16]]]), "'from' 5 means layer 5, but this is layer 0"),
    "from far back": (rows([[-3, 1, "Conv", [16]]]), "expected an earlier one"),
    "unknown tag": (
        rows([[-1, 1, "Conv", [16], "P3"], ["P4", 1, "Conv", [8]]]),
        "names the tag 'P4', which no earlier row has; tags so far: P3",
    ),
    "tag twice": (
        rows([[-1, 1, "Conv", [16], "P3"], [-1, 1, "Conv", [8], "P3"]]),
        "the tag 'P3' is taken by row 0",
    ),
    "row too short": (rows([[-1, 1, "Conv"]]), r"expected \[from, repeats, module, args\]"),
    "repeats": (rows([[-1, 0, "Conv", [16]]]), "expected repeats of at least 1, found 0"),
    "list for one input": (
        rows([[-1, 1, "Conv", [16]], [[0, 0], 1, "Conv", [16]]]),
        "Conv reads one feature, found 2",
    ),
    "no head": (tiny(head=[[-1, 1, "Conv", [16]]]), "expected the last row to be a head"),
    "head in the middle": (rows([[[-1], 1, "Detect", ["nc", "anchors"]]]), "must be the last row"),
    "anchors for other levels": (tiny(anchors=ANCHORS[:1]), "expected anchors for 2 levels, found 1"),
    "unknown key": (
        {key: value for key, value in tiny(widht_multiple=1).items() if key != "width_multiple"},
        "widht_multiple: unknown key .*'width_multiple'",
    ),
    "ultralytics": (
        tiny(scales={"n": [0.33, 0.25, 1024]}),
        r"found one of ultralytics \(scales\), .* one of cfg/",
    ),
    "a key that is there": (tiny(width_multiples=1), "width_multiples: unknown key$"),
    "nc": (tiny(nc=0), "nc: expected a whole number of at least 1, found 0"),
    "nc a word": (tiny(nc="eval('1')"), "nc: expected a whole number"),
    "no rows": (tiny(backbone=[]), "backbone: expected a list of rows"),
    "activation": (tiny(activation="print('x')"), "activation: unknown activation"),
    "nc empty": (tiny(nc=None), "nc: missing"),
    "gray": (tiny(ch=1), "ch: expected 3"),
    "no anchors": (tiny(anchors=None), "anchors: missing; give widths"),
    "classes in Detect": (
        tiny(head=[[[1, 2], 1, "Detect", [80, "anchors"]]]),
        "the Detect row says 80 classes, but there are 2",
    ),
    "no classes in Detect": (tiny(head=[[[1, 2], 1, "Detect", [0, "anchors"]]]), "expected at least 1 class"),
    "stride 0": (rows([[-1, 1, "Conv", [16, 3, 0]]]), "backbone row 0|layer 0"),
    "a stride of three": (rows([[-1, 1, "Conv", [16, 3, 3]]]), "expected strides that divide 256"),
    "no such dimension": (
        tiny(head=[[[1, 2], 1, "Concat", [7]], [[1, 2], 1, "Detect", ["nc", "anchors"]]]),
        "layer 3, Concat",
    ),
    "words for numbers": (rows([[-1, 1, "nn.MaxPool2d", ["2"]]]), "row 0|layer 0"),
    "no kernels": (rows([[-1, 1, "MixConv2d", [16, []]]]), "layer 0, MixConv2d"),
    "activation of a word": (tiny(activation="nn.LeakyReLU('x')"), "LeakyReLU|layer 0"),
    "shapes that do not meet": (
        tiny(head=[[[0, -1], 1, "Concat", [1]], [[1, 3], 1, "Detect", ["nc", "anchors"]]]),
        "the layers do not fit together",
    ),
}


@pytest.mark.parametrize(("value", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build_model(value)
    assert "\n" not in str(raised.value)


def test_classes_of_the_data_have_a_limit_too() -> None:
    with pytest.raises(UserError, match="model: expected at most 100,000 classes, found 100001"):
        build_model(tiny(), num_classes=100_001)


def test_all_faults_at_once() -> None:
    with pytest.raises(UserError) as raised:
        build_model(tiny(backbone=[[-1, 1, "Cnv", [16]], [-1, 0, "Conv", [16]]]))
    assert "row 0" in str(raised.value) and "row 1" in str(raised.value)


@pytest.mark.parametrize("value", [None, [], "text", {"nc": 2}])
def test_what_is_no_model_file(value: Any) -> None:
    with pytest.raises(UserError, match="model"):
        parse_config(value)


def test_parts_are_read_and_kept_in_the_config(tmp_path: Path) -> None:
    (tmp_path / "back.yaml").write_text("- [-1, 1, Conv, [16, 3, 2], a]\n- [-1, 1, Conv, [16, 3, 2], b]\n")
    (tmp_path / "model.yaml").write_text(
        "nc: 2\nanchors: 3\nbackbone: back.yaml\nhead: [[[a, b], 1, Detect, [nc, anchors]]]\n"
    )
    config = load_config(tmp_path / "model.yaml")
    again = parse_config(config.to_dict())
    assert [spec.module for spec in parse_rows(again)] == ["Conv", "Conv", "Detect"]
    assert build_model(again).strides == (2, 4)


def test_parts_may_not_count_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "back.yaml").write_text("- [-1, 1, Conv, [16, 3, 2]]\n- [0, 1, Conv, [16, 3, 2]]\n")
    (tmp_path / "model.yaml").write_text(
        "nc: 2\nanchors: 3\nbackbone: back.yaml\nhead: [[[-1], 1, Detect, [nc, anchors]]]\n"
    )
    with pytest.raises(UserError, match="tags and negative numbers"):
        build_model(tmp_path / "model.yaml")


def test_a_missing_part_names_the_closest(tmp_path: Path) -> None:
    (tmp_path / "backbone.yaml").write_text("[]")
    (tmp_path / "model.yaml").write_text("nc: 2\nbackbone: bakbone.yaml\nhead: []\n")
    with pytest.raises(UserError, match=r"did you mean 'backbone\.yaml'"):
        load_config(tmp_path / "model.yaml")


def test_yaml_tags_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("nc: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="expected YAML"):
        load_config(tmp_path / "model.yaml")


def test_building_changes_no_statistics() -> None:
    model = build_model(tiny())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.running_var, torch.ones_like(module.running_var))
            assert module.num_batches_tracked == 0


def test_every_cfg_is_listed_somewhere() -> None:
    from tests.models.test_backbones import PUBLISHED
    from tests.models.test_shipped import COUNTS

    shipped = {
        path.relative_to(resources_dir() / "cfg").with_suffix("").as_posix()
        for path in (resources_dir() / "cfg").rglob("*.yaml")
        if "parts" not in path.parts and "hyp" not in path.parts
    }
    assert shipped == {*COUNTS, *(f"{name}{form}" for name in PUBLISHED for form in ("", "-cls"))}


def test_each_copy_of_a_row_takes_what_the_one_before_makes() -> None:
    rows = [[-1, 2, "space_to_depth", [1]], [-1, 1, "Conv", [8, 1, 1]]]
    graph = build_graph(parse_config({"nc": 2, "backbone": rows, "head": [[-1, 1, "Classify", ["nc"]]]}))
    assert graph[1].conv.conv.in_channels == 3 * 16
