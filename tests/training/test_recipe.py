"""What a run says about its recipe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from yolorep.config import Hyp
from yolorep.training.optim import Schedule, build_optimizer
from yolorep.training.recipe import describe


@pytest.mark.parametrize(
    ("hyp", "epochs", "batches", "autocast", "expected"),
    [
        (
            Hyp(optimizer="AdamW", lr0=0.002, nbs=16, warmup_share=0.1, ema_window=0.1, close_mosaic=0.25),
            40,
            13,
            torch.bfloat16,
            "AdamW at 0.002 to 2e-05, 520 steps of 16 images, the first 52 of 520 iterations warm up, "
            "weights averaged over 52 steps, mosaic until epoch 30, forward in bfloat16",
        ),
        (
            Hyp(),
            40,
            13,
            None,
            "SGD at 0.01 to 0.0001, 160 steps of 64 images, the first 100 of 520 iterations warm up, "
            "weights averaged as in YOLOv5, mosaic until epoch 40, forward in float32",
        ),
        (
            Hyp(mosaic=0.0, warmup_epochs=0.0),
            1,
            3,
            None,
            "SGD at 0.01 to 0.0001, 1 steps of 64 images, the first 0 of 3 iterations warm up, "
            "weights averaged as in YOLOv5, no mosaic, forward in float32",
        ),
    ],
)
def test_describe(hyp: Hyp, epochs: int, batches: int, autocast: torch.dtype | None, expected: str) -> None:
    schedule = Schedule(hyp, epochs=epochs, batches=batches, batch_size=16)
    optimizer = build_optimizer(hyp.optimizer, nn.Conv2d(3, 3, 1), lr=hyp.lr0, momentum=0.9, weight_decay=0.0)
    assert describe(schedule, optimizer=optimizer, autocast=autocast) == expected
