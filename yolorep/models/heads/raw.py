"""What every head returns, in every mode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Raw(NamedTuple):
    """A head's undecoded maps.

    Attributes:
        levels: one map a level, finest first; its layout belongs to the head.
        one2one: the maps of a one-to-one branch, where the head has one.
    """

    levels: list[Tensor]
    one2one: list[Tensor] | None = None

    def float(self) -> Raw:
        """The maps in float32, which losses and decoding are computed in."""
        one2one = None if self.one2one is None else [level.float() for level in self.one2one]
        return Raw([level.float() for level in self.levels], one2one)
