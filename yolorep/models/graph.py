"""A chain of layers that may look back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

#: The index of the network's input among a route's sources.
IMAGE = -1


class Graph(nn.ModuleList):
    """Layers run in order, each on the outputs of earlier ones.

    Args:
        layers: in the order they run.
        routes: per layer the index of the layer it reads (``IMAGE`` for the input), or a tuple of them for a layer that
            takes a list.
    """

    def __init__(self, layers: Iterable[nn.Module], routes: Sequence[int | tuple[int, ...]]) -> None:
        super().__init__(layers)
        self.routes = tuple(routes)
        last_use: dict[int, int] = {}
        for index, route in enumerate(self.routes):
            for source in (route,) if isinstance(route, int) else route:
                last_use[source] = index
        self._done_after = tuple(
            tuple(source for source, last in last_use.items() if last == index) for index in range(len(self.routes))
        )

    def forward(self, image: Tensor) -> Any:
        """The output of the last layer. A feature is dropped after its last use."""
        features: dict[int, Any] = {IMAGE: image}
        output: Any = image
        for index, (layer, route) in enumerate(zip(self, self.routes, strict=True)):
            inputs = features[route] if isinstance(route, int) else [features[source] for source in route]
            output = features[index] = layer(inputs)
            for source in self._done_after[index]:
                del features[source]
        return output
