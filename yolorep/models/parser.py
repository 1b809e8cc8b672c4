"""Rows of YOLOv5-style model files become specifications, specifications a Graph. Nothing in a file is ever run.

A row is ``[from, repeats, module, args]`` with an optional tag as fifth element, or a list of tags for a row that gives
several features. This module knows no block: what a module name means is the registry's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_type_hints

from torch import nn

from yolorep.errors import UserError, suggest
from yolorep.limits import MOST_LAYERS
from yolorep.models import limits, values
from yolorep.models.graph import IMAGE, Graph, Part, Source, by_source
from yolorep.models.model_file import ROW_FORM, ModelConfig
from yolorep.nn.expand import ExpandRule, expand_
from yolorep.nn.registry import ROW_TYPES, Plan, RowType, Scale
from yolorep.nn.reparam import count_parameters

#: What arguments that make no sense raise, in our blocks and in PyTorch's.
BUILD_ERRORS = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AssertionError, MemoryError)

#: Words that mean a value when they stand alone as an argument.
WORDS: dict[str, Any] = {"None": None, "True": True, "False": False}
_OTHER_HEADS = frozenset(
    ("Segment", "Pose", "OBB", "RTDETRDecoder", "v10Detect", "WorldDetect", "IDetect", "IAuxDetect", "DDetect")
)


@dataclass(frozen=True)
class LayerSpec:
    """One row, checked: what it reads, how often, which block, with which arguments, and the tags of its features.

    ``tags`` is empty for a row that has one tag or none.
    """

    sources: Source | tuple[Source, ...]
    repeats: int
    module: str
    args: tuple[Any, ...]
    tags: tuple[str, ...]
    where: str

    @property
    def row_type(self) -> RowType:
        """What the registry knows of the module."""
        return ROW_TYPES[self.module]

    @property
    def source_list(self) -> tuple[Source, ...]:
        """The sources, as a tuple in any case."""
        return self.sources if isinstance(self.sources, tuple) else (self.sources,)


def parse_rows(config: ModelConfig) -> list[LayerSpec]:
    """Checks every row by itself.

    Raises:
        UserError: one line naming file, row, what was expected and what was found, for all faults.
    """
    words = WORDS | {"nc": config.num_classes, "anchors": config.anchors}
    specs: list[LayerSpec] = []
    faults: list[str] = []
    tags: dict[str, Source] = {}
    rows = list(_rows(config))
    for index, (section, where, row) in enumerate(rows):
        try:
            specs.append(_spec(row, index, tags, words, where, composed=section in config.composed))
            if specs[-1].row_type.is_head != (index == len(rows) - 1):
                raise ValueError(
                    f"{specs[-1].module} is a head and must be the last row"
                    if specs[-1].row_type.is_head
                    else f"expected the last row to be a head such as Detect, found {specs[-1].module}"
                )
        except ValueError as error:
            faults.append(f"{where}: {error}")
        tags |= _tags(row, index)
        if len(faults) > limits.MOST_FAULTS:
            break
    if faults:
        raise UserError(f"{config.source}: {limits.told(faults)}")
    layers = sum(config.scale.repeats(spec.repeats) for spec in specs)
    if layers > MOST_LAYERS:
        raise UserError(f"{config.source}: expected at most {MOST_LAYERS:,} layers, found {layers:,} in its rows")
    return specs


def build_graph(config: ModelConfig) -> Graph:
    """Builds every layer, working channels out from row to row.

    Raises:
        UserError: naming file, row, module, expected and found, or the limit that the network is beyond.
    """
    try:
        values.classes(config.num_classes)
    except ValueError as error:
        raise UserError(f"{config.source}: {error}") from error
    specs = parse_rows(config)
    try:
        return limits.build_within(lambda: _graph(specs, config))
    except limits.TooLarge as error:
        raise UserError(f"{config.source}: {error}") from error


def _graph(specs: Sequence[LayerSpec], config: ModelConfig) -> Graph:
    activation = values.parse_activation(config.activation) if config.activation else None
    keywords: dict[str, Any] = {"activation": activation} if activation else {}
    if config.branches is not None:
        keywords["branches"] = config.branches
        if not any("branches" in inspect.signature(spec.row_type.factory).parameters for spec in specs):
            raise UserError(f"{config.source}: branches: no row of this model is made of RepConvs")
    drop_paths = _drop_paths(specs, config)
    layers: list[nn.Module] = []
    channels: dict[Source, int] = {IMAGE: config.channels}
    for index, spec in enumerate(specs):
        try:
            inputs = [channels[source] for source in spec.source_list]
            if not spec.row_type.takes_list and len(inputs) != 1:
                raise ValueError(f"{spec.module} reads one feature, found {len(inputs)} in 'from'")
            layer, out_channels = _build(spec, inputs, config.scale, keywords | drop_paths.get(index, {}))
            if spec.tags and len(spec.tags) != len(out_channels):
                raise ValueError(f"expected a tag for each of {len(out_channels)} features, found {list(spec.tags)}")
            limits.check_channels(max(out_channels))
        except limits.TooLarge:
            raise
        except BUILD_ERRORS as error:
            reason = limits.short(" ".join(str(error).split()), limits.LONGEST_ERROR)
            raise UserError(f"{config.source}: {spec.where}: {reason}") from error
        layers.append(layer)
        channels |= by_source(index, out_channels)
    routes = [spec.source_list if spec.row_type.takes_list else spec.source_list[0] for spec in specs]
    graph = Graph(layers, routes)
    if config.expand is not None:
        rule = ExpandRule.parse(config.expand)
        limits.check_parameters((rule.branches + 1) * count_parameters(graph))
        try:
            expand_(graph, rule, keep=[graph[-1]])
        except limits.TooLarge:
            raise
        except ValueError as error:
            raise UserError(f"{config.source}: expand: {error}") from error
    return graph


def _rows(config: ModelConfig) -> Iterator[tuple[str, str, Any]]:
    for section, rows in config.sections.items():
        for number, row in enumerate(rows):
            yield section, f"{section} row {number} {limits.row_text(row)}", row


def _tags(row: Any, index: int) -> dict[str, Source]:
    """What the tags of a row mean: its output, or the features it gives, one after the other."""
    if not isinstance(row, list) or len(row) != 5:
        return {}
    if isinstance(row[4], list):
        return {tag: Part(index, number) for number, tag in enumerate(row[4]) if isinstance(tag, str)}
    return {row[4]: index} if isinstance(row[4], str) else {}


def _known_row(module: Any) -> str:
    """The name of a row, as it is registered."""
    if not isinstance(module, str):
        raise ValueError(f"expected the name of a row, found {module!r:.80}")
    name = module.removeprefix("torch.")
    if name in ROW_TYPES:
        return name
    if name in _OTHER_HEADS:
        raise ValueError(f"{name} is a head for another task, or another program's; expected Detect or DetectFree")
    if hasattr(nn, name.removeprefix("nn.")):
        raise ValueError(f"{name} is no row: of PyTorch's layers those are that keep the channels of any feature")
    own = "" if name.startswith("nn.") else f"; needs the row {name}: give --import the file that registers it"
    raise ValueError(f"unknown module {name!r}{suggest(name, ROW_TYPES, alike=0.75)}{own}")


def _spec(
    row: Any, index: int, tags: Mapping[str, Source], words: Mapping[str, Any], where: str, *, composed: bool
) -> LayerSpec:
    if not isinstance(row, list) or len(row) not in (4, 5):
        raise ValueError(f"expected {ROW_FORM}")
    source, repeats, module, args = row[:4]
    named = row[4] if len(row) == 5 else []
    own_tags = _tags(row, index)
    if len(own_tags) != (len(named) if isinstance(named, list) else 1):
        raise ValueError(f"expected a word as the tag, or a different one for each feature; found {named!r}")
    for tag in own_tags:
        if tag in tags:
            raise ValueError(f"the tag {tag!r} is taken by row {tags[tag]}")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise ValueError(f"expected repeats of at least 1, found {repeats!r:.80}")
    module = _known_row(module)
    several = isinstance(named, list)
    if several and named and not ROW_TYPES[module].gives_list:
        raise ValueError(f"{module} gives one feature: expected a word as the tag, found {named!r}")
    if not isinstance(args, list):
        raise ValueError(f"expected a list of arguments, found {args!r}")
    if any(isinstance(arg, dict) for arg in args) and not ROW_TYPES[module].gives_list:
        raise ValueError(f"expected arguments in their order, without names, found {args!r:.80}")
    if isinstance(source, list):
        sources: Source | tuple[Source, ...] = tuple(_source(item, index, tags, composed) for item in source)
        if not sources:
            raise ValueError("expected at least one layer in 'from', found none")
    else:
        sources = _source(source, index, tags, composed)
    arguments = tuple(_symbols(arg, words) for arg in args)
    return LayerSpec(sources, repeats, module, arguments, tuple(own_tags) if several else (), where)


def _source(value: Any, index: int, tags: Mapping[str, Source], composed: bool) -> Source:
    """The layer or feature that ``from`` names, with its absolute index; IMAGE for the input of row 0."""
    if isinstance(value, str):
        if value not in tags:
            earlier = limits.short(", ".join(tags))
            raise ValueError(f"'from' names the tag {value!r}, which no earlier row has; tags so far: {earlier}")
        return tags[value]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected a layer number or tag in 'from', found {value!r}")
    if composed and value >= 0:
        raise ValueError(f"a part file may use tags and negative numbers in 'from' only, found {value}")
    absolute = index + value if value < 0 else value
    if absolute >= index or absolute < IMAGE or (absolute == IMAGE and value != -1):
        raise ValueError(f"'from' {value} means layer {absolute}, but this is layer {index}; expected an earlier one")
    return absolute


def _symbols(value: Any, words: Mapping[str, Any]) -> Any:
    """Replaces words that stand for values (None, nc, anchors), inside lists too."""
    if isinstance(value, list):
        return [_symbols(item, words) for item in value]
    return words.get(value, value) if isinstance(value, str) else value


def _drop_paths(specs: Sequence[LayerSpec], config: ModelConfig) -> dict[int, dict[str, Any]]:
    """Per row with stochastic depth the rate of each of its blocks: linear over all blocks of the model."""
    counts = {
        index: config.scale.repeats(spec.repeats)
        for index, spec in enumerate(specs)
        if "drop_path" in inspect.signature(spec.row_type.factory).parameters
    }
    if config.drop_path and not counts:
        raise UserError(f"{config.source}: drop_path: no row of this model has stochastic depth")
    steps = max(sum(counts.values()) - 1, 1)
    rates = iter(config.drop_path * step / steps for step in range(sum(counts.values())))
    return {index: {"drop_path": [next(rates) for _ in range(count)]} for index, count in counts.items()}


def _build(
    spec: LayerSpec, inputs: Sequence[int], scale: Scale, keywords: Mapping[str, Any]
) -> tuple[nn.Module, tuple[int, ...]]:
    """A row's module, and the channels of the features it gives: one as a rule."""
    row_type = spec.row_type
    repeats = scale.repeats(spec.repeats)
    if row_type.repeats == "once" and spec.repeats != 1:
        raise ValueError(f"{spec.module} cannot be repeated, found {spec.repeats} repeats")
    plan = row_type.channels(inputs, spec.args, scale)
    if row_type.repeats == "inside":
        plan = replace(plan, args=(*plan.args[:2], repeats, *plan.args[2:]))
        repeats = 1
    layers = [_construct(row_type, plan, spec, keywords)]
    if row_type.gives_list:
        return layers[0], cast(tuple[int, ...], layers[0].out_channels)
    while len(layers) < repeats:  # each further copy takes the channels that the one before makes
        plan = row_type.channels([plan.out_channels], spec.args, scale)
        layers.append(_construct(row_type, plan, spec, keywords))
    return layers[0] if repeats == 1 else nn.Sequential(*layers), (plan.out_channels,)


