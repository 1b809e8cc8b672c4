"""YOLOv5's anchor-based head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolorep.models.heads.base import DetectionHead, check_classes
from yolorep.models.heads.raw import Raw
from yolorep.nn.registry import ends, register
from yolorep.ops.decode import Decoded, decode_anchors


@register(repeats="once", channels=ends)
class Detect(DetectionHead):
    """One 1×1 convolution a level that predicts boxes relative to anchors: ``[nc, anchors]``.

    Args:
        num_classes: classes.
        anchors: per level the widths and heights w1, h1, w2, h2, … in pixels, or the number of anchors a level, to be
            fitted to the data before training.
        in_channels: channels of each level, finest first.

    Attributes:
        anchors: (levels, anchors, 2) buffer of sizes in units of the level's stride.
    """

    anchors: Tensor
    from_config = frozenset({"anchors"})

    def __init__(
        self, num_classes: int, anchors: Sequence[Sequence[float]] | int | None, in_channels: Sequence[int]
    ) -> None:
        super().__init__()
        if anchors is None:
            raise ValueError("anchors: missing; give widths and heights for every level, or a number of anchors")
        self.num_classes = check_classes(num_classes)
        self.needs_fitting = isinstance(anchors, int)
        if isinstance(anchors, int):
            anchors = [list(range(2 * anchors))] * len(in_channels)
        if len(anchors) != len(in_channels):
            raise ValueError(f"expected anchors for {len(in_channels)} levels, found {len(anchors)}")
        if len({len(level) for level in anchors}) != 1 or len(anchors[0]) % 2 or not anchors[0]:
            raise ValueError("expected the same number of anchors in every level, each a width and a height")
        self.num_anchors = len(anchors[0]) // 2
        self.strides: tuple[int, ...] = (1,) * len(anchors)
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32).view(len(anchors), -1, 2))
        self.m = nn.ModuleList(nn.Conv2d(channels, self.num_anchors * (5 + num_classes), 1) for channels in in_channels)

    def forward(self, features: list[Tensor]) -> Raw:
        """Features (batch, channels, h, w) to maps (batch, anchors, h, w, 5 + classes): x, y, w, h, object, classes."""
        levels = []
        for conv, feature in zip(self.m, features, strict=True):
            y = conv(feature)
            batch, _, height, width = y.shape
            y = y.view(batch, self.num_anchors, 5 + self.num_classes, height, width)
            levels.append(y.permute(0, 1, 3, 4, 2).contiguous())
        return Raw(levels)

    def bind(self, strides: Sequence[int]) -> None:
        """Tells the head its strides: anchors become relative to them, biases get their priors.

        The prior is that 8 objects stand in a 640-pixel image, and all classes are equally likely.
        """
        self.strides = tuple(strides)
        self.anchors /= torch.tensor(strides, dtype=torch.float32).view(-1, 1, 1)
        with torch.no_grad():
            for conv, stride in zip(self.m, strides, strict=True):
                assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                bias = conv.bias.view(self.num_anchors, -1)
                bias[:, 4] += math.log(8 / (640 / stride) ** 2)
                # A single class gets +11: it is certain, and the loss does not train it.
                bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99999))

    def decode(self, raw: Raw) -> Decoded:
        return decode_anchors(raw.levels, self.anchors, self.strides)

    def class_rows(self, name: str, num_classes: int) -> Tensor | None:
        if not name.startswith("m."):
            return None
        rows = torch.zeros(self.num_anchors, 5 + num_classes, dtype=torch.bool)
        rows[:, 5:] = True
        return rows.flatten()
