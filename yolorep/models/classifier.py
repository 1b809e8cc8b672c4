"""A classifier: the form in which backbones are published."""

from __future__ import annotations

from yolorep.models.network import Network


class Classifier(Network):
    """A backbone and a Classify head: images (batch, 3, h, w) of any size to logits (batch, classes)."""

    @classmethod
    def default_names(cls, count: int) -> list[str]:
        """ImageNet's names for 1000 classes."""
        if count != 1000:
            return super().default_names(count)
        from torchvision.models import ResNet18_Weights  # late: it is slow to import

        return list(ResNet18_Weights.DEFAULT.meta["categories"])
