"""A detector small enough to train in milliseconds, and data for it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from yolorep.config import Hyp
from yolorep.losses.anchor import AnchorLoss, AnchorLossGains
from yolorep.training.ema import ModelEma
from yolorep.training.optim import Schedule, build_optimizer
from yolorep.training.trainer import Trainer


@dataclass
class TinyBatch:
    images: Tensor
    targets: Tensor


class TinyHead(nn.Module):
    anchors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 2
        self.register_buffer("anchors", torch.tensor([[[1.0, 1.0], [2.0, 2.0]]]))
        self.m = nn.Conv2d(8, 2 * 7, 1)

    def forward(self, feature: Tensor) -> SimpleNamespace:
        return SimpleNamespace(levels=[self.m(feature).unflatten(1, (2, 7)).permute(0, 1, 3, 4, 2)])


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.SiLU(), nn.Dropout(0.1))
        self.head = TinyHead()

    def forward(self, images: Tensor) -> SimpleNamespace:
        return self.head(self.body(images))


def tiny_batches(epoch: int, *, count: int = 5) -> list[TinyBatch]:
    """Bright squares on black, of two classes by colour."""
    generator = torch.Generator().manual_seed(epoch)
    batches = []
    for _ in range(count):
        images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        targets = []
        for image in range(4):
            x, y, kind = (int(torch.randint(0, high, (), generator=generator)) for high in (16, 16, 2))
            images[image, kind, y : y + 12, x : x + 12] = 255
            targets.append([image, kind, (x + 6) / 32, (y + 6) / 32, 12 / 32, 12 / 32])
        batches.append(TinyBatch(images, torch.tensor(targets)))
    return batches


def tiny_trainer(*, epochs: int = 3, seed: int = 0, optimizer: str = "SGD", **options: object) -> Trainer:
    torch.manual_seed(seed)
    model = TinyModel()
    hyp = Hyp(warmup_epochs=0)
    schedule = Schedule(hyp, epochs=epochs, batches=5, batch_size=32)  # two batches an optimizer step
    return Trainer(
        model=model,
        loss=AnchorLoss(model.head, AnchorLossGains()),
        optimizer=build_optimizer(optimizer, model, lr=0.01, momentum=0.9, weight_decay=5e-4),
        schedule=schedule,
        batches=tiny_batches,
        ema=ModelEma(model),
        device=torch.device("cpu"),
        **options,
    )
