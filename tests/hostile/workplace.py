"""A folder with a little of everything that commands work on, and much that they cannot use."""

from __future__ import annotations

import os
import random
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from tests.inference.white_box import write_white_box
from tests.media.files import write_image, write_video
from tests.training.toy_run import write_toy_data
from yolorep.models.detector import build_model
from yolorep.weights.checkpoint import save_checkpoint


@dataclass(frozen=True)
class Workplace:
    """Where command lines are tried.

    Attributes:
        folder: the working directory.
        lines: for each command, flags with which it works there, in about a second.
    """

    folder: Path
    lines: dict[str, list[str]]

    def copy(self, folder: Path) -> Workplace:
        """Another one, for what may spoil it."""
        subprocess.run(["cp", "-a", f"{self.folder}/.", folder], check=True)  # shutil knows no pipes
        return replace(self, folder=folder)

    @classmethod
    def make(cls, folder: Path) -> Workplace:
        """Fills a folder."""
        write_toy_data(folder)
        save_checkpoint(
            folder / "toy.pt",
            build_model(folder / "model.yaml", names=["blue", "green"]),
            data=str(folder / "data.yaml"),
        )
        write_white_box(folder / "white.torchscript")
        write_image(folder / "street.png")
        write_video(folder / "street.avi", 3, codec="MJPG")
        (folder / "street.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (folder / "list.txt").write_text("street.png\nmissing.png\nstreet.avi\nfifo\n~nosuchuser/x.png\n")
        noise = random.Random(0).randbytes(2000)
        for suffix in ("", ".pt", ".yaml", ".png", ".onnx", ".torchscript", ".mp4"):
            (folder / f"empty{suffix}").write_bytes(b"")
            (folder / f"noise{suffix}").write_bytes(noise)
        (folder / "text.pt").write_text("not found: 404\n")
        for suffix in ("", ".pt", ".yaml", ".png"):
            (folder / f"folder{suffix}").mkdir()
        for suffix in ("", ".pt", ".yaml", ".onnx", ".png", ".mp4"):
            os.mkfifo(folder / f"fifo{suffix}")
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("nothing")
        (folder / "locked").mkdir(mode=0)
        for suffix in (".pt", ".yaml"):
            (folder / f"locked{suffix}").touch(mode=0)
        common = ["--device", "cpu", "--imgsz", "64", "--project", "out"]
        evaluation = ["--data", "data.yaml", "--workers", "0", *common]
        return cls(
            folder,
            {
                "train": ["--cfg", "model.yaml", "--epochs", "1", "--batch-size", "2", "--log", "csv", *evaluation],
                "val": ["--weights", "toy.pt", *evaluation],
                "compare": ["toy.pt", "toy.pt", "--resamples", "100", *evaluation],
                "detect": ["--weights", "white.torchscript", "--source", "street.png", *common],
                "classify": ["--weights", "toy.pt", "--source", "street.png", "--imgsz", "64"],
                "export": ["--weights", "toy.pt", "--include", "torchscript", "--imgsz", "64"],
                "fuse": ["--weights", "toy.pt", "--output", "fused.pt"],
                "info": ["--cfg", "model.yaml", "--imgsz", "64"],
            },
        )
