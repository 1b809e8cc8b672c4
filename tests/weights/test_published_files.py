"""Files that are refused with one line, and names that do or do not reach the hub."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.weights.published_files import network, published, refused, same, saved
from tests.weights.test_layouts import AUTHORS
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.layouts import Layout
from yolorep.weights.published import load_backbone_weights


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
        ("w.safetensors", b"", "found an empty file"),
        ("w.safetensors", b"\x10\0\0\0\0\0\0\0{", "or a damaged one"),
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
