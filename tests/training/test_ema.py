"""The averaged model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from yolorep.training.ema import ModelEma


def test_formula() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    ema = ModelEma(model)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for n in range(1, 4):
        model(torch.randn(4, 1, 3, 3))  # moves the statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        decay = 0.9999 * (1 - math.exp(-n / 2000))
        assert ema.decay_at(n) == pytest.approx(decay)
        ema.update(model)
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in ema.model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    assert ema.model[1].num_batches_tracked == 3
    assert ema.updates == 3


def test_leaves_the_model_alone() -> None:
    model = nn.Linear(2, 2)
    ema = ModelEma(model)
    before = model.weight.clone()
    with torch.no_grad():
        ema.model.weight.zero_()
    ema.update(model)
    assert torch.equal(model.weight, before)
    assert model.training
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
