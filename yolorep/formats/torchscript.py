"""TorchScript: traced and frozen, run by torch without yolorep's classes."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolorep.errors import UserError, first_line
from yolorep.formats.base import Backend, Deployed, FileBackend, Format
from yolorep.formats.metadata import Metadata
from yolorep.ops.decode import Decoded

#: Name of the metadata inside the archive.
METADATA_FILE = "yolorep.json"


class TorchScript(Format):
    """A traced and frozen TorchScript module: needs torch to run, from Python or C++, but not yolorep."""

    suffix = ".torchscript"

    def write(self, network: Deployed, path: Path, *, example: Tensor, metadata: Metadata, **settings: Any) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is deprecated in torch itself; the format was asked for
            module = torch.jit.freeze(torch.jit.trace(network, (example,), check_trace=False))
            # By way of memory: where torch cannot write to a file, it ends the process.
            written = io.BytesIO()
            torch.jit.save(module, written, _extra_files={METADATA_FILE: json.dumps(metadata.to_strings())})
        path.write_bytes(written.getbuffer())

    def open(self, path: Path, *, device: torch.device) -> Backend:
        return TorchScriptBackend(path, device=device)


class TorchScriptBackend(FileBackend):
    """A TorchScript file written by ``yolorep export``.

    Unlike a checkpoint, a TorchScript file is a program: run only files from people you trust.

    Raises:
        UserError: if the file is no such file.
    """

    def __init__(self, path: Path, *, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        if not path.is_file():
            raise UserError(f"{path}: expected a TorchScript file, found none")
        extra = {METADATA_FILE: ""}
        try:
            with zipfile.ZipFile(path) as archive:  # torch itself compares no checksums
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated in torch itself; the format was asked for
                self._module = torch.jit.load(str(path), map_location=self._device, _extra_files=extra)
            strings = json.loads(extra[METADATA_FILE] or "{}")
        except (RuntimeError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path}: expected a TorchScript file, torch.jit says: {first_line(error)[:500]}"
            ) from error
        super().__init__(path, Metadata.from_strings(strings if isinstance(strings, dict) else {}, path=path))

    @torch.inference_mode()
    def _run(self, images: Tensor) -> Decoded:
        try:
            boxes, scores = self._module(images.to(self._device, torch.float32) / 255)
            return self._checked(boxes.cpu(), scores.cpu(), batch=len(images))
        except (RuntimeError, ValueError, AttributeError) as error:
            # The useful part of a TorchScript traceback is its end.
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{self.path}: torch.jit could not run it: {reason}") from error
