"""A format is one file and one line: here one of the tests' own, whose files are folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.formats.conftest import SIZE
from yolorep import Predictor, export
from yolorep.cli import main
from yolorep.errors import ExportError
from yolorep.files import atomic_folder
from yolorep.formats import FORMATS
from yolorep.formats.base import Backend, Deployed, Format
from yolorep.formats.metadata import Metadata
from yolorep.formats.torchscript import TorchScript


class Boxed(Format):
    """A TorchScript file in a folder, beside another file."""

    suffix = "_boxed_model"
    folder = True
    settings = ("opset",)

    def write(
        self, network: Deployed, path: Path, *, example: torch.Tensor, metadata: Metadata, **settings: Any
    ) -> None:
        TorchScript().write(network, path / "network.ts", example=example, metadata=metadata)
        (path / "settings.txt").write_text(f"opset {settings['opset']}")

    def open(self, path: Path, *, device: torch.device) -> Backend:
        return TorchScript().open(path / "network.ts", device=device)


class Broken(Boxed):
    """It forgets a file."""

    def write(self, network: Deployed, path: Path, **given: Any) -> None:
        super().write(network, path, **given)
        (path / "network.ts").unlink()


@pytest.fixture
def copied(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(FORMATS, "boxed", f"{__name__}:Boxed")
    monkeypatch.setitem(FORMATS, "broken", f"{__name__}:Broken")
    return Path(shutil.copy(weights, tmp_path / "w.pt"))


def test_one_line_is_enough(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "--weights", str(copied), "--include", "boxed", "--imgsz", str(SIZE), "--opset", "17"]
    for _ in range(2):  # the second replaces the first
        assert main(command) == 0
    folder = copied.with_name("w_boxed_model")
    assert f"{folder}: " in capsys.readouterr().out
    assert sorted(file.name for file in folder.iterdir()) == ["network.ts", "settings.txt"]
    assert (folder / "settings.txt").read_text() == "opset 17"
    assert sorted(file.name for file in copied.parent.iterdir()) == ["w.pt", "w_boxed_model"]
    predictor = Predictor(folder, device="cpu")
    assert predictor.image_size == SIZE and predictor.names == Predictor(copied, device="cpu").names
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "boxed" in capsys.readouterr().out


def test_an_earlier_folder_survives_a_failed_export(copied: Path) -> None:
    folder = copied.with_name("w_boxed_model")
    folder.mkdir()
    (folder / "earlier").write_text("kept")
    with pytest.raises(ExportError, match="w_boxed_model: not written"):
        export(weights=copied, include="broken", imgsz=SIZE)
    assert [file.name for file in folder.iterdir()] == ["earlier"]
    assert sorted(file.name for file in copied.parent.iterdir()) == ["w.pt", "w_boxed_model"]


def test_an_interrupted_folder_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "new") as folder:
        (folder / "part").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
