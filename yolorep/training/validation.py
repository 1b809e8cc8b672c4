"""Scoring a model after an epoch: AP and loss, from one pass over the validation set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from yolorep.data.annotations import Annotations
from yolorep.data.dataset import Dataset
from yolorep.data.loader import EvalBatch
from yolorep.data.transforms import to_normalized, to_pixels
from yolorep.evaluation.evaluator import evaluate
from yolorep.formats.pytorch import TorchBackend
from yolorep.models.detector import Detector
from yolorep.models.heads.raw import Raw
from yolorep.training.task import Loss
from yolorep.training.trainer import Scores


def validate(
    model: Detector,
    dataset: Dataset,
    *,
    loss: Loss,
    device: torch.device,
    batch_size: int,
    workers: int = 0,
) -> Scores:
    """Evaluates a model, every branch of its head included: from the same maps come the boxes and the loss.

    The AP is that of :func:`evaluate` and does not depend on the batch size. The loss's terms are averaged over the
    images; they depend a little on which images share a batch, for most losses count by batches.

    Args:
        model: In eval mode.
        dataset: What to evaluate on.
        loss: The loss it is trained with.
        device: Where to run it.
        batch_size: Images a batch at most.
        workers: Data loading processes.
    """
    maps: list[Raw] = []
    sums: dict[str, Tensor] = {}

    @torch.inference_mode()
    def judge(batch: EvalBatch) -> None:
        targets = eval_targets(batch, dataset.annotations).to(device)
        for term, value in loss(maps.pop(), targets).parts.items():
            sums[term] = sums.get(term, torch.zeros_like(value)) + value * len(batch.indices)

    backend = TorchBackend(model, device=device, observe=maps.append)
    found = evaluate(backend, dataset, batch_size=batch_size, workers=workers, pictures=False, observe=judge)
    images = max(len(dataset.annotations), 1)
    return Scores(found.metrics, {term: total.item() / images for term, total in sums.items()})


def eval_targets(batch: EvalBatch, annotations: Annotations) -> Tensor:
    """The objects of a batch as losses take them.

    Returns:
        (n, 6) float32 ``image in the batch, class, cx, cy, w, h``, normalized to the network input.
    """
    rows = [np.empty((0, 6), np.float32)]
    for position, (index, box) in enumerate(zip(batch.indices, batch.letterboxes, strict=True)):
        boxes = to_pixels(annotations.labels(index), box.resized, box.left, box.top)
        rows.append(np.insert(to_normalized(boxes, box.target), 0, position, axis=1))
    return torch.from_numpy(np.concatenate(rows))
