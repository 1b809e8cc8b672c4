"""What every loss returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it is made of: scalars, gains applied.

    Attributes:
        total: What to differentiate: the sum of the parts times the batch size.
        parts: Each term by its name (detached), the same names at every call.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
