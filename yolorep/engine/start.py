"""The model a run starts from: fresh, from a file, or from a file's weights in another model."""

from __future__ import annotations

from collections.abc import Sequence

from yolorep.console import say
from yolorep.engine.checkpoint import Checkpoint, load_checkpoint, set_bn_values
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
        UserError: if neither is given, a file is wrong, or the weights are fused.
    """
    if not cfg and not weights:
        raise UserError("expected --cfg (a model YAML) or --weights (a checkpoint), found neither: what should be trained?")
    if not weights:
        model = build_model(load_config(cfg), names=names)
        _announce_classes(cfg, load_config(cfg).num_classes, names)
        return model
    checkpoint = load_checkpoint(weights)
    if checkpoint.fused:
        raise UserError(
            f"{weights}: a fused model cannot be trained, its branches are gone; use the checkpoint it was made from"
        )
    if cfg:
        model = build_model(load_config(cfg), names=names)
    else:
        model = build_model(parse_config(checkpoint.model_config, source=weights), names=names)
        set_bn_values(model, checkpoint.bn)
    if not cfg and tuple(names) != checkpoint.names:
        _announce_classes(weights, len(checkpoint.names), names)
    report = transfer_weights(model, _weights(checkpoint), names=checkpoint.names, anchors=not cfg)
    if not report.transferred:
        raise UserError(f"{weights}: expected weights that fit {cfg}, found none with the same name and shape")
    say(f"{weights}: {report}")
    return model
