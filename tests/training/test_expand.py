"""Expanded networks as files and runs: stored, rebuilt, transferred, trained, resumed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from tests.randomize import randomize_
from tests.training.toy_run import MODEL, StopAfter, options, same_weights, train
from yolorep.errors import UserError
from yolorep.inference.open import load_model
from yolorep.models.detector import Detector, build_model
from yolorep.models.model_file import parse_config
from yolorep.nn.expand import ExpandedConv, expand
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.options import TrainOptions
from yolorep.training.inputs import read_options
from yolorep.training.start import starting_model
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint

NAMES = ("blue", "green")


@pytest.fixture
def plain() -> Detector:
    torch.manual_seed(0)
    return randomize_(build_model(MODEL, names=NAMES)).eval()  # type: ignore[return-value]


@pytest.fixture
def files(plain: Detector, tmp_path: Path) -> dict[str, str]:
    """A model file and weights, plain and expanded."""
    paths = {name: str(tmp_path / name) for name in ("plain.yaml", "repvgg.yaml", "plain.pt", "mobileone.pt")}
    Path(paths["plain.yaml"]).write_text(yaml.safe_dump(MODEL))
    Path(paths["repvgg.yaml"]).write_text(yaml.safe_dump({**MODEL, "expand": "repvgg"}))
    save_checkpoint(Path(paths["plain.pt"]), plain)
    save_checkpoint(Path(paths["mobileone.pt"]), randomize_(expand(plain, "mobileone")))
    return paths


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return a.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in a.state_dict().items()
    )


def outputs_equal(a: nn.Module, b: nn.Module) -> bool:
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(a.eval()(image).levels, b.eval()(image).levels, strict=True)
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def count_expanded(model: nn.Module) -> int:
    return sum(isinstance(module, ExpandedConv) for module in model.modules())


def test_the_rule_is_part_of_the_model_file() -> None:
    model = build_model({**MODEL, "expand": "mobileone"})
    assert model.config.expand == "mobileone:k=4"
    assert count_expanded(model) == 3
    again = build_model(parse_config(model.config.to_dict()))
    assert again.state_dict().keys() == model.state_dict().keys()
    assert "expand" not in build_model(MODEL).config.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expand": "mobilone"}, r"^model: expand: expected .* found 'mobilone' \(did you mean 'mobileone'\?\)$"),
        ({"expand": 4}, "expand: expected a rule .* found 4$"),
        ({"expnd": "mobileone"}, r"expnd: unknown key \(did you mean 'expand'\?\)"),
        (
            {"expand": "repvgg", "backbone": [[-1, 1, "MobileOne", [8, 1, 2]]] * 3},
            "^model: expand: repvgg:k=1: expected a Conv row.* found none",
        ),
    ],
)
def test_wrong_rule_in_a_model_file(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model({**MODEL, **changes})


def test_checkpoint_round_trip(plain: Detector, tmp_path: Path) -> None:
    plain.model[1].conv.bn.eps = 0.02
    expanded = randomize_(expand(plain, "mobileone:k=2"))
    save_checkpoint(tmp_path / "expanded.pt", expanded)
    again = load_model(tmp_path / "expanded.pt")
    assert same(again, expanded)
    assert again.config.expand == "mobileone:k=2"
    assert outputs_equal(again, expanded)

    fused, _ = fuse(expanded, strict=True)
    save_checkpoint(tmp_path / "fused.pt", fused, fused=True)
    assert same(load_model(tmp_path / "fused.pt"), fused)
    assert fused.state_dict().keys() == fuse(plain)[0].state_dict().keys()


@pytest.mark.parametrize("cfg", [None, "plain.yaml"])
def test_start_from_plain_weights(
    plain: Detector, files: dict[str, str], cfg: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    model = starting_model(files[cfg] if cfg else None, files["plain.pt"], names=NAMES, expand="mobileone")
    assert model.config.expand == "mobileone:k=4"
    assert count_expanded(model) == 3
    assert outputs_equal(model, plain)
    before, after = count_parameters(plain), count_parameters(model)
    printed = capsys.readouterr()
    assert (
        f"mobileone:k=4: 3 convolutions got branches, {before:,} -> {after:,} parameters until fused"
        in printed.out + printed.err
    )


def test_start_afresh(files: dict[str, str]) -> None:
    model = starting_model(files["plain.yaml"], None, names=("a", "b", "c"), expand="repvgg:k=2")
    assert (model.num_classes, model.config.expand, count_expanded(model)) == (3, "repvgg:k=2", 3)
    assert starting_model(files["repvgg.yaml"], None, names=("a",)).config.expand == "repvgg:k=1"


def test_a_model_file_with_a_rule_takes_plain_weights(plain: Detector, files: dict[str, str]) -> None:
    model = starting_model(files["repvgg.yaml"], files["plain.pt"], names=NAMES)
    assert model.config.expand == "repvgg:k=1"
    assert outputs_equal(model, plain)


def test_expanded_weights_go_on_with_other_classes(files: dict[str, str]) -> None:
    source = load_model(files["mobileone.pt"])
    model = starting_model(None, files["mobileone.pt"], names=("a", "b", "c"))
    assert (model.num_classes, model.config.expand) == (3, "mobileone:k=4")
    theirs = source.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.startswith("model.3.m."):
            assert torch.equal(tensor, theirs[name]), name
    same_classes = starting_model(None, files["mobileone.pt"], names=NAMES)
    assert same(same_classes, source)


@pytest.mark.parametrize(
    ("cfg", "weights", "rule", "message"),
    [
        (None, "plain.pt", "mobilone", r"^--expand: expected .*found 'mobilone' \(did you mean 'mobileone'\?\)$"),
        ("plain.yaml", None, "mobileone:k=0", "^--expand: expected 1 to 64 k×k branches"),
        (
            None,
            "mobileone.pt",
            "mobileone",
            r"^--expand mobileone:k=4: .*mobileone\.pt expanded by mobileone:k=4 already",
        ),
        ("repvgg.yaml", None, "repvgg", r"repvgg\.yaml expanded by repvgg:k=1 already; leave --expand out$"),
        ("repvgg.yaml", "plain.pt", "repvgg", r"repvgg\.yaml expanded by repvgg:k=1 already"),
        ("repvgg.yaml", "mobileone.pt", None, "found the branches of mobileone:k=4; write 'expand: mobileone:k=4'"),
        ("plain.yaml", "mobileone.pt", None, "found the branches of mobileone:k=4; .* or leave --cfg out$"),
    ],
)
def test_rules_that_do_not_meet(
    files: dict[str, str], cfg: str | None, weights: str | None, rule: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        starting_model(files[cfg] if cfg else None, files[weights] if weights else None, names=NAMES, expand=rule)


def test_nothing_to_expand_is_one_line(tmp_path: Path) -> None:
    rows = [[-1, 1, "MobileOne", [8, 1, 2]]] * 3
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({**MODEL, "backbone": rows}))
    with pytest.raises(UserError, match="^expand: repvgg:k=1: expected a Conv row.* found none"):
        starting_model(str(tmp_path / "m.yaml"), None, names=NAMES, expand="repvgg")


def test_a_run_is_resumed_with_its_branches(work: Path) -> None:
    whole = train(options(work, name="whole", epochs=2, expand="mobileone:k=2"))
    with pytest.raises(KeyboardInterrupt, match=r"--resume .*last\.pt"):
        train(options(work, name="parts", epochs=2, expand="mobileone:k=2"), StopAfter(3))
    parts = work / "runs" / "parts"
    assert read_options(parts / "args.yaml").expand == "mobileone:k=2"
    train(TrainOptions(resume=str(parts), device="cpu"))
    assert same_weights(whole, parts)
    best = load_checkpoint(whole / "weights" / "best.pt")
    assert best.model_config["expand"] == "mobileone:k=2"
    assert "model.0.conv.branches.0.conv.weight" in best.state_dict
    fused, _ = fuse(best.build(), strict=True)
    assert fused.state_dict().keys() == fuse(build_model(MODEL).eval())[0].state_dict().keys()


# 57 convolutions, 18 of them with kernels larger than 1.
@pytest.mark.parametrize(("rule", "count"), [pytest.param("mobileone", 57, marks=pytest.mark.slow), ("repvgg", 18)])
def test_official_weights(shared: Path, rule: str, count: int) -> None:
    weights = shared / "weights" / "yolov5n.pt"
    original = load_model(weights)
    expanded = starting_model(None, str(weights), names=original.names, expand=rule).eval()
    assert count_expanded(expanded) == count
    assert expanded.model[0].conv.scale is not None and expanded.model[0].conv.identity is None
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    exact, reference = copy.deepcopy(expanded).double(), copy.deepcopy(original).double()
    with torch.no_grad():
        for mine, theirs in zip(exact(image).levels, reference(image).levels, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)

    fused, report = fuse(randomize_(expanded), strict=True)
    plain, plain_report = fuse(original, strict=True)
    assert {name: tensor.shape for name, tensor in fused.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }
    assert [type(module) for module in fused.modules()] == [type(module) for module in plain.modules()]
    assert (report.params_fused, report.gflops_fused) == (plain_report.params_fused, plain_report.gflops_fused)
