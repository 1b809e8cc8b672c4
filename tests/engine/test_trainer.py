"""The loop: steps, stops, callbacks, failures."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from tests.engine.tiny import TinyBatch, tiny_batches, tiny_trainer
from yolorep.engine.trainer import Callback, EpochResult, MultiScale, NonFiniteLoss, Trainer


class Recorder(Callback):
    def __init__(self) -> None:
        self.results: list[EpochResult] = []
        self.iterations: list[int] = []
        self.ends = 0

    def on_batch(self, trainer: Trainer, batch: TinyBatch, iteration: int) -> None:
        self.iterations.append(iteration)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        self.results.append(result)

    def on_end(self, trainer: Trainer) -> None:
        self.ends += 1


def test_learns() -> None:
    recorder = Recorder()
    tiny_trainer(epochs=20, optimizer="Adam", callbacks=[recorder]).fit()
    first, last = recorder.results[0].losses, recorder.results[-1].losses
    assert sum(last.values()) < 0.7 * sum(first.values())
    assert recorder.iterations == list(range(100))
    assert [result.epoch for result in recorder.results] == list(range(20))
    assert [result.final for result in recorder.results] == [False] * 19 + [True]
    assert recorder.ends == 1


def test_optimizer_steps_every_accumulated_batches_and_at_the_end_of_an_epoch() -> None:
    trainer = tiny_trainer(epochs=2)
    trainer.fit()
    assert trainer.ema.updates == 2 * 3  # 5 batches: 2 + 2 + 1


def test_gradients_are_summed_over_batches_and_clipped() -> None:
    trainer = tiny_trainer()
    batch = tiny_batches(0)[0]
    trainer.model.train()
    trainer.train_step(batch, 0, last=False)
    once = trainer.model.head.m.weight.grad.clone()
    norms = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (norms.append(_norm(trainer.model)), step())
    trainer.train_step(batch, 1, last=False)
    assert once.abs().sum() > 0
    assert norms[0] <= 10.001
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def _norm(model: nn.Module) -> float:
    return float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())


@pytest.mark.parametrize("value", [float("nan")])
def test_non_finite_loss_stops_with_its_terms(value: float) -> None:
    trainer = tiny_trainer()
    with torch.no_grad():
        trainer.model.head.m.bias[0] = value
    with pytest.raises(NonFiniteLoss, match=r"iteration 0: box nan, obj nan, cls [\d.]+"):
        trainer.fit()
    assert trainer.progress.epochs_done == 0


def scores(values: list[float]) -> object:
    remaining = iter(values)

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        assert not model.training
        return {"AP": next(remaining)}

    return evaluate


def test_best_and_patience() -> None:
    recorder = Recorder()
    trainer = tiny_trainer(epochs=9, evaluate=scores([0.1, 0.3, 0.3, 0.2, 0.4]), patience=2, callbacks=[recorder])
    trainer.fit()
    assert [result.best for result in recorder.results] == [True, True, False, False]
    assert [result.final for result in recorder.results] == [False, False, False, True]
    assert (trainer.progress.best_fitness, trainer.progress.best_epoch) == (0.3, 1)
    assert recorder.ends == 1


def test_evaluation_after_the_last_epoch_only() -> None:
    recorder = Recorder()
    trainer = tiny_trainer(
        epochs=3, evaluate=scores([-1.0]), evaluate_every_epoch=False, patience=1, callbacks=[recorder]
    )
    trainer.fit()
    assert [dict(result.metrics) for result in recorder.results] == [{}, {}, {"AP": -1.0}]
    assert [result.best for result in recorder.results] == [False, False, True]


def test_bfloat16_autocast() -> None:
    trainer = tiny_trainer(epochs=1, autocast=torch.bfloat16)
    trainer.fit()
    assert not trainer.scaler.is_enabled()
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_multi_scale() -> None:
    resize = MultiScale(image_size=320, stride=32, seed=1)
    shapes = {tuple(resize(torch.zeros(1, 3, 320, 320), i).shape[2:]) for i in range(60)}
    assert {height for height, _ in shapes} == set(range(160, 481, 32))
    assert all(height == width for height, width in shapes)
    wide = resize(torch.zeros(1, 3, 224, 320), 5).shape[2:]
    assert all(side % 32 == 0 for side in wide)
    assert torch.equal(resize(torch.ones(1, 3, 320, 320), 7), resize(torch.ones(1, 3, 320, 320), 7))
    tiny_trainer(epochs=1, multi_scale=MultiScale(image_size=32, stride=8)).fit()


def test_frozen_parameters_stay() -> None:
    trainer = tiny_trainer(epochs=1)
    frozen = trainer.model.body[0].weight
    frozen.requires_grad_(False)
    before = frozen.clone()
    trainer.fit()
    assert torch.equal(frozen, before)


def test_batch_type_is_all_it_needs() -> None:
    batch = TinyBatch(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 6))
    values = tiny_trainer().train_step(batch, 0, last=True)
    assert values[0] == values[2] == 0
    assert values[1] > 0
