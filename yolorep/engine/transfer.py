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

    If the class names differ, the predictors' rows for boxes and objectness are taken over and only those for classes
    keep their initial values.

    Args:
        model: The model to fill.
        source: State dict of the other model.
        names: Class names of the other model.
        anchors: Take over the anchors too.
    """
    prefix = next(name for name, module in model.named_modules() if module is model.head)
    classes_kept = tuple(names) == tuple(model.names)
    transferred: list[str] = []
    missing: list[str] = []
    for name, mine in model.state_dict().items():
        theirs = source.get(name)
        if name == f"{prefix}.anchors" and not anchors:
            theirs = None
        if theirs is None:
            missing.append(name)
            continue
        if name.startswith(f"{prefix}.m."):
            num_anchors = model.head.anchors.shape[1]
            taken = _copy_rows(mine, theirs, num_anchors, num_classes=len(names), classes=classes_kept)
        else:
            taken = mine.shape == theirs.shape
            if taken:
                mine.copy_(theirs)
        (transferred if taken else missing).append(name)
    outside = sum(not name.startswith(f"{prefix}.") for name in transferred)
    return TransferReport(tuple(transferred), tuple(missing), classes_kept, outside)


def _copy_rows(mine: Tensor, theirs: Tensor, num_anchors: int, *, num_classes: int, classes: bool) -> bool:
    """Copy the rows of a predictor, (na · (5 + nc), …), anchor by anchor; whether shapes allowed it.

    ``num_classes`` is theirs; ``classes`` says whether they are mine too.
    """
    if theirs.shape != (num_anchors * (5 + num_classes), *mine.shape[1:]):
        return False
    my_rows = mine.unflatten(0, (num_anchors, -1))
    their_rows = theirs.unflatten(0, (num_anchors, -1))
    if classes:
        my_rows.copy_(their_rows)
    else:
        my_rows[:, :5] = their_rows[:, :5].to(my_rows)
    return True
