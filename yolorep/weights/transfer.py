"""Starting from the weights of another model: whatever has the same name and shape is taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from yolorep.models.detector import Detector


@dataclass(frozen=True)
class TransferReport:
    """What was taken over.

    Attributes:
        transferred: Names of tensors taken over, whole or (the predictors) but for their class rows.
        missing: Names of the model's tensors that keep their initial values.
        classes_kept: The class rows were taken over too.
        outside_head: Number of tensors taken over into layers before the head.
    """

    transferred: tuple[str, ...]
    missing: tuple[str, ...]
    classes_kept: bool
    outside_head: int

    def __str__(self) -> str:
        total = len(self.transferred) + len(self.missing)
        classes = "" if self.classes_kept else ", class rows initialized anew"
        return f"transferred {len(self.transferred)}/{total} tensors{classes}"


@torch.no_grad()
def transfer_weights(
    model: Detector, source: Mapping[str, Tensor], *, names: Sequence[str], anchors: bool
) -> TransferReport:
    """Copy weights into a model.

    If the class names differ, the head's rows for boxes (and objectness) are taken over and only those for classes
    keep their initial values.

    Args:
        model: The model to fill.
        source: State dict of the other model.
        names: Class names of the other model.
        anchors: Take over the anchors too, and whatever else a head has from its model file.
    """
    head = model.head
    prefix = next(name for name, module in model.named_modules() if module is head) + "."
    classes_kept = tuple(names) == tuple(model.names)
    transferred: list[str] = []
    missing: list[str] = []
    for name, mine in model.state_dict().items():
        theirs = source.get(name)
        inside = name.removeprefix(prefix) if name.startswith(prefix) else None
        if theirs is None or (inside in head.from_config and not anchors):
            taken = False
        elif inside is not None and not classes_kept:
            rows = (head.class_rows(inside, count) for count in (model.num_classes, len(names)))
            taken = _copy_rows(mine, theirs, *rows)
        else:
            taken = _copy(mine, theirs)
        (transferred if taken else missing).append(name)
    outside = sum(not name.startswith(prefix) for name in transferred)
    return TransferReport(tuple(transferred), tuple(missing), classes_kept, outside)


def _copy(mine: Tensor, theirs: Tensor) -> bool:
    """Copy a tensor; whether shapes allowed it."""
    if mine.shape != theirs.shape:
        return False
    mine.copy_(theirs)
    return True


def _copy_rows(mine: Tensor, theirs: Tensor, my_classes: Tensor | None, their_classes: Tensor | None) -> bool:
    """Copy the rows that stand for no class; whether shapes allowed it and there were any."""
    if my_classes is None or their_classes is None:
        return _copy(mine, theirs)
    rest = ~my_classes
    if theirs.shape != (len(their_classes), *mine.shape[1:]) or not rest.any():
        return False
    mine[rest] = theirs[~their_classes].to(mine)
    return True
