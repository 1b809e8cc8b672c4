"""Published weights: equal features and logits whoever's names they come in; whatever else a file is gets refused."""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models.test_published import AUTHORS, VARIANTS
from tests.randomize import randomize_
from yolorep.engine.backbone_weights import build_published, load_backbone_weights, read_published, recognize
from yolorep.engine.checkpoint import save_checkpoint
from yolorep.engine.start import starting_model
from yolorep.engine.train import train
from yolorep.errors import UserError
from yolorep.models.classifier import Classifier
from yolorep.models.detector import Detector, build_network
from yolorep.models.network import Network
from yolorep.models.published import Layout, from_timm, timm_names
from yolorep.nn.conv import Normalize
from yolorep.nn.expand import ExpandedConv
from yolorep.nn.mobileone import BN_EPS, BN_MOMENTUM
from yolorep.options import TrainOptions

# --- the published networks -------------------------------------------------------------------------------------------


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


# --- a small one ------------------------------------------------------------------------------------------------------

APPLE = AUTHORS["mobileone"]


def config(*, widths: tuple[int, ...] = (16, 24), depth: int = 1, **changes: Any) -> dict[str, Any]:
    rows = [[-1, depth, "MobileOne", [width, 2, 2]] for width in widths]
    return {
        "nc": 3,
        "backbone": [[-1, 1, "Normalize", []], [-1, 1, "MobileOneStem", [8]], *rows],
        "head": [[-1, 1, "Classify", ["nc"]]],
        **changes,
    }


def network(seed: int = 0, **changes: Any) -> Network:
    torch.manual_seed(seed)
    built = build_network(config(**changes))
    randomize_(built, seed=seed)
    return built


def published(source: Network, layout: Layout = APPLE) -> dict[str, Tensor]:
    """The network's state under the publisher's names."""
    ours = {timm_name: source.state_dict()[name] for name, timm_name in timm_names(source).items()}
    names = from_timm(ours, layout)
    return {names[name]: tensor for name, tensor in ours.items()}


def same(first: nn.Module, second: nn.Module, *, but: str = "") -> bool:
    return all(
        torch.equal(tensor, second.state_dict()[name])
        for name, tensor in first.state_dict().items()
        if not but or not name.startswith(but)
    )


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


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(target: Network, path: Path | str) -> str:
    """The one-line error; the network is left as it was."""
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(UserError) as raised:
        load_backbone_weights(target, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())
    message = str(raised.value)
    assert "\n" not in message and "model_config" not in message
    return message


def saved(state: dict[str, Any], folder: Path, name: str = "w.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def test_another_family(tmp_path: Path) -> None:
    rows = [[-1, 1, "RepVGG", [8, 2]], [-1, 2, "RepVGG", [16, 2]]]
    other = network(1, backbone=rows)
    path = saved(published(other, AUTHORS["repvgg"]), tmp_path)
    message = refused(network(2), path)
    assert message == f"{path}: expected weights of a mobileone for model, found those of a repvgg"


def test_another_width(tmp_path: Path) -> None:
    message = refused(network(2), saved(published(network(1, widths=(32, 24))), tmp_path))
    assert "of another shape: stage1.1.rbr_conv.0.conv.weight (expected 16×8×1×1, found 32×8×1×1), " in message
    assert "missing" not in message and "place" not in message


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (2, 1, "missing: stage1.2.rbr_conv.0.conv.weight, "),
        (1, 2, "without a place in the network: stage1.2.rbr_conv.0.conv.weight, "),
    ],
)
def test_another_depth(mine: int, theirs: int, expected: str, tmp_path: Path) -> None:
    """A deeper network's weights would fill a shallower one: only the file knows that they do not belong there."""
    message = refused(network(2, depth=mine), saved(published(network(1, depth=theirs)), tmp_path))
    assert expected in message and "another shape" not in message


def test_a_missing_branch(tmp_path: Path) -> None:
    state = published(network(1))
    del state["stage2.0.rbr_scale.bn.running_var"]
    message = refused(network(2), saved(state, tmp_path))
    count = sum(not name.endswith("num_batches_tracked") for name in state) - 1  # linear.weight and bias
    assert message.endswith(
        f"expected the {count} tensors of the backbone of model, found {count - 1} of them; "
        "1 missing: stage2.0.rbr_scale.bn.running_var"
    )


def test_a_backbone_of_other_rows(tmp_path: Path) -> None:
    target = network(2, backbone=[[-1, 1, "Conv", [8, 3, 2]]])
    assert "expected a backbone of MobileOne, RepVGG or FastViT rows" in refused(
        target, saved(published(network(1)), tmp_path)
    )


def test_not_finite(tmp_path: Path) -> None:
    state = published(network(1))
    state["stage0.rbr_conv.0.conv.weight"][0, 0, 0, 0] = float("nan")
    assert "found stage0.rbr_conv.0.conv.weight with others" in refused(network(2), saved(state, tmp_path))


