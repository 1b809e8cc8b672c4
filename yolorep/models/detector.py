"""A detector: a graph of layers that ends in a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import yolorep.models.heads
import yolorep.nn  # noqa: F401  (both imports register the row types)
from yolorep.errors import UserError
from yolorep.models.graph import Graph
from yolorep.models.heads.anchor import Detect
from yolorep.models.heads.raw import Raw
from yolorep.models.parser import BUILD_ERRORS, ModelConfig, build_graph, load_config, parse_config
from yolorep.ops.decode import Decoded


class Detector(nn.Module):
    """Backbone, neck and head.

    Args:
        graph: ends in a head.
        config: what it was built from.
        names: class names.

    Attributes:
        model: the graph; its last layer is the head.
        strides: pixels per cell of each output level.
        max_stride: what image sides must be multiples of: the stride of the coarsest feature, which may be coarser than
            every output level.
    """

    def __init__(self, graph: Graph, config: ModelConfig, *, names: Sequence[str]) -> None:
        super().__init__()
        self.model = graph
        self.config = config
        self.names = tuple(names)
        self.strides, self.max_stride = self._measure_strides()
        self.head.bind(self.strides)

    @property
    def head(self) -> Detect:
        """The last layer."""
        head = self.model[-1]
        assert isinstance(head, Detect)
        return head

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.head.num_classes

    def forward(self, images: Tensor) -> Raw:
        """RGB images (batch, 3, h, w) in 0..1, h and w multiples of ``max_stride``, to the head's raw maps."""
        raw: Raw = self.model(images)
        return raw

    def decode(self, raw: Raw) -> Decoded:
        """Boxes in pixels of the network input, and scores."""
        return self.head.decode(raw)

    def example_input(self, image_size: int | None = None) -> Tensor:
        """A random image batch of one in the model's dtype: square, or small and not square."""
        height, width = (2 * self.max_stride, 3 * self.max_stride) if image_size is None else (image_size, image_size)
        like = next(self.parameters())
        generator = torch.Generator().manual_seed(0)  # of its own: nobody's random numbers are shifted
        image = torch.rand(1, self.config.channels, height, width, generator=generator)
        return image.to(like.device, like.dtype)

    def _measure_strides(self) -> tuple[tuple[int, ...], int]:
        # On the meta device nothing is computed and no BatchNorm statistic can change.
        from torch.func import functional_call

        size = 256
        state = {name: tensor.to("meta") for name, tensor in self.state_dict().items()}
        heights: list[int] = []
        hooks = [
            layer.register_forward_hook(lambda _layer, _inputs, output: heights.append(output.shape[2]))
            for layer in list(self.model)[:-1]
        ]
        mode = self.training
        self.eval()
        try:
            raw = functional_call(self, state, torch.empty(1, self.config.channels, size, size, device="meta"))
        except BUILD_ERRORS as error:
            failed = len(heights)
            reason = str(error).splitlines()[0]
            raise ValueError(f"layer {failed}, {type(self.model[failed]).__name__}: {reason}") from error
        finally:
            self.train(mode)
            for hook in hooks:
                hook.remove()
        sides = [level.shape[2] for level in raw.levels]
        if any(size % side for side in sides):
            raise ValueError(f"a {size}-pixel image gives maps of {sides} cells; expected strides that divide {size}")
        return tuple(size // side for side in sides), size // min(heights)


def build_model(
    config: ModelConfig | Mapping[str, Any] | str | Path,
    *,
    num_classes: int | None = None,
    names: Sequence[str] | None = None,
) -> Detector:
    """Builds a detector with fresh weights.

    Args:
        config: a model file, its mapping, or what was read from it.
        num_classes: instead of the file's ``nc``.
        names: class names; ``class0``, ``class1``, … by default.

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
    if isinstance(head, Detect) and head.num_classes != config.num_classes:
        raise UserError(
            f"{config.source}: the Detect row says {head.num_classes} classes, but there are {config.num_classes}: "
            "write nc there"
        )
    try:
        return Detector(graph, config, names=names or [f"class{i}" for i in range(config.num_classes)])
    except BUILD_ERRORS as error:  # shapes that do not meet, in a file whose rows are right one by one
        raise UserError(f"{config.source}: the layers do not fit together: {error}") from error
