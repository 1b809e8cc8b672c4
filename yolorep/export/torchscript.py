"""Export to TorchScript."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor

from yolorep.export.base import Deployed, Exporter
from yolorep.runtime.base import Backend
from yolorep.runtime.metadata import Metadata
from yolorep.runtime.torchscript import METADATA_FILE, TorchScriptBackend


class TorchScriptExporter(Exporter):
    """A traced and frozen TorchScript module: needs torch to run, from Python or C++, but not yolorep."""

    suffix = ".torchscript"

    def write(self, network: Deployed, path: Path, *, example: Tensor, metadata: Metadata) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is deprecated in torch itself; the format was asked for
            module = torch.jit.freeze(torch.jit.trace(network, (example,), check_trace=False))
            torch.jit.save(module, str(path), _extra_files={METADATA_FILE: json.dumps(metadata.to_strings())})

    def open(self, path: Path, *, device: torch.device) -> Backend:
        return TorchScriptBackend(path, device=device)