@pytest.mark.parametrize(
    ("file", "key", "instead"),
    [
        ("mobileone_s0.pth.tar", "stage0.reparam_conv.weight", "get mobileone_s0_unfused.pth.tar"),
        ("RepVGG-A0-deploy.pth", "stage0.rbr_reparam.weight", "get RepVGG-A0-train.pth"),
        ("fastvit_t8_reparam.pth.tar", "network.1.proj.0.lkb_reparam.weight", "get fastvit_t8.pth.tar"),
        ("mine.pt", "stem.reparam_conv.weight", "get the one it was made from"),
    ],
)
def test_fused_files(file: str, key: str, instead: str, tmp_path: Path) -> None:
    path = saved({"state_dict": {key: torch.zeros(1)}}, tmp_path, file)
    message = refused(network(), path)
    assert message.startswith(f"{path}: expected weights with all branches, found fused ones") and instead in message


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_payloads_are_not_run(zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    content = {"state_dict": published(network(1)), "extra": Payload(mark)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert str(tmp_path / "w.pth") in refused(network(2), tmp_path / "w.pth")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.pth", None, "no such file"),
        ("timm/missing.pth", None, "no such file"),
        ("w.safetensors", b"", "not a readable safetensors file"),
        ("w.safetensors", b"\x10\0\0\0\0\0\0\0{", "not a readable safetensors file"),
        ("w.pth", b"", "expected a checkpoint"),
        ("w.pth", b"\x80\x02.", "expected a checkpoint"),
        ("w.pth", b"PK\x03\x04 and no more", "expected a checkpoint"),
        ("w.onnx", b"x", "ending in .safetensors, .pt, .pth, .pth.tar, .bin"),
    ],
)
def test_damaged_files(
    name: str, content: bytes | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    message = refused(network(), name)
    assert message.startswith(f"{name}: ") and expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "expected tensors by name, found none"),
        ({"state_dict": {"a": 1}}, "expected tensors by name, found none"),
        ({"model": nn.Linear(2, 2)}, "expected tensors by name, found none"),
        ({"fc.weight": torch.zeros(2)}, "found 1 tensors such as fc.weight"),
    ],
)
def test_other_content(content: Any, expected: str, tmp_path: Path) -> None:
    assert expected in refused(network(), saved(content, tmp_path))


def test_our_own_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.pt", network())
    assert "found one of our checkpoints; use --weights" in refused(network(), tmp_path / "best.pt")


# --- which network a file is of ---------------------------------------------------------------------------------------


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


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": 1}
    content["state_dict"] = content
    torch.save(content, tmp_path / "loop.pth")
    assert "expected tensors by name, found none" in refused(network(), tmp_path / "loop.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.to_sparse(), "plain tensors of real numbers"),
        (lambda tensor: tensor.to("meta"), "plain tensors of real numbers"),
        (lambda tensor: tensor.to(torch.complex64), "plain tensors of real numbers"),
        (lambda tensor: tensor.to(torch.int8), "in floating point, found torch.int8"),
        (lambda tensor: -tensor.abs() - 1, "variances of at least 0"),
        (lambda tensor: tensor * float("nan"), "expected finite weights"),
    ],
)
def test_impossible_weights(change: Callable[[Tensor], Tensor], message: str, tmp_path: Path) -> None:
    state = published(network())
    name = next(name for name in state if name.endswith("running_var"))
    torch.save({**state, name: change(state[name])}, tmp_path / "s0_unfused.pth.tar")
    assert message in refused(network(), tmp_path / "s0_unfused.pth.tar")


# --- the hub ----------------------------------------------------------------------------------------------------------

HUB_ID = "timm/mobileone_s0.apple_in1k"


def hub(monkeypatch: pytest.MonkeyPatch, download: Callable[[str, str], str]) -> None:
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = network(1), network(2)
    asked = []

    def download(repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        save_file(published(source, Layout("timm", "mobileone")), tmp_path / filename)
        return str(tmp_path / filename)

    hub(monkeypatch, download)
    report = load_backbone_weights(target, HUB_ID)
    assert asked == [(HUB_ID, "model.safetensors")]
    assert same(source, target) and str(report).startswith(f"{HUB_ID}: timm layout, ")


def test_hub_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo_id: str, filename: str) -> str:
        raise OSError("401 Client Error\n\nRepository Not Found")

    hub(monkeypatch, download)
    assert refused(network(), HUB_ID).endswith("did not give its model.safetensors: 401 Client Error")


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refused(network(), HUB_ID).endswith("needs another package: pip install 'yolorep[hub]'")


@pytest.mark.parametrize(
    "name",
    [
        "mobileone_s0",
        "a/b/c",
        "timm/s0.pth",
        "../timm",
        "./timm/x",
        "/timm/s0",
        "",
        "runs/exp",
        "runs/s0",
        "w/best.onnx",
    ],
)
def test_files_are_not_looked_for_on_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "exp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hub(monkeypatch, lambda repo_id, filename: pytest.fail("the hub was asked"))
    assert "no such file" in refused(network(), name)


# --- in training ------------------------------------------------------------------------------------------------------


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
