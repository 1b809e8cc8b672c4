"""What training needs to know of each kind of head: its loss, its recipe, how it is fitted to the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from yolorep.config import Hyp, Recipe
from yolorep.errors import UserError
from yolorep.losses.anchor import AnchorLoss, AnchorRecipe
from yolorep.losses.anchor_free import AnchorFreeLoss, FreeRecipe
from yolorep.losses.terms import LossTerms
from yolorep.models.detector import Detector
from yolorep.models.heads.anchor import Detect
from yolorep.models.heads.anchor_free import DetectFree
from yolorep.models.heads.base import DetectionHead
from yolorep.models.heads.raw import Raw
from yolorep.training.autoanchor import fit_anchors

#: (raw maps, targets) -> terms.
Loss = Callable[[Raw, Tensor], LossTerms]
#: (model, recipe) -> the model's loss.
MakeLoss = Callable[[Detector, Hyp], Loss]


@dataclass(frozen=True)
class HeadTraining:
    """What training needs to know of a kind of head.

    Attributes:
        recipe: What it is trained with unless told otherwise: a packaged YAML.
        keys: The recipe's keys that only this kind of head reads, by names that no other uses.
        loss: (head, recipe, image_size=, label_smoothing=) -> its loss: (raw maps, targets) -> terms.
        fit: Fits the head to the data before training: (head, (n, 2) object sizes in pixels, hyp=the recipe, seed=,
            placeholder=); None where there is nothing to fit.
    """

    recipe: str
    keys: type[Recipe]
    loss: Callable[..., Loss]
    fit: Callable[..., None] | None = None


#: One row a kind of head.
HEADS: dict[type[DetectionHead], HeadTraining] = {
    Detect: HeadTraining("cfg/hyp/scratch-low.yaml", AnchorRecipe, AnchorLoss.from_hyp, fit=fit_anchors),
    DetectFree: HeadTraining("cfg/hyp/yolorep.yaml", FreeRecipe, AnchorFreeLoss.from_hyp),
}


def training_of(head: DetectionHead) -> HeadTraining:
    """What training needs to know of a head: of its class, or of what that is derived from.

    Raises:
        UserError: if that is no kind known.
    """
    for kind in type(head).__mro__:
        if kind in HEADS:
            return HEADS[kind]
    kinds = ", ".join(kind.__name__ for kind in HEADS)
    raise UserError(f"no recipe and loss for {type(head).__name__}: expected a head derived from one of {kinds}")
