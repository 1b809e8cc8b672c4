"""The documents point at files that exist, hold no unfilled figure, and their blocks work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.randomize import randomize_
from yolorep.config import resources_dir
from yolorep.nn.branches import BranchSum
from yolorep.nn.conv import ConvBN
from yolorep.nn.registry import register
from yolorep.nn.reparam import ConvKernel, Reparameterizable, fuse

ROOT = resources_dir()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    commands = re.findall(r"(?:cfg|benchmarks|examples)/[\w./-]+\.(?:yaml|py)", text)
    missing = [link for link in links if not _leads_somewhere(path, link)]
    missing += [name for name in commands if not (ROOT / name).exists()]
    assert not missing


def _leads_somewhere(path: Path, link: str) -> bool:
    """Whether a link names a file, and a heading of it where it names one."""
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    if not target.exists() or not anchor:
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_figure_is_left_open(path: Path) -> None:
    words = set(re.findall(r"\b[A-Z]{3,}_[A-Z]{3,}\b", path.read_text(encoding="utf-8")))
    assert words <= {"YOLOREP_CACHE", "WANDB_MODE", "TORCH_INDEX"}


def test_the_blocks_to_add_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks that the documents show how to write: built, run, fused."""
    monkeypatch.setattr("yolorep.nn.registry.ROW_TYPES", {})
    for name, row in (("backbones.md", "TwoScales"), ("model-files.md", "TwoBranchBlock")):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.DOTALL)
        (source,) = (block for block in blocks if row in block)
        scope: dict[str, Any] = {
            "Tensor": torch.Tensor,
            "nn": nn,
            "register": register,
            "BranchSum": BranchSum,
            "ConvBN": ConvBN,
            "ConvKernel": ConvKernel,
            "Reparameterizable": Reparameterizable,
            "__name__": "documented",
        }
        exec(compile(source, name, "exec", dont_inherit=True), scope)
        block = randomize_(scope[row](4, 4).double().eval())
        fused, _ = fuse(block, strict=True)
        image = torch.rand(1, 4, 9, 11, dtype=torch.float64)
        torch.testing.assert_close(fused(image), block(image))
        assert type(fused.conv) is nn.Conv2d
