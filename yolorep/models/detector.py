"""A detector: a network that ends in a detection head; and building networks from model files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

import yolorep.nn  # noqa: F401  (registers the row types, as importing the heads does)
from yolorep.errors import UserError
from yolorep.models.classifier import Classifier
from yolorep.models.heads.base import DetectionHead
from yolorep.models.heads.classify import Classify
from yolorep.models.heads.raw import Raw
from yolorep.models.model_file import ModelConfig, load_config, parse_config
from yolorep.models.network import PROBE, Network
from yolorep.models.parser import build_graph
from yolorep.ops.decode import Decoded


class Detector(Network):
    """Backbone, neck and head: RGB images to a head's raw maps.

    Attributes:
        strides: pixels per cell of each output level.
    """

    strides: tuple[int, ...]

    @property
    def head(self) -> DetectionHead:
        """The last layer."""
        head = self.model[-1]
        assert isinstance(head, DetectionHead)
        return head

    @property
    def nms_free(self) -> bool:
        """Whether what is decoded holds one box an object, so that nothing has to be suppressed."""
        return self.head.nms_free

    def forward(self, images: Tensor) -> Raw:
        """RGB images (batch, 3, h, w) in 0..1, h and w multiples of ``max_stride``, to the head's raw maps.

        Raises:
            UserError: for other sizes, at which features do not meet.
        """
        height, width = images.shape[2:]
        if height % self.max_stride or width % self.max_stride:
            raise UserError(
                f"expected an image size that is a multiple of {self.max_stride}, the model's largest stride, found "
                f"{width}x{height}"
            )
        raw: Raw = self.model(images)
        return raw

    def decode(self, raw: Raw) -> Decoded:
        """Boxes in pixels of the network input, and scores."""
        return self.head.decode(raw)

    def for_inference(self, *, nms_free: bool = False) -> Detector:
        """A copy that computes only what inference uses of its head's branches; :func:`fuse` it afterwards.

        Args:
            nms_free: keep the one-to-one branch, whose boxes need no suppression, instead of the one-to-many branch.

        Raises:
            UserError: if the head has no such branch.
        """
        try:
            head = self.head.for_inference(nms_free=nms_free)
        except ValueError as error:
            raise UserError(f"{'--nms-free' if nms_free else 'NMS'}: {error}") from error
        model = copy.deepcopy(self)
        model.model[-1] = head
        return model

    def extra_repr(self) -> str:
        return f"strides {'/'.join(map(str, self.strides))}"

    def _bind(self, output: Raw) -> None:
        sides = [level.shape[2] for level in output.levels]
        if any(PROBE % side for side in sides):
            raise ValueError(f"a {PROBE}-pixel image gives maps of {sides} cells; expected strides that divide {PROBE}")
        self.strides = tuple(PROBE // side for side in sides)
        self.head.bind(self.strides)


def build_network(
    config: ModelConfig | Mapping[str, Any] | str | Path,
    *,
    num_classes: int | None = None,
    names: Sequence[str] | None = None,
) -> Detector | Classifier:
    """Builds a detector or a classifier, as the file's last row says, with fresh weights.

    Args:
        config: a model file, its mapping, or what was read from it.
        num_classes: instead of the file's ``nc``.
        names: class names; by default ImageNet's for a classifier of 1000 classes, else ``class0``, ``class1``, ….

    Raises:
        UserError: naming file and row of every fault.
    """
    if isinstance(config, str | Path):
        config = load_config(config)
    elif isinstance(config, Mapping):
        config = parse_config(config)
    if names is not None:
        num_classes = len(names)
    if num_classes is not None:
        config = replace(config, num_classes=num_classes)
    graph = build_graph(config)
    head = graph[-1]
    assert isinstance(head, DetectionHead | Classify)
    if head.num_classes != config.num_classes:
        raise UserError(
            f"{config.source}: the {type(head).__name__} row says {head.num_classes} classes, but there are "
            f"{config.num_classes}: write nc there"
        )
    kind = Detector if isinstance(head, DetectionHead) else Classifier
    try:
        return kind(graph, config, names=names or kind.default_names(config.num_classes))
    except (ValueError, ArithmeticError, LookupError) as error:  # shapes that do not meet, in rows right one by one
        raise UserError(f"{config.source}: the layers do not fit together: {error}") from error


def build_model(
    config: ModelConfig | Mapping[str, Any] | str | Path,
    *,
    num_classes: int | None = None,
    names: Sequence[str] | None = None,
) -> Detector:
    """Builds a detector: :func:`build_network` where a classifier will not do; arguments and errors are its."""
    network = build_network(config, num_classes=num_classes, names=names)
    if not isinstance(network, Detector):
        raise UserError(
            f"{network.config.source}: expected a detector, with a last row such as Detect, found a classifier; "
            "it runs with 'yolorep classify'"
        )
    return network
