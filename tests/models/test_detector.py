"""The detector: its head, its graph, what it never does."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.test_parser import tiny
from yolorep.models.detector import build_model
from yolorep.models.graph import IMAGE, Graph, Part
from yolorep.models.heads.anchor import Detect
from yolorep.ops.decode import decode_anchors


def test_names_decide_the_classes() -> None:
    model = build_model(tiny(), names=["cat", "dog", "bird"])
    assert (model.num_classes, model.names, model.config.num_classes) == (3, ("cat", "dog", "bird"), 3)


def test_repr_is_one_line() -> None:
    model = build_model(tiny(), names=["cat", "dog", "bird"])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert repr(model) == f"Detector(model, 3 classes, {count:,} parameters, strides 2/4)"
    assert len(repr(model.model).splitlines()) > 10


def test_anchors_are_stored_in_strides() -> None:
    model = build_model(tiny())
    assert model.head.anchors[0, 0].tolist() == [10 / 2, 13 / 2]
    assert model.head.anchors[1, 2].tolist() == [59 / 4, 119 / 4]


def test_bias_priors() -> None:
    torch.manual_seed(0)
    fresh = Detect(2, [[1, 1]], [4])
    before = fresh.m[0].bias.detach().clone()
    fresh.bind([8])
    added = (fresh.m[0].bias - before).tolist()
    assert added[:4] == [0, 0, 0, 0]
    assert added[4] == pytest.approx(math.log(8 / 80**2))
    assert added[5:] == pytest.approx([math.log(0.6 / 1.00001)] * 2)


def test_head_returns_the_same_type_in_both_modes_and_keeps_its_input() -> None:
    head = Detect(2, [[1, 1]], [4])
    features = [torch.rand(1, 4, 3, 5)]
    copy = [feature.clone() for feature in features]
    kept = list(features)
    assert head.train()(features).levels[0].shape == head.eval()(features).levels[0].shape == (1, 1, 3, 5, 7)
    assert features[0] is kept[0] and torch.equal(features[0], copy[0])


def test_decoding_by_hand() -> None:
    level = torch.zeros(1, 2, 2, 3, 6)
    level[0, 1, 1, 2] = torch.tensor([2.0, -1.0, 0.5, 0.0, 1.0, -2.0])
    decoded = decode_anchors([level], torch.tensor([[[1.0, 1.0], [2.0, 3.0]]]), [8])
    index = 1 * 6 + 1 * 3 + 2

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    x, y = (2 * sigmoid(2) - 0.5 + 2) * 8, (2 * sigmoid(-1) - 0.5 + 1) * 8
    w, h = (2 * sigmoid(0.5)) ** 2 * 16, (2 * sigmoid(0)) ** 2 * 24
    assert decoded.boxes[0, index].tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-5)
    assert decoded.scores[0, index].tolist() == pytest.approx([sigmoid(1) * sigmoid(-2)], rel=1e-5)
    assert decoded.boxes[0, 0].tolist() == pytest.approx([0, 0, 8, 8])  # σ(0): cell centre, anchor size


class _Watch(nn.Module):
    """Adds up what it reads, and notes which of the features made so far are still held while it runs."""

    def __init__(self, made: list[weakref.ref[torch.Tensor]], held: list[list[int]], parts: int = 0) -> None:
        super().__init__()
        self.made, self.held, self.parts = made, held, parts

    def forward(self, features: list[torch.Tensor] | torch.Tensor) -> Any:
        self.held.append([number for number, feature in enumerate(self.made) if feature() is not None])
        total = sum(features) if isinstance(features, list) else features + 0
        assert isinstance(total, torch.Tensor)
        outputs = [total * (10**part) for part in range(self.parts or 1)]
        self.made += [weakref.ref(output) for output in outputs]
        return outputs if self.parts else outputs[0]


def test_graph_forgets_what_is_not_needed() -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    held: list[list[int]] = []
    graph = Graph([_Watch(made, held) for _ in range(4)], [IMAGE, 0, (0, 1), 2])
    assert graph(torch.ones(1)).item() == 2
    assert held == [[], [0], [0, 1], [2]]


def test_graph_reads_each_of_several_features() -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    held: list[list[int]] = []
    layers = [_Watch(made, held, parts=3), *(_Watch(made, held) for _ in range(3))]
    graph = Graph(layers, [IMAGE, Part(0, 1), (1, Part(0, 0)), (Part(0, 0), 2, 0)])
    assert graph(torch.ones(1)).item() == 1 + 11 + 100  # 0 is the last of 1, 10 and 100
    assert held == [[], [0, 1, 2], [0, 2, 3], [0, 2, 4]]
