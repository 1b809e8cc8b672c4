"""The model a run starts from: fresh, from a file, or from a file's weights in another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from yolorep.console import say
from yolorep.errors import UserError
from yolorep.models.detector import Detector, build_model
from yolorep.models.model_file import ModelConfig, load_config, parse_config
from yolorep.nn.expand import ExpandedConv, ExpandRule
from yolorep.nn.expand import expand as expand_model
from yolorep.nn.reparam import count_parameters
from yolorep.weights.checkpoint import set_bn_values
from yolorep.weights.load import load_checkpoint
from yolorep.weights.published import load_backbone_weights
from yolorep.weights.transfer import transfer_weights

#: What is trained if neither a model nor weights are named.
DEFAULT_MODEL = "cfg/yolorep/n.yaml"


def starting_model(
    cfg: str | None,
    weights: str | None,
    *,
    names: Sequence[str],
    backbone_weights: str | None = None,
    expand: str | None = None,
) -> Detector:
    """Build the model to train, for the data set's classes.

    Without ``cfg`` the model is that of ``weights``, anchors and BatchNorm values included, or else
    :data:`DEFAULT_MODEL`. With both, whatever has the same name and shape is transferred.

    Args:
        cfg: Model YAML.
        weights: Our checkpoint or a YOLOv5 ``.pt``; with ``cfg``, also the ``state_dict`` of either.
        names: The data set's class names.
        backbone_weights: ImageNet weights of the backbone of ``cfg``: a published file or a hub id.
        expand: Rule by which the model's plain convolutions get extra branches to train.

    Raises:
        UserError: if a file or the rule is wrong, the weights are fused or fit nothing, their
            branches are not those asked for, or there are two sources of weights.
    """
    if backbone_weights and (weights or not cfg):
        raise UserError(
            f"--backbone-weights {backbone_weights}: expected --cfg, the model to load them into, and no --weights, "
            f"found {f'--weights {weights}' if weights else 'neither'}"
        )
    rule = None if expand is None else _expand_rule(expand)
    if not weights:
        cfg = cfg or DEFAULT_MODEL
        config = load_config(cfg)
        _refuse_second_rule(rule, config.expand, source=cfg)
        if config.num_classes != len(names):
            say(f"the data set has {len(names)} classes, {cfg} says {config.num_classes}: the data set counts")
        config, rule = _expanded_last(config, rule)
        model = build_model(config, names=names)
        if backbone_weights:
            say(str(load_backbone_weights(model, backbone_weights)))
        return _expanded(model, rule)
    asked = load_config(cfg) if cfg else None
    checkpoint = load_checkpoint(weights, config=asked)
    if checkpoint.fused:
        raise UserError(
            f"{weights}: expected a trainable model, found a fused one, whose branches are gone; "
            "use the checkpoint it was made from"
        )
    stored = parse_config(checkpoint.model_config, source=weights)
    config = asked or stored
    _refuse_second_rule(rule, stored.expand, source=weights)
    _refuse_second_rule(rule, config.expand, source=str(cfg))
    if stored.expand is not None and config.expand != stored.expand:
        raise UserError(
            f"{weights}: expected weights for {cfg}, found the branches of {stored.expand}; "
            f"write 'expand: {stored.expand}' into a copy of {cfg}, or leave --cfg out"
        )
    if stored.expand is None:
        config, rule = _expanded_last(config, rule)
    model = build_model(config, names=names)
    if not cfg:
        set_bn_values(model, checkpoint.bn)
        model.head.needs_fitting = False
    if tuple(names) != checkpoint.names:
        say(f"the data set's {len(names)} classes replace the {len(checkpoint.names)} of {weights}")
    source = checkpoint.state_dict if checkpoint.ema is None else checkpoint.ema
    report = transfer_weights(model, source, names=checkpoint.names, anchors=not cfg)
    if not report.outside_head:
        raise UserError(f"{weights}: expected weights that fit {cfg}, found none of the same name and shape")
    say(f"{weights}: {report}")
    return _expanded(model, rule)


def freeze_layers(model: Detector, layers: Sequence[int]) -> None:
    """Exclude layers from training. Their BatchNorm statistics still follow the data, as in YOLOv5.

    Args:
        model: The model.
        layers: Indices of layers, or a single number N for the first N layers; empty for none.

    Raises:
        UserError: if a layer does not exist or none is left to train.
    """
    count = len(model.model)
    first = len(layers) == 1
    if wrong := [number for number in layers if not 0 <= number <= (count if first else count - 1)]:
        raise UserError(
            f"--freeze: expected layers 0 to {count - 1}, or a single number up to {count}, found {wrong[0]}"
        )
    for index in range(layers[0]) if first else layers:
        model.model[index].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {layers[0]}: expected a layer left to train, found all {count} frozen")
    if frozen := sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad):
        say(f"--freeze: {frozen:,} parameters stay as they are")


def set_bn_momentum(model: Detector, momentum: float) -> None:
    """Let the running statistics of every BatchNorm follow the batches with this momentum."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


def _expand_rule(text: str) -> ExpandRule:
    try:
        return ExpandRule.parse(text)
    except ValueError as error:
        raise UserError(f"--expand: {error}") from error


def _refuse_second_rule(asked: ExpandRule | None, stored: str | None, *, source: str) -> None:
    if asked is not None and stored is not None:
        raise UserError(
            f"--expand {asked}: expected a model without extra branches, found {source} expanded by {stored} already; "
            "leave --expand out"
        )


def _expanded_last(config: ModelConfig, rule: ExpandRule | None) -> tuple[ModelConfig, ExpandRule | None]:
    """A config of the plain model, which weights have the names of, and the rule to expand it by afterwards."""
    if config.expand is None:
        return config, rule
    return replace(config, expand=None), ExpandRule.parse(config.expand)


def _expanded(model: Detector, rule: ExpandRule | None) -> Detector:
    """``model`` with the branches of ``rule``, if there is one."""
    if rule is None:
        return model
    try:
        expanded = expand_model(model, rule)
    except ValueError as error:
        raise UserError(f"expand: {error}") from error
    count = sum(isinstance(module, ExpandedConv) for module in expanded.modules())
    before, after = count_parameters(model), count_parameters(expanded)
    say(f"{rule}: {count} convolutions got branches, {before:,} -> {after:,} parameters until fused")
    return expanded
