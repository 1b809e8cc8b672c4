"""The training loop. What surrounds it (logs, checkpoints, plots) hangs on callbacks; what feeds it is passed in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolorep.console import progress, say
from yolorep.errors import UserError, YolorepError
from yolorep.losses.terms import LossTerms
from yolorep.training.ema import ModelEma
from yolorep.training.optim import Schedule

#: Largest norm of the gradient of one optimizer step.
MAX_GRADIENT_NORM = 10.0


class NonFiniteLoss(YolorepError):
    """The loss or its gradients became infinite or NaN: training cannot go on from here."""


class TrainBatch(Protocol):
    """What a loader yields."""

    images: Tensor  # (b, 3, h, w) uint8 RGB
    targets: Tensor  # (n, 6) float32: image, class, cx, cy, w, h normalized to the network input


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        metrics: ``AP``, ``AP50``, ….
        losses: Mean of each of the loss's terms over the evaluated images.
    """

    metrics: Mapping[str, float]
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochResult:
    """What an epoch brought.

    Attributes:
        epoch: Number of the epoch, from 0.
        losses: Mean of each of the loss's terms over the epoch, such as ``box``, ``obj`` and ``cls``.
        metrics: Metrics of the averaged weights (``AP``, ``AP50``, …); empty if not evaluated.
        learning_rates: Learning rate of each parameter group in the last iteration.
        seconds: Duration, evaluation included.
        best: No evaluated epoch before had a higher AP.
        final: No epoch follows.
        stopped: Why none follows though more were planned; empty otherwise.
        val_losses: The same terms of the averaged weights on the images evaluated on; empty if not evaluated.
    """

    epoch: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    learning_rates: Mapping[str, float]
    seconds: float
    best: bool
    final: bool
    stopped: str = ""
    val_losses: Mapping[str, float] = field(default_factory=dict)


class Callback:
    """Something that happens beside training. Every method may be left as it is."""

    def on_batch(self, trainer: Trainer, batch: TrainBatch, iteration: int) -> None:
        """After the step of a batch; ``iteration`` counts from 0 over the whole run."""

    def should_stop(self, trainer: Trainer, result: EpochResult) -> bool:
        """Whether no epoch shall follow, asked after every epoch before anything is written."""
        return False

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        """After an epoch and its evaluation."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last epoch."""

    def on_close(self, trainer: Trainer) -> None:
        """When training is over, however it ends: after the last epoch, on Ctrl-C, on an error."""


@dataclass
class Progress:
    """How far a run is: what resuming needs besides tensors.

    Attributes:
        epochs_done: Epochs finished.
        best_fitness: Highest AP so far; None before the first evaluation.
        best_epoch: The epoch it was found in.
        finished: No epoch follows.
    """

    epochs_done: int = 0
    best_fitness: float | None = None
    best_epoch: int = 0
    finished: bool = False


