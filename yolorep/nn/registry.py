"""Which class a YAML row's module name means, and how the row's repeats, width and output channels follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from torch import nn

Block = TypeVar("Block", bound=type[nn.Module])

#: ``sequence``: n modules one after the other. ``inside``: n is the block's third argument. ``once``: n must be 1.
Repeats = Literal["sequence", "inside", "once"]


@dataclass(frozen=True)
class Scale:
    """A model's multipliers.

    Attributes:
        depth: times the repeats of rows that have more than one.
        width: times the channels.
        divisor: channels are rounded up to its multiple.
    """

    depth: float = 1.0
    width: float = 1.0
    divisor: int = 8

    def repeats(self, count: int) -> int:
        """Scaled repeats, at least 1."""
        return max(round(count * self.depth), 1) if count > 1 else count

    def channels(self, count: int) -> int:
        """Scaled channels, rounded up as YOLOv5 does."""
        return math.ceil(count * self.width / self.divisor) * self.divisor

    def exact_channels(self, count: int) -> int:
        """Scaled channels of a published backbone: untouched at width 1."""
        return count if self.width == 1 else self.channels(count)


@dataclass(frozen=True)
class Plan:
    """A row with its channels worked out: the arguments of its class and the channels of its output.

    What is made by :func:`yields` says its channels itself: ``out_channels`` is 0.
    """

    args: tuple[Any, ...]
    out_channels: int
    keywords: Mapping[str, Any] = field(default_factory=dict)


#: (input channels, arguments, multipliers) -> Plan
ChannelRule = Callable[[Sequence[int], Sequence[Any], Scale], Plan]


def converts(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[c2, …]``: called with (in_channels, scaled c2, …)."""
    (in_channels_,) = in_channels
    out_channels = scale.channels(_channels(args))
    return Plan((in_channels_, out_channels, *args[1:]), out_channels)


def converts_exactly(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[c2, …]`` of a published backbone: c2 is taken as it is at width 1."""
    (in_channels_,) = in_channels
    out_channels = scale.exact_channels(_channels(args))
    return Plan((in_channels_, out_channels, *args[1:]), out_channels)


def keeps(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """Arguments as they are, channels unchanged."""
    (out_channels,) = in_channels
    return Plan(tuple(args), out_channels)


def stays(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """A block that cannot change channels: called with (in_channels, in_channels, …)."""
    (channels,) = in_channels
    return Plan((channels, channels, *args), channels)


def check_kept(c1: int, c2: int) -> None:
    """Raises ValueError unless a block that cannot change channels is asked to keep them."""
    if c1 != c2:
        raise ValueError(f"expected as many output as input channels, for they are kept; found {c2} for {c1}")


def concatenates(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """Arguments as they are, channels of all inputs added."""
    return Plan(tuple(args), sum(in_channels))


def ends(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """A head: called with its arguments, and the list of input channels as ``in_channels``."""
    return Plan(tuple(args), 0, {"in_channels": list(in_channels)})


def yields(in_channels: Sequence[int], args: Sequence[Any], scale: Scale) -> Plan:
    """``[name, {option: value, …}]`` of a network that gives several features of an image, a list of tensors.

    Called with the name and the options. Nothing is scaled; the module says its features' channels as ``out_channels``.
    """
    if list(in_channels) != [3]:
        raise ValueError(f"expected to read the image, 3 channels, found {list(in_channels)}")
    *names, options = args if args and isinstance(args[-1], Mapping) else (*args, {})
    return Plan(tuple(names), 0, options)


@dataclass(frozen=True)
class RowType:
    """What a module name in a YAML row stands for.

    Attributes:
        factory: the class.
        repeats: what the row's repeat count does.
        channels: how arguments and output channels follow from the inputs.
    """

    factory: type[nn.Module]
    repeats: Repeats
    channels: ChannelRule

    @property
    def is_head(self) -> bool:
        """Whether the row ends the model."""
        return self.channels is ends

    @property
    def takes_list(self) -> bool:
        """Whether the module is called with a list of features."""
        return self.channels in (ends, concatenates)

    @property
    def gives_list(self) -> bool:
        """Whether the module returns a list of features, each of which a tag may name."""
        return self.channels is yields


ROW_TYPES: dict[str, RowType] = {}


def register(
    name: str | None = None, *, repeats: Repeats = "sequence", channels: ChannelRule = converts
) -> Callable[[Block], Block]:
    """Class decorator: makes a block usable as a YAML row.

    Args:
        name: the row's module name; the class's own by default.
        repeats: what the row's repeat count does.
        channels: how arguments and output channels follow from the inputs.

    Raises:
        ValueError: if the name is taken.
        TypeError: if the parentheses were forgotten.
    """
    if isinstance(name, type):
        raise TypeError(f"expected @register(), with parentheses, above {name.__name__}")

    def add(factory: Block) -> Block:
        key = name or factory.__name__
        if key in ROW_TYPES:
            raise ValueError(f"row type {key!r} is registered already, by {ROW_TYPES[key].factory.__name__}")
        ROW_TYPES[key] = RowType(factory, repeats, channels)
        return factory

    return add


def _channels(args: Sequence[Any]) -> int:
    if not args or not isinstance(args[0], int) or isinstance(args[0], bool) or args[0] < 1:
        raise ValueError(f"expected the output channels as the first argument, found {list(args)!s:.80}")
    return args[0]