def _construct(row_type: RowType, plan: Plan, spec: LayerSpec, keywords: Mapping[str, Any]) -> nn.Module:
    signature = inspect.signature(row_type.factory)
    known = {key: value for key, value in keywords.items() if key in signature.parameters}
    try:
        bound = signature.bind(*plan.args, **plan.keywords, **known)
    except TypeError as error:
        form = [str(p) for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        raise ValueError(
            f"wrong arguments for {spec.module}: {error}; found {list(spec.args)}, and it is called as "
            f"({', '.join(part.split(':')[0] for part in form)})"
        ) from error
    # Whether features may be overwritten is not the row's business, for others may read them, nor is the device.
    for name in ("inplace", "device", "dtype"):
        bound.arguments.pop(name, None)
    # An activation in the place of ``act`` is the one of that row.
    if "activation" in signature.parameters and isinstance(text := bound.arguments.get("act"), str):
        bound.arguments |= {"act": True, "activation": values.parse_activation(text)}
    _check_kinds(row_type.factory, bound.arguments)
    return row_type.factory(*bound.args, **bound.kwargs)


def _check_kinds(factory: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    """Refuses what is no whole number, number or truth value where the block's signature says so."""
    hints = get_type_hints(factory.__init__)
    for name, value in arguments.items():
        kind = hints.get(name)
        if kind is bool and not isinstance(value, bool):
            raise ValueError(f"{name}: expected True or False, found {value!r}")
        if kind is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise ValueError(f"{name}: expected a whole number, found {value!r}")
        if kind is float and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise ValueError(f"{name}: expected a number, found {value!r}")
