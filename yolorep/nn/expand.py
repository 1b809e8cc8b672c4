"""The inverse of ``fuse()``: plain convolutions become multi-branch units that compute the same function.

A pretrained network is expanded, trained on, and fused back into the very architecture it had. The branches are those
of MobileOne (Vasu et al. 2022, arXiv:2206.04040) and RepVGG (Ding et al. 2021, arXiv:2101.03697).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from yolorep.errors import suggest
from yolorep.nn.branches import BranchSum
from yolorep.nn.conv import ConvBN, StridedPointwise
from yolorep.nn.kernels import ConvKernel
from yolorep.nn.reparam import Model, outermost_units

#: Kind of rule to the number of k×k branches it makes unless told otherwise.
KINDS = {"mobileone": 4, "repvgg": 1}
#: k×k branches a rule may ask for.
MOST = 64


@dataclass(frozen=True)
class ExpandRule:
    """Which branches convolutions get.

    Attributes:
        kind: ``mobileone`` expands every convolution, ``repvgg`` those with kernels larger than 1.
        branches: number of k×k branches, the pretrained one among them. A 1×1 and an identity are added where legal.

    Raises:
        ValueError: saying what was expected and found.
    """

    kind: str
    branches: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"expected a rule such as mobileone, mobileone:k=2 or repvgg, found {self.kind!r}"
                f"{suggest(self.kind, KINDS)}"
            )
        if not 1 <= self.branches <= MOST:
            raise ValueError(
                f"expected 1 to {MOST} k×k branches, the pretrained one among them; found k={self.branches}"
            )

    @classmethod
    def parse(cls, text: str) -> ExpandRule:
        """Reads ``kind`` or ``kind:k=branches``; ``str()`` writes the latter.

        Raises:
            ValueError: saying what was expected and found.
        """
        if not isinstance(text, str):
            raise ValueError(f"expected a rule such as mobileone, mobileone:k=2 or repvgg, found {text!r}")
        kind, colon, setting = text.partition(":")
        number = re.fullmatch(r"k=([0-9]+)", setting)
        if colon and not number:
            raise ValueError(f"expected k=N, the number of k×k branches, after {kind}:, found {setting!r}")
        return cls(kind, int(number[1]) if number else KINDS.get(kind, 1))

    def __str__(self) -> str:
        return f"{self.kind}:k={self.branches}"


class ExpandedConv(BranchSum):
    """A pretrained conv-BN and fresh branches beside it: one convolution of the pretrained one's shape once fused.

    The fresh branches' BatchNorm gains are zero: at first they add nothing, but gradients reach the gains, and the
    kernels as soon as the gains have moved. They share device, dtypes, BatchNorm constants, mode and ``requires_grad``
    with the pretrained unit.

    Shape: that of ``main``.

    Args:
        main: the pretrained unit; becomes part of this one as it is.
        branches: number of k×k branches, ``main`` among them. Each is drawn by itself: equal ones would stay equal.

    Attributes:
        scale: a 1×1 conv-BN, where it would look at the kernel's middle (an even kernel's: the tap left above).
        identity: a BatchNorm, where channels and size stay the same and the kernel is odd.
    """

    def __init__(self, main: ConvBN, *, branches: int = 1) -> None:
        super().__init__()
        self.main = main
        self.groups = main.conv.groups
        self.branches = nn.ModuleList(_fresh(main) for _ in range(branches - 1))
        self.scale = _fresh(main, pointwise=True) if takes_scale(main) else None
        self.identity = _zero_gain(main.bn) if takes_identity(main) else None
        self.training = self.branches.training = main.training

    def parts(self) -> list[nn.Module]:
        parts: list[nn.Module | None] = [self.main, *self.branches, self.scale, self.identity]
        return [part for part in parts if part is not None]

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.main(x)
        height, width = total.shape[2:]
        for part in self.parts()[1:]:
            # Of an image with an odd side an even kernel makes one row or column less than a 1×1 of the same stride.
            total = total + part(x)[..., :height, :width]
        return total


@runtime_checkable
class HasConfig(Protocol):
    """A network with a head, rebuilt from its config, a dataclass with the field ``expand``, to load weights into."""

    config: Any
    head: nn.Module


def expand(model: Model, rule: ExpandRule | str) -> Model:
    """Gives the plain convolutions of a model branches to train that change nothing at first.

    Expanded is every :class:`ConvBN` (a convolution with a BatchNorm of its own) that is no part of a larger
    reparameterizable unit. Everything else stays: a network's head, convolutions without a BatchNorm of their own
    (BottleneckCSP's ``cv2`` and ``cv3``, squeeze-and-excite), and what is fused already. Shared modules stay shared.

    Args:
        model: left untouched. A network's config says afterwards how it was expanded, for its checkpoints.
        rule: which branches, such as ``mobileone`` or ``repvgg:k=2``.

    Returns:
        A copy that computes the same function, bit by bit, until it is trained; ``fuse()`` turns it into what
        ``fuse(model)`` is, layer by layer.

    Raises:
        ValueError: if the rule is wrong, the model expanded already, or without any convolution to expand.
    """
    rule = ExpandRule.parse(rule) if isinstance(rule, str) else rule
    work = copy.deepcopy(model)
    if not isinstance(work, HasConfig) or not hasattr(work.config, "expand"):
        return expand_(work, rule)
    if work.config.expand is not None:
        raise ValueError(f"expected a model without extra branches, found one expanded by {work.config.expand}")
    work.config = replace(work.config, expand=str(rule))
    return expand_(work, rule, keep=[work.head])


def expand_(model: Model, rule: ExpandRule, *, keep: Iterable[nn.Module] = ()) -> Model:
    """Expands in place; see :func:`expand`.

    Args:
        model: changed, unless it is itself a convolution to expand.
        rule: which branches.
        keep: modules left as they are, with all inside.

    Returns:
        The model.

    Raises:
        ValueError: if there is no convolution to expand.
    """
    kept = {id(part) for module in keep for part in module.modules()}
    expanded: dict[int, ExpandedConv] = {}
    for name, unit in list(outermost_units(model)):
        if id(unit) in kept or not isinstance(unit, ConvBN) or not _gains(unit, rule):
            continue
        if id(unit) not in expanded:
            expanded[id(unit)] = ExpandedConv(unit, branches=rule.branches)
        if name == "":
            return expanded[id(unit)]  # type: ignore[return-value]  # the model itself was a unit
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, expanded[id(unit)])
    if not expanded:
        raise ValueError(
            f"{rule}: expected a Conv row, or another ConvBN, that the rule has branches for, found none; "
            "a fused model has none left, and blocks with branches keep their own"
        )
    return model


def takes_scale(unit: ConvBN) -> bool:
    """Whether a 1×1 of the same stride looks at the middle tap of the unit's larger kernel."""
    return ConvKernel.of(unit.conv).kernel_size != (1, 1) and _is_centred(unit)


def takes_identity(unit: ConvBN) -> bool:
    """Whether the unit's output has the shape of its input, pixel upon pixel."""
    kernel = ConvKernel.of(unit.conv)
    same_channels = kernel.in_channels == len(kernel.bias)
    odd = all(side % 2 for side in kernel.kernel_size)
    return same_channels and odd and kernel.stride == (1, 1) and _is_centred(unit)


def _is_centred(unit: ConvBN) -> bool:
    kernel = ConvKernel.of(unit.conv)
    sides = zip(kernel.kernel_size, kernel.padding, kernel.dilation, strict=True)
    return all(padding == dilation * ((size - 1) // 2) for size, padding, dilation in sides)


def _gains(unit: ConvBN, rule: ExpandRule) -> bool:
    """Whether the rule has any branch for the unit, whose BatchNorm must have a gain that can begin at zero."""
    if not unit.bn.affine or not unit.bn.track_running_stats:
        return False
    if rule.kind == "repvgg" and ConvKernel.of(unit.conv).kernel_size == (1, 1):
        return False
    return rule.branches > 1 or takes_scale(unit) or takes_identity(unit)


def _fresh(main: ConvBN, *, pointwise: bool = False) -> ConvBN:
    """A unit like ``main``, or its 1×1, with a kernel drawn anew and zero gains."""
    unit = copy.deepcopy(main)
    if pointwise:
        conv, like = unit.conv, unit.conv.weight
        unit.conv = StridedPointwise(
            conv.in_channels,
            conv.out_channels,
            1,
            conv.stride,  # type: ignore[arg-type]  # a pair, whatever its declaration says
            groups=conv.groups,
            bias=False,
            device=like.device,
            dtype=like.dtype,
        )
        unit.conv.requires_grad_(like.requires_grad).train(conv.training)
    else:
        unit.conv.reset_parameters()
    unit.bn = _zero_gain(unit.bn)
    return unit


def _zero_gain(bn: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A BatchNorm like ``bn`` with fresh statistics, whose output is zero."""
    fresh = copy.deepcopy(bn)
    fresh.reset_parameters()
    nn.init.zeros_(fresh.weight)
    return fresh
