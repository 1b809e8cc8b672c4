"""A small network and the files its publishers would have made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.randomize import randomize_
from tests.weights.test_layouts import AUTHORS
from yolorep.errors import UserError
from yolorep.models.detector import build_network
from yolorep.models.network import Network
from yolorep.weights.layouts import Layout, from_timm, timm_names
from yolorep.weights.published import load_backbone_weights

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
