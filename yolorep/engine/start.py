"""The model a run starts from: fresh, from a file, or from a file's weights in another model."""

from __future__ import annotations

from collections.abc import Sequence

from yolorep.console import say
from yolorep.engine.checkpoint import load_checkpoint, set_bn_values
from yolorep.engine.transfer import transfer_weights
from yolorep.errors import UserError
from yolorep.models.detector import Detector, build_model
from yolorep.models.parser import load_config, parse_config


def starting_model(cfg: str | None, weights: str | None, *, names: Sequence[str]) -> Detector:
    """Build the model to train, for the data set's classes.

    Without ``cfg`` the model is the file's, anchors and BatchNorm values included. With both, whatever has the same
    name and shape is transferred.

    Args:
        cfg: Model YAML.
        weights: Our checkpoint or a YOLOv5 ``.pt``.
        names: The data set's class names.

    Raises:
        UserError: if neither is given, a file is wrong, or the weights are fused or fit nothing.
    """
    if cfg and not weights:
        config = load_config(cfg)
        if config.num_classes != len(names):
            say(f"the data set has {len(names)} classes, {cfg} says {config.num_classes}: the data set counts")
        return build_model(config, names=names)
    if not weights:
        raise UserError("expected --cfg (a model YAML) or --weights (a checkpoint) to train, found neither")
    checkpoint = load_checkpoint(weights)
    if checkpoint.fused:
        raise UserError(
            f"{weights}: expected a trainable model, found a fused one, whose branches are gone; "
            "use the checkpoint it was made from"
        )
    if cfg:
        model = build_model(load_config(cfg), names=names)
    else:
        model = build_model(parse_config(checkpoint.model_config, source=weights), names=names)
        set_bn_values(model, checkpoint.bn)
        model.head.placeholder_anchors = False
    if tuple(names) != checkpoint.names:
        say(f"the data set's {len(names)} classes replace the {len(checkpoint.names)} of {weights}")
    source = checkpoint.state_dict if checkpoint.ema is None else checkpoint.ema
    report = transfer_weights(model, source, names=checkpoint.names, anchors=not cfg)
    if not report.transferred:
        raise UserError(f"{weights}: expected weights that fit {cfg}, found none of the same name and shape")
    say(f"{weights}: {report}")
    return model


def freeze_layers(model: Detector, layers: Sequence[int]) -> int:
    """Exclude layers from training. Their BatchNorm statistics still follow the data, as in YOLOv5.

    Args:
        model: The model.
        layers: Indices of layers, or a single number N for the first N layers.

    Returns:
        Number of parameters frozen.

    Raises:
        UserError: if a layer does not exist or none is left to train.
    """
    count = len(model.model)
    chosen = range(layers[0]) if len(layers) == 1 else layers
    if wrong := [index for index in (*layers, *chosen) if not 0 <= index <= count - (len(layers) > 1)]:
        raise UserError(f"--freeze: expected layers 0 to {count - 1}, or one number up to {count}, found {wrong[0]}")
    frozen = 0
    for index in chosen:
        for parameter in model.model[index].parameters():
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {layers[0]}: expected a layer left to train, found all {count} frozen")
    return frozen
