"""What every network is: a graph of layers that ends in a head, with class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolorep.console import plural
from yolorep.models import limits
from yolorep.models.fold_rows import fold_row_norms
from yolorep.models.graph import Graph
from yolorep.models.model_file import ModelConfig
from yolorep.models.parser import BUILD_ERRORS
from yolorep.nn.meta import run_on_meta
from yolorep.nn.reparam import FoldRecord, count_parameters
from yolorep.ops.letterbox import Geometry

#: Side of the image strides are measured on: a multiple of every stride that a network may have.
PROBE = 256


class Network(nn.Module):
    """Layers and a head.

    Args:
        graph: ends in a head.
        config: what it was built from.
        names: class names.

    Attributes:
        model: the graph; its last layer is the head.
        max_stride: pixels per cell of the coarsest feature, which may be coarser than every output level.
        geometry: the images it was trained on; saved with its weights.
    """

    def __init__(self, graph: Graph, config: ModelConfig, *, names: Sequence[str]) -> None:
        super().__init__()
        self.model = graph
        self.config = config
        self.names = tuple(names)
        self.geometry = Geometry()
        heights, output = _probe(graph, config.channels)
        self.max_stride = PROBE // min(heights)
        self._bind(output)

    @property
    def head(self) -> nn.Module:
        """The last layer."""
        return self.model[-1]

    @classmethod
    def default_names(cls, count: int) -> list[str]:
        """Class names where none are given."""
        return [f"class{i}" for i in range(count)]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def forward(self, images: Tensor) -> Any:
        """RGB images (batch, 3, h, w) in 0..1 to whatever the head returns."""
        return self.model(images)

    def example_input(self, image_size: int | None = None) -> Tensor:
        """A random image batch of one in the model's dtype: square, or small and not square."""
        height, width = (2 * self.max_stride, 3 * self.max_stride) if image_size is None else (image_size, image_size)
        like = next(self.parameters())
        generator = torch.Generator().manual_seed(0)  # of its own: nobody's random numbers are shifted
        image = torch.rand(1, self.config.channels, height, width, generator=generator)
        return image.to(like.device, like.dtype)

    def fold_rows_(self) -> tuple[list[FoldRecord], dict[str, str]]:
        """Folds BatchNorms that are rows; see :class:`yolorep.nn.reparam.FoldsRows`."""
        folds, reasons = fold_row_norms(self.model)
        named = [FoldRecord(f"model.{fold.path}", tuple(f"model.{path}" for path in fold.into)) for fold in folds]
        return named, {f"model.{path}": reason for path, reason in reasons.items()}

    def __repr__(self) -> str:
        """One line; ``print(model.model)`` shows every layer."""
        parameters = f"{count_parameters(self):,} parameters"
        parts = [self.config.source, plural("class", self.num_classes), parameters, self.extra_repr()]
        return f"{type(self).__name__}({', '.join(filter(None, parts))})"

    def _bind(self, output: Any) -> None:
        """Called once with the head's output, on the meta device, for an image of PROBE pixels."""


def _probe(graph: Graph, channels: int) -> tuple[list[int], Any]:
    """Heights of the features before the head, and the head's output, for a square image of PROBE pixels.

    Raises:
        ValueError: naming the layer that cannot take what it is given.
    """
    heights: list[int] = []

    def look(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        for feature in output if isinstance(output, list) else [output]:
            if not isinstance(feature, Tensor):
                raise TypeError(f"expected a feature, found a {type(feature).__name__}")
            limits.check_feature(feature.numel())
        heights.append(_height(output))

    hooks = [layer.register_forward_hook(look) for layer in list(graph)[:-1]]
    try:
        output = run_on_meta(graph, (1, channels, PROBE, PROBE))
    except BUILD_ERRORS as error:
        failed = len(heights)
        reason = str(error).splitlines()[0]
        raise ValueError(f"layer {failed}, {type(graph[failed]).__name__}: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return heights, output


def _height(output: Any) -> int:
    """Of the coarsest feature that a layer gives."""
    return min(int(feature.shape[2]) for feature in (output if isinstance(output, list) else [output]))
