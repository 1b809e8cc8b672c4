"""The head of image classifiers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from yolorep.models.heads.base import check_classes
from yolorep.nn.registry import ends, register


@register(repeats="once", channels=ends)
class Classify(nn.Module):
    """Global average pooling (Lin et al. 2013, arXiv:1312.4400) and a linear layer, on one feature: ``[nc]``.

    Shape: [(batch, channels, h, w)] -> (batch, classes) logits.
    """

    def __init__(self, num_classes: int, in_channels: Sequence[int]) -> None:
        super().__init__()
        check_classes(num_classes)
        if len(in_channels) != 1:
            raise ValueError(f"Classify reads one feature, found {len(in_channels)} in 'from'")
        self.num_classes = num_classes
        self.linear = nn.Linear(in_channels[0], num_classes)

    def forward(self, features: list[Tensor]) -> Tensor:
        (feature,) = features
        logits: Tensor = self.linear(feature.mean((2, 3)))
        return logits
