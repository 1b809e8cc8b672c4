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
    if not report.outside_head:
        raise UserError(f"{weights}: expected weights that fit {cfg}, found none of the same name and shape")
    say(f"{weights}: {report}")
    return model


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
