"""The mechanism most reparameterizable blocks share: parallel branches whose outputs are added."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from yolorep.nn.kernels import merged
from yolorep.nn.reparam import ConvKernel, Reparameterizable


class BranchSum(Reparameterizable):
    """Conv-BN branches, and BatchNorms as identities, over one input: one convolution once fused.

    Attributes:
        groups: channel groups of every branch.
    """

    groups: int = 1

    @abstractmethod
    def parts(self) -> Sequence[nn.Module]:
        """The branches, the one with the largest window first: Reparameterizables and BatchNorms."""

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.parts()
        total: Tensor = first(x)
        for part in others:
            total = total + part(x)
        return total

    def kernel(self) -> ConvKernel:
        return merged(
            [
                part.kernel() if isinstance(part, Reparameterizable) else ConvKernel.of_bn(_as_norm(part), self.groups)
                for part in self.parts()
            ]
        )


def _as_norm(module: nn.Module) -> nn.BatchNorm2d:
    assert isinstance(module, nn.BatchNorm2d), type(module)
    return module
