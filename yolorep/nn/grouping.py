"""Which convolution and norm of a network of others' making are one unit: found by following its data.

Torch's symbolic tracer runs the network's own ``forward`` with a symbol in place of an image. A BatchNorm belongs to a
convolution if that convolution's output is all it reads, and nobody else reads it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch.fx
from torch import nn
from torch.fx.node import Node
from torch.nn.modules.batchnorm import _BatchNorm

#: Words in the class names of what fuse() would rather not leave.
_NORM_WORDS = ("Norm", "LayerScale")


@dataclass(frozen=True)
class Pair:
    """The paths of a convolution and of the BatchNorm that it can take up."""

    conv: str
    norm: str


class LayerTracer(torch.fx.Tracer):
    """Follows tensors down to PyTorch's layers, and to what subclasses its convolutions and BatchNorms.

    Args:
        modules: classes that are not looked into either.
        functions: the same.
    """

    def __init__(
        self, modules: Sequence[type[nn.Module]] = (), functions: Sequence[Callable[..., object]] = ()
    ) -> None:
        super().__init__(autowrap_functions=tuple(functions))
        self.leaves = (nn.Conv2d, _BatchNorm, *modules)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


def find_pairs(
    network: nn.Module, tracer: LayerTracer, *, norms: Sequence[type[nn.Module]] = (nn.BatchNorm2d,)
) -> tuple[list[Pair], dict[str, str]]:
    """The pairs of a network, and why its other norms and scales have no convolution to go into, by their paths.

    Args:
        network: in eval mode.
        tracer: what follows its data.
        norms: the classes that are known to be a BatchNorm, and no more than an activation after it.
    """
    found = [name for name, module in network.named_modules() if _is_norm(module)]
    try:
        calls = _Calls(network, tracer.trace(network))
    except Exception as error:  # whatever the code of others raises when it meets a symbol
        reason = f"torch.fx cannot follow the network: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
        return [], dict.fromkeys(found, reason)
    pairs: list[Pair] = []
    reasons: dict[str, str] = {}
    for name in found:
        try:
            pairs.append(Pair(calls.conv_before(name, norms), name))
        except ValueError as error:
            reasons[name] = str(error)
    return pairs, reasons


class _Calls:
    """Who calls which module on what, as the tracer saw it."""

    def __init__(self, network: nn.Module, graph: torch.fx.Graph) -> None:
        self.network = network
        self.nodes: dict[str, list[Node]] = defaultdict(list)
        self.read: set[str] = set()  # modules of which somebody reads a tensor
        for node in graph.nodes:
            if node.op == "call_module":
                self.nodes[str(node.target)].append(node)
            elif node.op == "get_attr":
                self.read.add(str(node.target).rpartition(".")[0])

    def conv_before(self, name: str, norms: Sequence[type[nn.Module]]) -> str:
        """The path of the convolution whose output, all of it and for nobody else, the norm reads.

        Raises:
            ValueError: saying why there is none.
        """
        norm = self.network.get_submodule(name)
        kind = type(norm).__name__
        if not isinstance(norm, _BatchNorm):
            raise ValueError(f"{kind} is no BatchNorm, the norm that a convolution takes up")
        if type(norm) not in norms:
            raise ValueError(f"{kind} is not known to be a BatchNorm2d and no more")
        (source,) = self._single_call(name).args
        if not isinstance(source, Node) or source.op != "call_module":
            raise ValueError(f"it reads {source}, which is no layer's output")
        path = str(source.target)
        conv = self.network.get_submodule(path)
        if not isinstance(conv, nn.Conv2d):
            raise ValueError(f"it reads {path}, a {type(conv).__name__}, not a convolution")
        if type(conv) is not nn.Conv2d:
            raise ValueError(f"it reads {path}, a {type(conv).__name__}, which is no plain convolution")
        if len(self._single_call(path).users) != 1:
            raise ValueError(f"the output of {path} has other readers")
        return path

    def _single_call(self, name: str) -> Node:
        nodes = self.nodes[name]
        if not nodes:
            raise ValueError("torch.fx does not look into the block around it")
        if len(nodes) > 1:
            raise ValueError(f"{name} is called {len(nodes)} times")
        if name in self.read:
            raise ValueError(f"the tensors of {name} have other readers")
        return nodes[0]


def _is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm or scale itself, and not a block that has one inside."""
    named = any(word in type(module).__name__ for word in _NORM_WORDS)
    own_tensors = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    return isinstance(module, _BatchNorm) or (named and next(own_tensors, None) is not None)
