"""The ``fuse`` command."""

from __future__ import annotations

import json
from pathlib import Path

from yolorep.console import say
from yolorep.errors import UserError
from yolorep.inference.open import load_network
from yolorep.models.image_size import counted_size
from yolorep.nn.reparam import FuseReport, fuse
from yolorep.options import FuseOptions
from yolorep.weights.checkpoint import save_checkpoint


def run(options: FuseOptions) -> FuseReport:
    """Fuses a model, prints the report, and writes the fused checkpoint if asked to.

    Raises:
        UserError: if the model cannot be had.
    """
    model, data = load_network(options.weights, options.cfg)
    if options.output and Path(options.output).suffix != ".pt":
        raise UserError(f"--output {options.output}: expected a file ending in .pt")
    fused, report = fuse(model, image_size=counted_size(model, options.imgsz, quiet=options.json))
    print(json.dumps(report.to_dict()) if options.json else report)
    if options.output:
        save_checkpoint(Path(options.output), fused, fused=True, data=data)
        if not options.json:
            say(f"fused weights in {options.output}")
    return report
