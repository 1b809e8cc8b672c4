"""Rows that are layers of torch.nn, and YOLOv5's rows beside them: what they compute, how they fold and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.randomize import randomize_
from yolorep.errors import FuseError, UserError
from yolorep.formats.base import Deployed, Format
from yolorep.formats.metadata import Metadata
from yolorep.formats.onnx import Onnx
from yolorep.formats.pytorch import TorchBackend
from yolorep.formats.samples import sample_batches
from yolorep.formats.torchscript import TorchScript
from yolorep.formats.verify import compare
from yolorep.models.detector import Detector, build_model, build_network
from yolorep.models.model_file import load_config, parse_config
from yolorep.models.parser import build_graph
from yolorep.nn.csp import C3SPP
from yolorep.nn.kernels import transposed_then_bn
from yolorep.nn.reparam import count_parameters, fuse, fused_form
from yolorep.nn.space_to_depth import Contract, Expand
from yolorep.nn.torch_rows import KEEPING, DWConvTranspose2d

CONV = [-1, 1, "Conv", [16, 3, 2]]
PLAIN = [-1, 1, "Conv", [16, 3, 2, None, 1, 1, False]]  # without an activation
NORM = [-1, 1, "nn.BatchNorm2d", []]


def model(*rows: Any) -> Detector:
    """Rows, then a convolution and a head of one level."""
    head = [[[-1], 1, "Detect", ["nc", "anchors"]]]
    return build_model({"nc": 2, "anchors": 3, "backbone": [*rows, CONV], "head": head})


#: Row of YOLOv5s, what stands there instead, and the parameters that YOLOv5's own program counts then.
CHANGED: dict[str, tuple[dict[int, list[Any]], int]] = {
    "AvgPool2d": ({1: [-1, 1, "nn.AvgPool2d", [2, 2]]}, 7_214_781),
    "BatchNorm2d": ({9: [-1, 1, "nn.BatchNorm2d", [1024]]}, 6_579_517),
    "C3SPP": ({8: [-1, 3, "C3SPP", [1024]]}, 6_743_613),
    "Contract": ({0: [-1, 1, "Contract", [2]]}, 7_220_349),
    "ConvTranspose2d": ({row: [-1, 1, "nn.ConvTranspose2d", [512, 4, 2, 1]] for row in (11, 15)}, 8_825_149),
    "activation": ({0: [-1, 1, "Conv", [64, 6, 2, 2, 1, 1, "nn.ReLU()"]]}, 7_235_389),
    "Dropout": ({9: [-1, 1, "nn.Dropout", [0.1]]}, 6_578_493),
    "DWConvTranspose2d": ({row: [-1, 1, "DWConvTranspose2d", [512, 4, 2, 1]] for row in (11, 15)}, 7_260_477),
    "Identity": ({9: [-1, 1, "nn.Identity", []]}, 6_578_493),
}


@pytest.mark.parametrize(("rows", "count"), CHANGED.values(), ids=CHANGED)
def test_parameters_are_yolov5s(rows: dict[int, list[Any]], count: int) -> None:
    plain = load_config("cfg/yolov5/s.yaml").to_dict()
    every = [row for section in ("backbone", "neck", "head") for row in plain.get(section, [])]
    tagged = {index: [*row, *every[index][4:]] for index, row in rows.items()}
    plain |= {"backbone": [tagged.get(index, row) for index, row in enumerate(every)], "neck": None, "head": every[-1:]}
    del plain["neck"]
    plain["backbone"] = plain["backbone"][:-1]
    with torch.device("meta"):
        assert count_parameters(build_graph(parse_config(plain))) == count


@pytest.mark.slow
def test_yolov5s_own_files(shared: Path) -> None:
    import json

    folder = shared / "cases/yolov5-model-rows"
    counts = json.loads((folder / "parameters_in_yolov5.json").read_text())
    for file in folder.glob("*.yaml"):
        with torch.device("meta"):
            network = build_network(file)
        assert [count_parameters(network), list(network.strides)] == counts[file.name]


def test_contract_puts_pixels_of_a_block_side_by_side() -> None:
    x = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    y = Contract(2)(x)
    assert y.shape == (1, 8, 2, 3)
    for row, column, channel in ((0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0)):
        assert torch.equal(y[0, 2 * (2 * row + column) + channel], x[0, channel, row::2, column::2])
    assert torch.equal(Expand(2)(y), x)
    assert Contract(3)(torch.zeros(1, 2, 6, 9)).shape == (1, 18, 2, 3)


def test_c3spp_pools_in_the_middle() -> None:
    block = C3SPP(8, 16, (3, 5))
    assert [pool.kernel_size for pool in block.m.m] == [3, 5]
    assert block(torch.zeros(1, 8, 7, 9)).shape == (1, 16, 7, 9)


def test_a_depth_wise_transposed_convolution() -> None:
    block = DWConvTranspose2d(8, 12, 2, 2)
    assert block.groups == 4 and block(torch.zeros(1, 8, 3, 4)).shape == (1, 12, 6, 8)


@pytest.mark.parametrize(("c1", "c2", "groups", "bias"), [(6, 4, 1, True), (6, 4, 2, False), (4, 8, 4, True)])
def test_a_transposed_convolution_takes_a_norm_up(c1: int, c2: int, groups: int, bias: bool) -> None:
    conv = nn.ConvTranspose2d(c1, c2, 4, 2, 1, 1, groups, bias=bias).double()
    norm = nn.BatchNorm2d(c2).double().eval()
    randomize_(norm)
    x = torch.randn(2, c1, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(transposed_then_bn(conv, norm)(x), norm(conv(x)))


#: Rows, the folds (norm, what takes it up) and the norms that stay.
FOLDS: dict[str, tuple[list[Any], dict[str, str], list[str]]] = {
    "after a convolution": ([PLAIN, NORM], {"1": "0.conv"}, []),
    "after an activation": ([CONV, NORM], {}, ["1"]),
    "through dropout": ([PLAIN, [-1, 1, "nn.Dropout", [0.1]], NORM, NORM], {"2": "0.conv", "3": "0.conv"}, []),
    "in repeats": ([PLAIN, [-1, 2, "nn.BatchNorm2d", []]], {"1.0": "0.conv", "1.1": "0.conv"}, []),
    "before a 1x1": ([CONV, NORM, [-1, 1, "nn.Identity", []], [-1, 1, "Conv", [8]]], {"1": "3.conv"}, []),
    "two before a 1x1": ([CONV, NORM, NORM, [-1, 1, "Conv", [8]]], {"1": "3.conv", "2": "3.conv"}, []),
    "before padding": ([CONV, NORM, [-1, 1, "Conv", [8, 3]]], {}, ["1"]),
    "other readers of the convolution": ([PLAIN, NORM, [[0, 1], 1, "Concat", [1]]], {}, ["1"]),
    "other readers of the norm": ([CONV, NORM, [-1, 1, "Conv", [8]], [[1, 2], 1, "Concat", [1]]], {}, ["1"]),
    "on the image": ([NORM, [-1, 1, "Conv", [8]]], {"0": "1.conv"}, []),
    "after a transposed one": ([CONV, [-1, 1, "nn.ConvTranspose2d", [8, 2, 2]], NORM], {"2": "1"}, []),
    "after a depth-wise one": ([CONV, [-1, 1, "DWConvTranspose2d", [8, 2, 2]], NORM], {"2": "1"}, []),
    "after torch's": ([CONV, [-1, 1, "nn.Conv2d", [16, 8, 3, 1, 1]], NORM], {"2": "1"}, []),
    "before torch's": ([CONV, NORM, [-1, 1, "nn.Conv2d", [16, 8, 1]]], {"1": "2"}, []),
    "what measures": ([CONV, [-1, 1, "nn.GroupNorm", [4, 16]], [-1, 1, "nn.InstanceNorm2d", [16]]], {}, ["1", "2"]),
}


@pytest.mark.parametrize(("rows", "folds", "kept"), FOLDS.values(), ids=FOLDS)
def test_norms_that_are_rows(rows: list[Any], folds: dict[str, str], kept: list[str]) -> None:
    network = randomize_(model(*rows).eval())
    fused, report = fuse(network, image_size=None)
    found = {fold.path: fold.into for record in report.records for fold in record.folds}
    assert found == {f"model.{path}": (f"model.{into}",) for path, into in folds.items()}
    assert [entry.name for entry in report.kept] == [f"model.{path}" for path in kept]
    assert report.max_error < 1e-9 and report.model_error is not None
    assert not fuse(fused, image_size=None)[1].records
    again = fused_form(model(*rows).eval())
    again.load_state_dict(fused.state_dict())
    if kept:
        with pytest.raises(FuseError, match="is kept"):
            fuse(network, strict=True, image_size=None)


def test_a_row_has_its_own_activation() -> None:
    network = model([-1, 2, "Conv", [16, 3, 2, None, 1, 1, "nn.LeakyReLU(0.2, True)"]], CONV)
    assert [block.act.negative_slope for block in network.model[0]] == [0.2, 0.2]
    assert not network.model[0][0].act.inplace
    assert isinstance(network.model[1].act, nn.SiLU)
    with pytest.raises(UserError, match=r"backbone row 0 .*unknown activation 'nn.RelU\(\)' \(did you mean 'nn.ReLU'"):
        model([-1, 1, "Conv", [16, 3, 2, None, 1, 1, "nn.RelU()"]])


def test_a_row_named_from_torch_on_and_its_device() -> None:
    transposed = model(CONV, [-1, 1, "torch.nn.ConvTranspose2d", [8, 4, 2, 1, 0, 2, False, 1, "zeros", "cuda"]]).model[
        1
    ]
    assert (transposed.in_channels, transposed.groups, transposed.weight.device.type) == (16, 2, "cpu")


def test_a_norms_constants_are_yolov5s() -> None:
    norm = model(CONV, NORM).model[1]
    assert (norm.num_features, norm.eps, norm.momentum) == (16, 1e-3, 0.03)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["nn.BatchNorm2d", [16, 1e-5]], r"expected \[\], for channels, eps and momentum are known"),
        (["nn.Conv2d", [8, 16, 3]], "expected input channels, which are 16 here"),
        (["nn.ConvTranspose2d", [16]], "missing a required argument: 'kernel_size'"),
        (["nn.ConvTranspose2d", [16, {"kernel_size": 4}]], "expected arguments in their order, without names, found"),
        (["Segment", ["nc", "anchors", 32, 256]], "Segment is a head for another task, or another program's; expected"),
        (["Expand", [3]], "expected channels that 3² divides, found 16"),
        (["Contract", ["2"]], "gain: expected a whole number of at least 1, found '2'"),
        (["nn.Linear", [16, 16]], "nn.Linear is no row: of PyTorch's layers those are that keep .* feature$"),
        (["nn.Flattn", []], "unknown module 'nn.Flattn'$"),
        (["nn.Hardtanh", [2, 1]], "max_val .* must be greater"),
    ],
)
def test_wrong_rows(row: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"backbone row 1 .*{message}"):
        model(CONV, [-1, 1, *row])


#: Arguments of the layers that need some; the feature has 8 channels.
ARGUMENTS: dict[type[nn.Module], list[Any]] = {
    nn.MaxPool2d: [3, 1, 1],
    nn.AvgPool2d: [3, 1, 1],
    nn.Upsample: [None, 2],
    nn.UpsamplingNearest2d: [None, 2],
    nn.UpsamplingBilinear2d: [None, 2],
    nn.ZeroPad2d: [0],
    nn.ConstantPad2d: [0, 1],
    nn.ReflectionPad2d: [0],
    nn.ReplicationPad2d: [0],
    nn.CircularPad2d: [0],
    nn.GroupNorm: [4, 8],
    nn.InstanceNorm2d: [8],
    nn.LocalResponseNorm: [2],
    nn.ChannelShuffle: [2],
    nn.Threshold: [0.1, 0.2],
    nn.Softmax: [1],
}
EVERY = [[-1, 1, f"nn.{layer.__name__}", ARGUMENTS.get(layer, [])] for layer in (*KEEPING, nn.RReLU)]
MIXED = [
    [-1, 1, "Conv", [8, 3, 2]],
    *([part for row in EVERY for part in ([row, [-1, 1, "Conv", [8, 3, 2]]] if "psampl" in row[2] else [row])]),
    *(
        [-1, 1, "Contract", [2]],
        [-1, 1, "Expand", [2]],
        [-1, 1, "C3SPP", [16]],
        [-1, 1, "DWConvTranspose2d", [8, 2, 2]],
    ),
    NORM,
]


def test_every_layer_builds_trains_and_fuses() -> None:
    torch.manual_seed(0)
    network = model(*MIXED)
    sum(level.square().sum() for level in network.train()(torch.rand(2, 3, 32, 32)).levels).backward()
    fused, report = fuse(network.eval(), image_size=None)
    assert report.max_error < 1e-9
    assert {entry.reason.split()[0] for entry in report.kept} == {"GroupNorm", "InstanceNorm2d", "LocalResponseNorm"}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.slow
@pytest.mark.parametrize("exporter", [Onnx(), TorchScript()], ids=["onnx", "torchscript"])
def test_every_layer_exports(exporter: Format, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = model(*MIXED).eval()
    fused, _ = fuse(network)
    example, *others = sample_batches([(2, 64, 96), (1, 32, 32)])
    path = tmp_path / f"model{exporter.suffix}"
    exporter.write(Deployed(fused).eval(), path, example=example.float() / 255, metadata=Metadata.of(network))
    backend = exporter.open(path, device=torch.device("cpu"))
    compare(backend, TorchBackend(fused), [example, *others]).require_equal()
