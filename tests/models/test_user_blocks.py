"""Rows from a file that the user names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from yolorep.errors import UserError
from yolorep.models.detector import build_model
from yolorep.models.model_file import load_config, parse_config
from yolorep.models.user_blocks import import_blocks
from yolorep.nn.registry import ROW_TYPES, register
from yolorep.nn.reparam import fuse
from yolorep.weights.checkpoint import save_checkpoint
from yolorep.weights.load import load_checkpoint

BLOCK = """
from __future__ import annotations

from torch import Tensor, nn

from yolorep.nn.conv import ConvBN
from yolorep.nn.registry import register


@register()
class Wave(nn.Module):
    def __init__(self, c1: int, c2: int, shifted: bool = False) -> None:
        super().__init__()
        self.conv, self.shifted = ConvBN(c1, c2, 3, 2, 1), shifted

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).sin() + self.shifted
"""
MODEL = """
nc: 2
backbone: [[-1, 1, Wave, [8], P3], [-1, 1, Wave, [16, True], P4]]
head: [[[P3, P4], 1, DetectFree, [nc, 4]]]
"""


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Rows that a test registers are gone after it."""
    rows = dict(ROW_TYPES)
    yield
    ROW_TYPES.clear()
    ROW_TYPES.update(rows)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(MODEL)
    return path


def write(folder: Path, text: str, name: str = "blocks.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_block_of_ones_own_builds_and_fuses(tmp_path: Path, model_file: Path) -> None:
    import_blocks(write(tmp_path, BLOCK))
    model = build_model(model_file).eval()
    assert model.strides == (2, 4) and (model.model[0].shifted, model.model[1].shifted) == (False, True)
    assert fuse(model, strict=True)[1].kinds["ConvBN"] >= 2


def test_a_file_runs_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = write(tmp_path, f"{BLOCK}\nwith open({str(log)!r}, 'a') as file: file.write('run ')\n")
    link = tmp_path / "link.py"
    link.symlink_to(path)
    for name in (path, str(path), tmp_path / "." / "blocks.py", link):
        import_blocks(name)
    assert log.read_text() == "run "


def test_files_of_one_name_are_two(tmp_path: Path) -> None:
    for folder, name in (("a", "Wave"), ("b", "Ripple")):
        (tmp_path / folder).mkdir()
        import_blocks(write(tmp_path / folder, BLOCK.replace("Wave", name)))
    assert {"Wave", "Ripple"} <= ROW_TYPES.keys()


def test_a_file_may_hold_what_looks_its_module_up(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n    b: int = 3\n"
    import_blocks(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, r"--import .*none\.py: no such file"),
        ("blocks.txt", "", r"--import .*blocks\.txt: expected a Python file ending in \.py"),
        ("blocks.py", "a = 1\nb = 1 / 0\n", r"--import .*blocks\.py: line 2: ZeroDivisionError: division by zero"),
        ("blocks.py", "import nothing_of_that_name\n", "line 1: ModuleNotFoundError: No module named 'nothing_of_"),
        ("blocks.py", "a = 1\nb = (\n", r"line 2: SyntaxError: '\(' was never closed"),
        ("blocks.py", "def f():\n    raise KeyError\nf()\n", "line 2: KeyError$"),
        ("blocks.py", "import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        (
            "blocks.py",
            BLOCK.replace("Wave", "C3"),
            r"line 10: ValueError: row type 'C3' is registered already, by C3",
        ),
        (
            "blocks.py",
            BLOCK.replace("@register()", "@register"),
            r"line 10: TypeError: expected @register\(\), with parentheses, above Wave",
        ),
    ],
)
def test_faults_are_one_line(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        write(tmp_path, text, name)
    with pytest.raises(UserError, match=message) as raised:
        import_blocks(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_file_that_fails_registers_nothing_and_may_be_mended(tmp_path: Path) -> None:
    before = set(ROW_TYPES)
    path = write(tmp_path, f"{BLOCK}\nraise ValueError('no')\n")
    with pytest.raises(UserError, match="ValueError: no"):
        import_blocks(path)
    assert set(ROW_TYPES) == before
    path.write_text(BLOCK)
    import_blocks(path)
    assert set(ROW_TYPES) == before | {"Wave"}


HINT = "unknown module 'Wave'; needs the row Wave: give --import the file that registers it"


def test_a_model_file_with_an_unknown_row_says_what_is_needed(model_file: Path) -> None:
    with pytest.raises(UserError) as raised:
        build_model(model_file)
    assert f"{model_file}: backbone row 0 [-1, 1, Wave, [8], P3]: {HINT}" in str(raised.value)


def test_a_checkpoint_with_an_unknown_row_says_what_is_needed(tmp_path: Path, model_file: Path) -> None:
    import_blocks(write(tmp_path, BLOCK))
    model = build_model(model_file).eval()
    weights = tmp_path / "best.pt"
    save_checkpoint(weights, model)
    image = model.example_input()
    with torch.inference_mode():
        expected = model(image).levels[0]
        torch.testing.assert_close(load_checkpoint(weights).build()(image).levels[0], expected)
    del ROW_TYPES["Wave"]
    with pytest.raises(UserError) as raised:
        load_checkpoint(weights).build()
    assert f"{weights} (model_config): backbone row 0 [-1, 1, Wave, [8], P3]: {HINT}" in str(raised.value)


@pytest.mark.parametrize("value", ["blocks.py", ["blocks.py"], None])
def test_no_file_may_name_code(model_file: Path, value: object) -> None:
    plain = load_config(model_file).to_dict()
    with pytest.raises(UserError, match="imports: a model file runs no code; give --import FILE.py") as raised:
        parse_config(plain | {"imports": value}, source="model.yaml")
    assert "\n" not in str(raised.value)


def test_parentheses_may_not_be_forgotten() -> None:
    with pytest.raises(TypeError, match=r"expected @register\(\), with parentheses, above Linear"):
        register(torch.nn.Linear)  # type: ignore[arg-type]
