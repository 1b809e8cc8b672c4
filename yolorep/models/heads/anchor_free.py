"""The anchor-free, decoupled head: boxes and classes from branches of their own, distances instead of anchors."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolorep.models.heads.base import DetectionHead, check_classes
from yolorep.models.heads.raw import Raw
from yolorep.nn.conv import Activation
from yolorep.nn.registry import ends, register
from yolorep.nn.repconv import RepConv
from yolorep.ops.decode import Decoded, decode_distances


@register(repeats="once", channels=ends)
class DetectFree(DetectionHead):
    """Distances to the box's sides and class scores for every cell: ``[nc, reg_max=16, one2one=False]``.

    Decoupled branches without an objectness (Ge et al. 2021, "YOLOX", arXiv:2107.08430): per level two 3×3 convolutions
    and a 1×1 predict the box, two depth-wise separable ones and a 1×1 the classes. All but the last 1×1 are
    reparameterizable. Boxes are distributions over distances (Li et al. 2020, arXiv:2006.04388).

    The optional one-to-one branch needs no NMS: scores for the same boxes, of which an object has one peak. As in
    YOLOv10 (Wang et al. 2024, arXiv:2405.14458) it learns beside the one-to-many branch and shapes no features.

    Args:
        num_classes: classes.
        reg_max: a side's distance is a distribution over 0, 1, …, reg_max - 1 strides; 1 predicts the number itself.
        one2one: a second class branch, trained to give an object one peak.
        in_channels: channels of each level, finest first; their number sets the widths of all levels.
        activation: builds the activation, SiLU unless the model file names another.
        branches: of every convolution but the last ones.

    Attributes:
        box: of each level, the branch for the box.
        cls: of each level, the one-to-many branch for the classes, or that which :meth:`for_inference` kept.
        one2one: of each level, the one-to-one branch; or None.
    """

    def __init__(
        self,
        num_classes: int,
        reg_max: int = 16,
        one2one: bool = False,
        *,
        in_channels: Sequence[int],
        activation: Activation = nn.SiLU,
        branches: int = 1,
    ) -> None:
        super().__init__()
        self.num_classes = check_classes(num_classes)
        if reg_max < 1:
            raise ValueError(f"expected reg_max of at least 1, the distances a side may have, found {reg_max}")
        self.reg_max = reg_max
        self.strides = (1,) * len(in_channels)
        finest = in_channels[0]
        box = max(16, finest // 4, 4 * reg_max if reg_max > 1 else 0)
        cls = max(finest, min(num_classes, 100))

        def conv(c1: int, c2: int, k: int = 3, g: int = 1) -> RepConv:
            return RepConv(c1, c2, k, g=g, activation=activation, branches=branches)

        def class_branches() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(
                    conv(channels, channels, g=channels),
                    conv(channels, cls, 1),
                    conv(cls, cls, g=cls),
                    conv(cls, cls, 1),
                    nn.Conv2d(cls, num_classes, 1),
                )
                for channels in in_channels
            )

        self.box = nn.ModuleList(
            nn.Sequential(conv(channels, box), conv(box, box), nn.Conv2d(box, 4 * reg_max, 1))
            for channels in in_channels
        )
        self.cls = class_branches()
        self.one2one = class_branches() if one2one else None

    def forward(self, features: list[Tensor]) -> Raw:
        """Features (batch, channels, h, w) to maps (batch, 4 * reg_max + classes, h, w), box first."""
        boxes = [branch(feature) for branch, feature in zip(self.box, features, strict=True)]
        levels = _with_classes(boxes, self.cls, features)
        if self.one2one is None:
            return Raw(levels)
        boxes, features = ([tensor.detach() for tensor in tensors] for tensors in (boxes, features))
        return Raw(levels, _with_classes(boxes, self.one2one, features))

    @torch.no_grad()
    def bind(self, strides: Sequence[int]) -> None:
        """Biases to begin with: boxes about two cells to each side, or of equally likely distances; few objects.

        The class prior is that 5 objects stand in a 640-pixel image, of any class.
        """
        self.strides = tuple(strides)
        for branch in self.box:
            _last_bias(branch).fill_(2.0 if self.reg_max == 1 else 1.0)
        for branches in filter(None, (self.cls, self.one2one)):
            for branch, stride in zip(branches, strides, strict=True):
                _last_bias(branch).fill_(math.log(5 / self.num_classes / (640 / stride) ** 2))

    def decode(self, raw: Raw) -> Decoded:
        return decode_distances(raw.levels, self.strides, self.num_classes, self.reg_max, peaks=self.nms_free)

    def class_rows(self, name: str, num_classes: int) -> Tensor | None:
        kind, _, layer, *_ = name.split(".")  # one2one.0.4.bias
        return torch.ones(num_classes, dtype=torch.bool) if kind != "box" and layer == "4" else None

    def for_inference(self, *, nms_free: bool = False) -> DetectFree:
        if self.one2one is None and nms_free != self.nms_free:
            raise ValueError(
                "the one-to-many branch of this head is gone already"
                if self.nms_free
                else f"expected a head with a one-to-one branch, [nc, {self.reg_max}, True], found one without"
            )
        head = copy.deepcopy(self)
        if head.one2one is not None:
            if nms_free:
                head.cls = head.one2one
            head.one2one = None
            head.nms_free = nms_free
        return head


def _with_classes(boxes: Sequence[Tensor], branches: nn.ModuleList, features: Sequence[Tensor]) -> list[Tensor]:
    return [torch.cat((box, cls(feature)), dim=1) for box, cls, feature in zip(boxes, branches, features, strict=True)]


def _last_bias(branch: nn.Module) -> Tensor:
    assert isinstance(branch, nn.Sequential)
    conv = branch[-1]
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.bias
