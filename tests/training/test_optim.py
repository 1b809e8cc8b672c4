"""Parameter groups and the schedule as a table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolorep.config import Hyp
from yolorep.training.optim import Schedule, build_optimizer, parameter_groups


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Scaled(), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


def test_groups() -> None:
    model = network()
    groups = {group["name"]: group for group in parameter_groups(model, weight_decay=0.1)}
    assert list(groups) == ["bias", "weight", "norm"]
    assert {id(p) for p in groups["bias"]["params"]} == {id(model[i].bias) for i in (0, 1, 3)}
    assert {id(p) for p in groups["weight"]["params"]} == {id(model[i].weight) for i in (0, 4)}
    assert {id(p) for p in groups["norm"]["params"]} == {id(model[1].weight), id(model[3].weight), id(model[2].gamma)}
    assert [group["weight_decay"] for group in groups.values()] == [0.0, 0.1, 0.0]


def test_groups_leave_out_frozen_and_repeated() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    shared = nn.Sequential(model, model)
    groups = parameter_groups(shared, weight_decay=0.1)
    assert [len(group["params"]) for group in groups] == [3, 1, 3]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimizers_step(name: str) -> None:
    model = network()
    optimizer = build_optimizer(name, model, lr=0.1, momentum=0.9, weight_decay=0.01)
    assert type(optimizer).__name__ == name
    before = model[0].weight.clone()
    model[0].weight.sum().backward()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_without_momentum(name: str) -> None:
    optimizer = build_optimizer(name, network(), lr=0.1, momentum=0.0, weight_decay=0.01)
    assert not any(group.get("nesterov") for group in optimizer.param_groups)


def test_unknown_optimizer() -> None:
    with pytest.raises(ValueError, match="expected one of SGD, Adam, AdamW, got 'LION'"):
        build_optimizer("LION", network(), lr=0.1, momentum=0.9, weight_decay=0.0)


SCHEDULE = Schedule(Hyp(), epochs=10, batches=50, batch_size=16)  # warm-up 150 iterations


@pytest.mark.parametrize(
    ("iteration", "lr", "bias_lr", "momentum", "accumulate"),
    [
        (0, 0.0, 0.1, 0.8, 1),
        (49, 0.01 * 49 / 150, 0.1 + (0.01 - 0.1) * 49 / 150, 0.8 + 0.137 * 49 / 150, 2),
        (75, 0.00901 * 0.5, (0.1 + 0.00901) / 2, 0.8685, 2),
        (149, 0.00802 * 149 / 150, 0.1 + (0.00802 - 0.1) * 149 / 150, 0.8 + 0.137 * 149 / 150, 4),
        (150, 0.00703, 0.00703, 0.937, 4),
        (499, 0.01 * (0.1 * 0.99 + 0.01), 0.01 * (0.1 * 0.99 + 0.01), 0.937, 4),
    ],
)
def test_schedule(iteration: int, lr: float, bias_lr: float, momentum: float, accumulate: int) -> None:
    assert SCHEDULE.warmup == 150
    assert SCHEDULE.lr_at(iteration) == pytest.approx(lr)
    assert SCHEDULE.lr_at(iteration, bias=True) == pytest.approx(bias_lr)
    assert SCHEDULE.momentum_at(iteration) == pytest.approx(momentum)
    assert SCHEDULE.accumulate_at(iteration) == accumulate


@pytest.mark.parametrize(("epoch", "share"), [(0, 1.0), (5, 0.505), (10, 0.01)])
@pytest.mark.parametrize("cosine", [False, True])
def test_decay(epoch: int, share: float, cosine: bool) -> None:
    assert Schedule(Hyp(), epochs=10, batches=50, batch_size=16, cosine=cosine).decay_at(epoch) == pytest.approx(share)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "weight_decay"),
    [(16, 4, 5e-4), (64, 1, 5e-4), (128, 1, 1e-3), (1, 64, 5e-4), (24, 3, 5e-4 * 72 / 64)],
)
def test_nominal_batch(batch_size: int, accumulate: int, weight_decay: float) -> None:
    schedule = Schedule(Hyp(), epochs=1, batches=1, batch_size=batch_size)
    assert schedule.accumulate == schedule.accumulate_at(10**6) == accumulate
    assert schedule.weight_decay == pytest.approx(weight_decay)


@pytest.mark.parametrize(("warmup_epochs", "expected"), [(3, 100), (30, 390), (0, 0)])
def test_warmup_takes_at_least_100_iterations(warmup_epochs: float, expected: int) -> None:
    assert Schedule(Hyp(warmup_epochs=warmup_epochs), epochs=40, batches=13, batch_size=16).warmup == expected


def test_apply() -> None:
    optimizer = build_optimizer("SGD", network(), lr=1.0, momentum=0.5, weight_decay=0.01)
    SCHEDULE.apply(optimizer, 75)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.054505, 0.004505, 0.004505])
    assert [group["momentum"] for group in optimizer.param_groups] == pytest.approx([0.8685] * 3)
    SCHEDULE.apply(build_optimizer("Adam", network(), lr=1.0, momentum=0.5, weight_decay=0.01), 75)
