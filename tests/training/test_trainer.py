"""The loop: steps, stops, callbacks, failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.tiny import TinyBatch, tiny_batches, tiny_trainer
from yolorep.training.resume import restore_training_state, training_state
from yolorep.training.trainer import Callback, EpochResult, MultiScale, NonFiniteLoss, Scores, Trainer
from yolorep.weights.checkpoint import Checkpoint


class Recorder(Callback):
    def __init__(self) -> None:
        self.results: list[EpochResult] = []
        self.iterations: list[int] = []
        self.ends = 0
        self.closed = False

    def on_batch(self, trainer: Trainer, batch: TinyBatch, iteration: int) -> None:
        self.iterations.append(iteration)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        self.results.append(result)

    def on_end(self, trainer: Trainer) -> None:
        self.ends += 1

    def on_close(self, trainer: Trainer) -> None:
        self.closed = True


def test_learns() -> None:
    recorder = Recorder()
    tiny_trainer(epochs=20, optimizer="Adam", callbacks=[recorder]).fit()
    first, last = recorder.results[0].losses, recorder.results[-1].losses
    assert sum(last.values()) < 0.7 * sum(first.values())
    assert recorder.iterations == list(range(100))
    assert [result.epoch for result in recorder.results] == list(range(20))
    assert [result.final for result in recorder.results] == [False] * 19 + [True]
    assert recorder.ends == 1 and recorder.closed


class Closing(Callback):
    """Notes that it was closed, and may fail at it."""

    def __init__(self, *, fails: bool = False, stops: bool = False) -> None:
        self.fails, self.stops, self.closed, self.asked = fails, stops, False, 0

    def should_stop(self, trainer: Trainer, result: EpochResult) -> bool:
        self.asked += 1
        return self.stops

    def on_close(self, trainer: Trainer) -> None:
        self.closed = True
        if self.fails:
            raise OSError("no room to close")


def test_every_callback_is_closed() -> None:
    callbacks = [Closing(), Closing(fails=True), Closing()]
    with pytest.raises(OSError, match="no room to close"):
        tiny_trainer(epochs=1, callbacks=callbacks).fit()
    assert all(callback.closed for callback in callbacks)


def test_what_went_wrong_first_is_told() -> None:
    callbacks = [Closing(fails=True), Closing()]
    trainer = tiny_trainer(callbacks=callbacks)
    trainer.model.head.m.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLoss):
        trainer.fit()
    assert all(callback.closed for callback in callbacks)


def test_a_callback_stops_before_anything_is_written() -> None:
    recorder, stopping, asked = Recorder(), Closing(stops=True), Closing()
    trainer = tiny_trainer(
        epochs=3, evaluate=scores([0.2]), evaluate_every_epoch=False, callbacks=[recorder, stopping, asked]
    )
    trainer.fit()
    (result,) = recorder.results
    assert result.final and result.best and result.metrics == {"AP": 0.2}
    assert result.stopped == "Closing asked for it"
    assert asked.asked == 1 and recorder.ends == 1 and trainer.progress.finished


def test_optimizer_steps_every_accumulated_batches_and_at_the_end_of_an_epoch() -> None:
    trainer = tiny_trainer(epochs=2)
    trainer.fit()
    assert trainer.ema.updates == 2 * 3  # 5 batches: 2 + 2 + 1


@pytest.mark.parametrize(("scale", "clipped"), [(0.1, False), (1e4, True)])
def test_gradients_are_summed_over_batches_and_clipped(scale: float, clipped: bool) -> None:
    batches = tiny_batches(0)[:2]
    expected = sum(_gradients_of(_scaled_trainer(scale), batch, seed) for seed, batch in enumerate(batches))
    norm = expected.norm().item()
    assert (norm > 10) == clipped

    trainer = _scaled_trainer(scale)
    found = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (found.append(_gradients(trainer.model)), step())
    for seed, batch in enumerate(batches):  # two batches an optimizer step
        torch.manual_seed(seed)
        trainer.train_step(batch, seed, last=False)
    assert len(found) == 1
    assert torch.allclose(found[0], expected * min(1, 10 / norm), rtol=1e-4, atol=1e-6 * min(norm, 10))
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def _scaled_trainer(scale: float) -> Trainer:
    trainer = tiny_trainer()
    loss = trainer.loss

    def scaled(raw: object, targets: torch.Tensor) -> object:
        terms = loss(raw, targets)
        return replace(terms, total=terms.total * scale)

    trainer.loss = scaled
    return trainer


def _gradients_of(trainer: Trainer, batch: TinyBatch, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)  # dropout
    trainer.train_step(batch, 0, last=False)
    return _gradients(trainer.model)


def _gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("value", [float("nan")])
def test_non_finite_loss_stops_with_its_terms(value: float) -> None:
    recorder = Recorder()
    trainer = tiny_trainer(callbacks=[recorder])
    with torch.no_grad():
        trainer.model.head.m.bias[0] = value
    with pytest.raises(NonFiniteLoss, match=r"iteration 0: box nan, obj nan, cls [\d.]+"):
        trainer.fit()
    assert trainer.progress.epochs_done == 0
    assert recorder.closed and not recorder.ends


def test_non_finite_gradients_stop_before_the_step() -> None:
    trainer = tiny_trainer()
    trainer.model.head.m.bias.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    with pytest.raises(NonFiniteLoss, match="gradients are not finite in iteration 1"):
        trainer.fit()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.named_parameters())


def test_non_finite_gradients_are_the_scalers_business_with_float16() -> None:
    trainer = tiny_trainer()
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    trainer.model.head.m.bias.register_hook(lambda gradient: gradient * float("inf"))
    before = trainer.model.head.m.weight.clone()
    trainer.train_step(tiny_batches(0)[0], 0, last=True)
    assert torch.equal(trainer.model.head.m.weight, before)
    assert trainer.scaler.get_scale() < 65536


def test_a_run_without_scaler_goes_on_with_one() -> None:
    trainer = tiny_trainer()
    stored = Checkpoint(
        Path("last.pt"), {}, (), {}, ema=trainer.ema.model.state_dict(), training=training_state(tiny_trainer())
    )
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    restore_training_state(trainer, stored)
    assert trainer.scaler.get_scale() == 65536


def scores(values: list[float]) -> object:
    remaining = iter(values)

    def evaluate(model: nn.Module) -> Scores:
        assert not model.training
        return Scores({"AP": next(remaining)}, {"box": 0.5})

    return evaluate


def test_best_and_patience() -> None:
    recorder = Recorder()
    trainer = tiny_trainer(epochs=9, evaluate=scores([0.1, 0.3, 0.3, 0.2, 0.4]), patience=2, callbacks=[recorder])
    trainer.fit()
    assert [result.best for result in recorder.results] == [True, True, False, False]
    assert [result.final for result in recorder.results] == [False, False, False, True]
    assert [result.stopped for result in recorder.results][2:] == ["", "no better AP for 2 epochs (--patience)"]
    assert (trainer.progress.best_fitness, trainer.progress.best_epoch) == (0.3, 1)
    assert recorder.ends == 1


def test_evaluation_after_the_last_epoch_only() -> None:
    recorder = Recorder()
    trainer = tiny_trainer(
        epochs=3, evaluate=scores([0.2]), evaluate_every_epoch=False, patience=1, callbacks=[recorder]
    )
    trainer.fit()
    assert [dict(result.metrics) for result in recorder.results] == [{}, {}, {"AP": 0.2}]
    assert [dict(result.val_losses) for result in recorder.results] == [{}, {}, {"box": 0.5}]
    assert [result.best for result in recorder.results] == [False, False, True]


def test_an_undefined_ap_is_never_the_best() -> None:
    recorder = Recorder()
    trainer = tiny_trainer(epochs=2, evaluate=scores([-1.0, 0.0]), callbacks=[recorder])
    trainer.fit()
    assert [result.best for result in recorder.results] == [False, True]


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


def test_multi_scale_has_at_least_one_stride() -> None:
    resize = MultiScale(image_size=32, stride=32)
    assert {resize(torch.zeros(1, 3, 32, 32), i).shape[2] for i in range(20)} == {32, 64}


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
    assert list(values) == ["box", "obj", "cls"]
    assert values["box"] == values["cls"] == 0
    assert values["obj"] > 0