@dataclass(frozen=True)
class MultiScale:
    """Random image sizes, half to one and a half of the nominal, in multiples of the stride.

    Attributes:
        image_size: Nominal long side, pixels.
        stride: The model's largest stride.
        seed: Seed of the sizes.
    """

    image_size: int
    stride: int
    seed: int = 0

    def __call__(self, images: Tensor, iteration: int) -> Tensor:
        """Resize (b, 3, h, w) float images; which size depends on the iteration alone, so that resuming repeats it."""
        rng = np.random.default_rng((self.seed, iteration))
        low, high = self.image_size // 2, self.image_size * 3 // 2 + self.stride
        strides = max(int(rng.integers(low, high)) // self.stride, 1)  # half of a nominal size of one stride is none
        scale = strides * self.stride / max(images.shape[2:])
        if scale == 1:
            return images
        size = [math.ceil(side * scale / self.stride) * self.stride for side in images.shape[2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


@dataclass
class Trainer:
    """Trains a model, epoch by epoch.

    Attributes:
        model: The model, on ``device``.
        loss: Its loss: (raw predictions, targets) -> terms.
        optimizer: Its optimizer.
        schedule: Learning rate, momentum and accumulation by iteration.
        batches: The batches of an epoch, by the epoch's number; the same ones whenever asked.
        ema: Average of the weights.
        device: Where to train.
        evaluate: Scores of a model, with at least ``AP``; None for no evaluation.
        evaluate_every_epoch: Otherwise only after the last one.
        autocast: Reduced precision of forward passes, or None.
        multi_scale: Resizes images at random, or None.
        patience: Epochs without a better AP after which to stop; 0 never stops.
        callbacks: What happens besides, in this order.
        progress: How far the run is.
    """

    model: nn.Module
    loss: Callable[[Any, Tensor], LossTerms]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    batches: Callable[[int], Iterable[TrainBatch]]
    ema: ModelEma
    device: torch.device
    evaluate: Callable[[nn.Module], Scores] | None = None
    evaluate_every_epoch: bool = True
    autocast: torch.dtype | None = None
    multi_scale: MultiScale | None = None
    patience: int = 0
    callbacks: Sequence[Callback] = ()
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        # Only float16 needs loss scaling: bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast == torch.float16)
        self._pending = 0  # batches whose gradients wait for an optimizer step

    def fit(self) -> None:
        """Train until the last epoch, until patience ends, or until a callback stops the run.

        Raises:
            NonFiniteLoss: if a loss term or a gradient is not finite.
            UserError: if the loss returns something else than :class:`LossTerms` of numbers.
        """
        try:
            while not self.progress.finished:
                result = self._epoch(self.progress.epochs_done)
                self.progress.epochs_done += 1
                self.progress.finished = result.final
                for callback in self.callbacks:
                    callback.on_epoch(self, result)
            for callback in self.callbacks:
                callback.on_end(self)
        except BaseException:
            try:
                self._close()
            except Exception as error:  # a callback's, whatever it is; the run ends with what went wrong first
                say(f"while closing after an error: {type(error).__name__}: {error}")
            raise
        self._close()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the data.

        Returns:
            Mean loss terms.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        self._pending = 0
        batches = self.batches(epoch)
        count = self.schedule.batches
        sums: dict[str, float] = {}
        seen = 0
        label = f"epoch {epoch + 1}/{self.schedule.epochs}"

        def status() -> str:
            return " ".join(f"{name} {value / max(seen, 1):.4f}" for name, value in sums.items())

        for index, batch in enumerate(progress(batches, total=count, desc=label, unit="batch", status=status)):
            iteration = epoch * count + index
            for name, value in self.train_step(batch, iteration, last=index + 1 == count).items():
                sums[name] = sums.get(name, 0.0) + value
            seen += 1
            for callback in self.callbacks:
                callback.on_batch(self, batch, iteration)
        return {name: value / max(seen, 1) for name, value in sums.items()}

    def train_step(self, batch: TrainBatch, iteration: int, *, last: bool) -> dict[str, float]:
        """One batch: forward, loss, backward, and an optimizer step once enough batches have come together.

        Args:
            batch: Images and targets.
            iteration: Counted from 0 over the whole run.
            last: The epoch's last batch is always followed by an optimizer step: an epoch leaves nothing behind.

        Returns:
            The loss's terms by name.
        """
        images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last).float() / 255
        targets = batch.targets.to(self.device, non_blocking=True)
        if self.multi_scale is not None:
            images = self.multi_scale(images, iteration)
        self.schedule.apply(self.optimizer, iteration)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            terms = _checked(self.loss(self.model(images), targets))
        values = _finite(terms, iteration)
        self.scaler.scale(terms.total).backward()
        self._pending += 1
        if last or self._pending >= self.schedule.accumulate_at(iteration):
            self._optimizer_step(iteration)
        return values

    def _close(self) -> None:
        """Close every callback, in order, even if one fails."""
        with ExitStack() as closing:
            for callback in reversed(self.callbacks):
                closing.callback(callback.on_close, self)

    def _optimizer_step(self, iteration: int) -> None:
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM, foreach=True)
        # With float16 this is expected now and then: the scaler leaves the step out and lowers its scale.
        if not self.scaler.is_enabled() and not math.isfinite(norm.item()):
            raise NonFiniteLoss(
                f"the gradients are not finite in iteration {iteration}, though the loss is. Lower lr0 or check the "
                "labels; checkpoints of finished epochs are kept"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model)
        self._pending = 0

    def _epoch(self, epoch: int) -> EpochResult:
        start = time.perf_counter()
        losses = self.train_epoch(epoch)
        result = EpochResult(
            epoch=epoch,
            losses=losses,
            metrics={},
            learning_rates={group["name"]: group["lr"] for group in self.optimizer.param_groups},
            seconds=time.perf_counter() - start,
            best=False,
            final=epoch + 1 == self.schedule.epochs,
        )
        if self.evaluate_every_epoch or result.final:
            result = self._evaluated(result)
        # Every callback is asked, whatever the others say: some keep count.
        stops = [type(callback).__name__ for callback in self.callbacks if callback.should_stop(self, result)]
        if stops and not result.final:
            return replace(self._evaluated(result), final=True, stopped=f"{', '.join(stops)} asked for it")
        return result

    def _evaluated(self, result: EpochResult) -> EpochResult:
        """The same with what an evaluation brings, unless it has been."""
        if self.evaluate is None or result.metrics:
            return result
        start = time.perf_counter()
        scores = self.evaluate(self.ema.model)
        best = self._is_best(scores.metrics, result.epoch)
        waited = result.epoch - self.progress.best_epoch
        out_of_patience = 0 < self.patience <= waited and bool(scores.metrics) and not result.final
        return replace(
            result,
            metrics=scores.metrics,
            val_losses=scores.losses,
            seconds=result.seconds + time.perf_counter() - start,
            best=best,
            final=result.final or out_of_patience,
            stopped=f"no better AP for {self.patience} epochs (--patience)" if out_of_patience else "",
        )

    def _is_best(self, metrics: Mapping[str, float], epoch: int) -> bool:
        if metrics.get("AP", -1.0) < 0:  # not evaluated, or nothing to find
            return False
        if self.progress.best_fitness is None or metrics["AP"] > self.progress.best_fitness:
            self.progress.best_fitness = float(metrics["AP"])
            self.progress.best_epoch = epoch
            return True
        return False


def _checked(terms: LossTerms) -> LossTerms:
    """What a loss returned, which may be anybody's, if it is what losses return.

    Raises:
        UserError: saying what it is instead.
    """
    if not isinstance(terms, LossTerms):
        found = f"a {type(terms).__name__}"
    elif not isinstance(terms.parts, Mapping):
        found = f"parts that are a {type(terms.parts).__name__}"
    else:
        found = ", ".join(
            f"{name} {f'of shape {tuple(value.shape)}' if isinstance(value, Tensor) else f'a {type(value).__name__}'}"
            for name, value in {"total": terms.total, **terms.parts}.items()
            if not isinstance(value, Tensor) or value.ndim
        )
    if found:
        raise UserError(f"loss: expected LossTerms(total, parts by name) of tensors without dimensions, found {found}")
    return terms


def _finite(terms: LossTerms, iteration: int) -> dict[str, float]:
    """The terms' values, read with a single synchronization.

    Raises:
        NonFiniteLoss: naming the terms.
    """
    total, *values = torch.stack((terms.total.detach(), *terms.parts.values())).tolist()
    parts = dict(zip(terms.parts, values, strict=True))
    if not math.isfinite(total):
        raise NonFiniteLoss(
            f"the loss is not finite in iteration {iteration}: "
            f"{', '.join(f'{name} {value:.4g}' for name, value in parts.items())} "
            "(finite terms are fine). Lower lr0 or check the labels; checkpoints of finished epochs are kept"
        )
    return parts
