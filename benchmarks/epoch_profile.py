"""Where the time of an epoch goes: data, forward, loss, backward, optimizer, evaluation.

The program's own loop is timed, part by part. The first epoch warms up and is left out.

    python benchmarks/epoch_profile.py --data data/shapes.yaml --imgsz 320
    python benchmarks/epoch_profile.py --data data/shapes.yaml --imgsz 320 --precision fp32
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peers.machine import machine, versions

from yolorep.device import PRECISIONS
from yolorep.errors import UserError
from yolorep.options import TrainOptions
from yolorep.training.inputs import new_run
from yolorep.training.memory import keep_freed_memory
from yolorep.training.run import build_trainer
from yolorep.training.trainer import Trainer

PARTS = ("data", "forward", "loss", "backward", "optimizer", "evaluation")


class Stopwatch:
    """Seconds of each part.

    Attributes:
        seconds: part -> seconds since the last reset.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its seconds added to ``part``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - start

        return call

    def waiting(self, batches: Callable[[int], Iterable[Any]]) -> Callable[[int], Iterator[Any]]:
        """``batches``, the seconds waited for each added to ``data``."""

        def iterate(epoch: int) -> Iterator[Any]:
            iterator = iter(batches(epoch))
            step = self.timed("data", lambda: next(iterator, None))
            while (batch := step()) is not None:
                yield batch

        return iterate

    def watch(self, trainer: Trainer) -> None:
        """Times the parts of a trainer; its model becomes a function."""
        trainer.batches = self.waiting(trainer.batches)
        trainer.loss = self.timed("loss", trainer.loss)
        trainer.model.forward = self.timed("forward", trainer.model.forward)
        trainer._optimizer_step = self.timed("optimizer", trainer._optimizer_step)  # type: ignore[method-assign]
        trainer.train_step = self.timed("step", trainer.train_step)  # type: ignore[method-assign]
        assert trainer.evaluate is not None
        trainer.evaluate = self.timed("evaluation", trainer.evaluate)

    def parts(self) -> dict[str, float]:
        """Seconds of :data:`PARTS` since the last call; of a step, backward is what the others leave."""
        found = dict(self.seconds)
        self.seconds.clear()
        inside = sum(found.get(part, 0.0) for part in ("forward", "loss", "optimizer"))
        found["backward"] = found["step"] - inside
        return {part: found.get(part, 0.0) for part in PARTS}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains a few epochs and prints the table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default="cfg/yolorep/n.yaml")
    parser.add_argument("--data", default="data/shapes.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3, help="after the first")
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS))
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--workers", type=int, default=2, help="data loading processes")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    options = TrainOptions(
        cfg=args.cfg,
        data=args.data,
        imgsz=args.imgsz,
        batch_size=args.batch_size,
        epochs=args.epochs + 1,
        precision=args.precision,
        workers=args.workers,
        cache="ram",
        device="cpu",
    )
    try:
        run = new_run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    trainer = build_trainer(run)
    stopwatch = Stopwatch()
    stopwatch.watch(trainer)
    epochs = []
    for epoch in range(options.epochs):
        trainer.train_epoch(epoch)
        assert trainer.evaluate is not None
        trainer.evaluate(trainer.ema.model)
        epochs.append(stopwatch.parts())
    means = {part: sum(epoch[part] for epoch in epochs[1:]) / args.epochs for part in PARTS}
    total = sum(means.values())
    print(f"\n{Path(args.cfg).stem}, {Path(args.data).stem}, {args.imgsz} px, {args.precision}, {total:.1f} s an epoch")
    print("| part | seconds | share |\n|---|---|---|")
    for part, seconds in means.items():
        print(f"| {part} | {seconds:.3f} | {seconds / total:.0%} |")
    print(f"\n{machine()}; torch {versions()['torch']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
