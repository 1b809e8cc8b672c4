"""Stochastic depth: in training, an image sometimes skips the residual branch of a block."""

from __future__ import annotations

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zeroes whole images of a batch, and scales the others up so that the mean stays (Huang et al. 2016).

    "Deep Networks with Stochastic Depth", arXiv:1603.09382. The same as torchvision's, importing which takes as long
    as importing torch.

    Args:
        p: probability that an image is zeroed in training; in eval mode none is.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
