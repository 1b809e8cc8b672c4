"""The batch size that ``--batch-size -1`` stands for: as many images as a GPU holds, as many as pay off on a CPU."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from yolorep.console import progress, say
from yolorep.data.dataset import free_memory
from yolorep.device import autocast_dtype
from yolorep.errors import UserError
from yolorep.ops.letterbox import round_up
from yolorep.training.ema import ModelEma
from yolorep.training.inputs import Run
from yolorep.training.optim import Schedule, build_optimizer
from yolorep.training.trainer import Trainer

#: Share of the free memory that a batch may take.
MEMORY_SHARE = 0.8
#: Largest batches tried.
MOST_ON_GPU, MOST_ON_CPU = 1024, 64
#: A batch is large enough if no other is faster by more than this.
TOLERANCE = 0.05
#: Seconds that measuring on a CPU may take.
SECONDS = 20.0


@dataclass(frozen=True)
class Cost:
    """What one training step takes.

    Attributes:
        seconds: Time.
        memory: Bytes.
    """

    seconds: float
    memory: float


def measure(
    probe: Callable[[int], Cost],
    *,
    most: int,
    memory: float,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[int, Cost]]:
    """Tries batches of 1, 2, 4, … images for as long as the next can be expected to fit.

    Args:
        probe: Runs steps of so many images.
        most: The largest batch to try.
        memory: Bytes a step may take.
        seconds: What all tries together may take.
        clock: Time in seconds.

    Yields:
        Batch size and its cost.
    """
    start = clock()
    costs = [Cost(0, 0)]
    batch, took = 1, 0.0
    while batch <= most and clock() - start + 2 * took <= seconds:
        # Memory grows by as much an image as from the last size to this one, beside what is always there.
        if len(costs) > 2 and 3 * costs[-1].memory - 2 * costs[-2].memory > memory:
            return
        begun = clock()
        try:
            cost = probe(batch)
        except torch.cuda.OutOfMemoryError:
            return
        took = clock() - begun
        if cost.memory > memory:
            return
        costs.append(cost)
        yield batch, cost
        batch *= 2


def fastest(costs: Mapping[int, Cost]) -> int:
    """The smallest batch whose time an image is, within :data:`TOLERANCE`, the shortest."""
    times = {batch: cost.seconds / batch for batch, cost in costs.items()}
    return min(batch for batch, each in times.items() if each * (1 - TOLERANCE) <= min(times.values()))


def choose_batch_size(run: Run) -> int:
    """The batch size for a run, found by training steps of a copy of its model.

    The model and the random number generators stay as they are.

    Raises:
        UserError: if one image is too much for the memory.
    """
    device, images = run.device, len(run.train_set.annotations)
    gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if gpu else free_memory() or math.inf
    memory, seconds, most = MEMORY_SHARE * free, math.inf if gpu else SECONDS, MOST_ON_GPU if gpu else MOST_ON_CPU
    costs: dict[int, Cost] = {}

    def status() -> str:
        times = ", ".join(f"{batch}: {1000 * cost.seconds / batch:.1f}" for batch, cost in costs.items())
        return f"{times} ms an image"

    with torch.random.fork_rng([device] if gpu else []):
        probe = _Probe(run)
        tries = measure(probe, most=min(most, images), memory=memory, seconds=seconds)
        for batch, cost in progress(tries, desc="--batch-size -1", unit="sizes", status=status):
            costs[batch] = cost
    del probe, tries
    if gpu:
        torch.cuda.empty_cache()
    if not costs:
        raise UserError(
            f"--batch-size -1: not even one image of {run.options.imgsz} pixels fits {device}; lower --imgsz"
        )
    chosen = max(costs) if gpu else fastest(costs)
    used = f", {costs[chosen].memory / 1e9:.1f} of {free / 1e9:.1f} GB" if gpu else ""
    say(f"--batch-size -1: {chosen} images a step{used} ({status()})")
    return chosen


class _Probe:
    """Runs training steps of a copy of a model on noise."""

    def __init__(self, run: Run) -> None:
        options, hyp, device, annotations = run.options, run.hyp, run.device, run.train_set.annotations
        self.device = device
        self.reserved = torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
        still = hyp.model_copy(update={"lr0": 1e-12, "warmup_epochs": 0.0})  # noise is not to be learned
        model = copy.deepcopy(run.model).to(memory_format=torch.channels_last).to(device).train()
        self.trainer = Trainer(
            model=model,
            loss=run.make_loss(model),
            optimizer=build_optimizer(
                options.optimizer or hyp.optimizer, model, lr=hyp.lr0, momentum=hyp.momentum, weight_decay=0.0
            ),
            schedule=Schedule(still, epochs=1, batches=1, batch_size=1),
            batches=lambda epoch: (),
            ema=ModelEma(model),
            device=device,
            autocast=autocast_dtype(options.precision, device),
        )
        self.size = round_up(options.imgsz * 3 // 2, model.max_stride) if options.multi_scale else options.imgsz
        shown = 4 if hyp.mosaic else 1  # images in one
        self.objects = max(round(shown * len(annotations.boxes) / len(annotations)), 1)
        self.random = torch.Generator().manual_seed(0)

    def __call__(self, batch: int) -> Cost:
        """The cost of a step of ``batch`` images: the fastest of up to three that take a second at most."""
        noise = torch.randint(256, (batch, 3, self.size, self.size), dtype=torch.uint8, generator=self.random)
        boxes = torch.rand(batch * self.objects, 4, generator=self.random) * 0.4 + 0.1
        first = torch.arange(batch).repeat_interleave(self.objects)[:, None]
        targets = torch.cat((first, torch.zeros_like(first), boxes), dim=1)
        step = partial(self.trainer.train_step, _Noise(noise, targets), 0)
        memory = self._memory(lambda: step(last=True))  # with the optimizer's, which comes only now and then
        times: list[float] = []
        while len(times) < 3 and sum(times) < 0.5:
            start = time.perf_counter()
            step(last=False)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - start)
        return Cost(min(times), memory)

    def _memory(self, step: Callable[[], Any]) -> float:
        """Bytes that a step takes: what CUDA gave out, or else twice what is kept for the backward pass."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            step()
            return torch.cuda.max_memory_reserved(self.device) - self.reserved
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step()
        return 2 * sum(kept.values())


@dataclass
class _Noise:
    images: Tensor
    targets: Tensor
