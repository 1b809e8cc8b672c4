"""What every detection head promises."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from yolorep.models.heads.raw import Raw
from yolorep.ops.decode import Decoded


class DetectionHead(nn.Module, ABC):
    """Features of several levels to raw maps; how these become boxes is a method of its own.

    Attributes:
        num_classes: classes.
        strides: pixels per cell of each level, finest first; known once the model is built.
        nms_free: what is decoded holds one box an object, so that nothing has to be suppressed.
        needs_fitting: holds placeholders of numbers that are to be found in the data before training.
        from_config: names of tensors whose values come from the model file rather than from training.
    """

    num_classes: int
    strides: tuple[int, ...]
    nms_free: bool = False
    needs_fitting: bool = False
    from_config: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def forward(self, features: list[Tensor]) -> Raw:
        """Features (batch, channels, h, w), finest first and left as they are, to raw maps, the same in every mode."""

    @abstractmethod
    def bind(self, strides: Sequence[int]) -> None:
        """Tells the head its strides, once, while the model is built: biases get their priors."""

    @abstractmethod
    def decode(self, raw: Raw) -> Decoded:
        """Boxes in pixels of the network input, and scores: the same from all branches' maps as for inference."""

    @abstractmethod
    def class_rows(self, name: str, num_classes: int) -> Tensor | None:
        """Which rows of a tensor stand for classes: what is lost when a trained head gets other classes.

        Args:
            name: of the tensor in the head's state dict.
            num_classes: classes the rows are counted for.

        Returns:
            (rows,) bool; None for a tensor that has no such rows.
        """

    def for_inference(self, *, nms_free: bool = False) -> DetectionHead:
        """A copy with the branch that inference uses only; a head without branches has nothing to drop.

        Raises:
            ValueError: if there is no branch for inference with or without NMS, as asked for.
        """
        if nms_free:
            raise ValueError(
                "expected a head with a one-to-one branch, such as DetectFree [nc, 16, True], "
                f"found {type(self).__name__}"
            )
        return copy.deepcopy(self)


def check_classes(num_classes: int) -> int:
    """``num_classes``, if it is a number of classes.

    Raises:
        ValueError: if not.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(f"expected at least 1 class, found {num_classes!r}")
    return num_classes
