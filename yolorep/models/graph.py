"""A chain of layers that may look back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

Value = TypeVar("Value")

#: The index of the network's input among a route's sources.
IMAGE = -1


@dataclass(frozen=True)
class Part:
    """One feature of a layer that gives several."""

    layer: int
    number: int

    def __str__(self) -> str:
        return f"{self.layer}[{self.number}]"


#: What a layer reads: the index of an earlier one (of several features it gives, the last), or one feature of it.
Source = int | Part


def by_source(layer: int, values: Sequence[Value]) -> dict[Source, Value]:
    """The features of a layer, or what is known of each, by the sources that name them."""
    parts: dict[Source, Value] = {Part(layer, number): value for number, value in enumerate(values)}
    return parts | {layer: values[-1]}


class Graph(nn.ModuleList):
    """Layers run in order, each on the outputs of earlier ones. One that returns a list gives several features.

    Args:
        layers: in the order they run.
        routes: per layer the source it reads (``IMAGE`` for the input), or a tuple of them for a layer that takes a
            list.
    """

    def __init__(self, layers: Iterable[nn.Module], routes: Sequence[Source | tuple[Source, ...]]) -> None:
        super().__init__(layers)
        self.routes = tuple(routes)
        self._last_use: dict[Source, int] = {}
        for index, route in enumerate(self.routes):
            for source in route if isinstance(route, tuple) else (route,):
                self._last_use[source] = index

    def forward(self, image: Tensor) -> Any:
        """The output of the last layer. A feature is dropped after its last use."""
        features: dict[Source, Any] = {IMAGE: image}
        output: Any = image
        for index, (layer, route) in enumerate(zip(self, self.routes, strict=True)):
            output = layer([features[source] for source in route] if isinstance(route, tuple) else features[route])
            features |= by_source(index, output if isinstance(output, list) else [output])
            features = {source: value for source, value in features.items() if self._last_use.get(source, -1) > index}
        return output
