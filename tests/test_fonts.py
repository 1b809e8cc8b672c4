"""Names in scripts that DejaVu Sans lacks: drawn with fonts that are found, or as class numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from yolorep.detections import Detections
from yolorep.drawing import draw
from yolorep.fonts import Fonts, Run, default_font
from yolorep.plots.curves import plot_confidence_curves, plot_confusion_matrix, plot_labels, plot_pr_curve


def write_font(path: Path, letters: str, *, empty: bool = False) -> str:
    """A font in which each letter is a bar, the later the wider."""
    names = {ord(letter): f"letter{index}" for index, letter in enumerate(letters)}
    glyphs = {}
    for index, name in enumerate([".notdef", *names.values()]):
        pen = TTGlyphPen(None)
        if not empty:
            width = 100 + 800 * index // (len(names) + 1)
            pen.moveTo((50, 0))
            for corner in ((50, 700), (50 + width, 700), (50 + width, 0)):
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Fonts for Chinese, Devanagari and Thai, among files that are none."""
    (tmp_path / "broken-Bold.ttf").write_bytes(b"no font")
    return [
        str(tmp_path / "broken-Bold.ttf"),
        str(tmp_path / "missing.ttf"),
        write_font(tmp_path / "LastResort.ttf", "猫犬कแ"),
        write_font(tmp_path / "pictures-Bold.ttf", "猫犬", empty=True),
        write_font(tmp_path / "han.ttf", "猫犬 0123456789.cat"),
        write_font(tmp_path / "devanagari.ttf", "कु"),
        write_font(tmp_path / "thai.ttf", "แม"),
    ]


def drawn(fonts: Fonts, *names: str) -> np.ndarray:
    """Boxes of these classes, one below the other."""
    boxes = np.array([[10, 40 + 50 * index, 190, 70 + 50 * index] for index in range(len(names))], np.float32)
    found = Detections(boxes, np.full(len(names), 0.87, np.float32), np.arange(len(names)))
    return draw(np.full((60 + 50 * len(names), 200, 3), 200, np.uint8), found, names, fonts=fonts)


def test_plain_names_look_for_no_fonts() -> None:
    def nowhere() -> list[str]:
        raise AssertionError("looked for fonts")

    fonts = Fonts(nowhere)
    for name in ("person", "Fußgänger", "πίθηκος", "собака", "été", "e\u0301te\u0301", "قطة", "$x_1$"):
        assert fonts.readable(name, 0) == name
        assert fonts.runs(f"{name} 0.87") == [Run(f"{name} 0.87", default_font())]


def test_each_text_gets_the_fonts_that_have_its_letters(files: list[str]) -> None:
    han, devanagari, thai = files[-3:]
    fonts = Fonts(lambda: files)
    assert fonts.runs("猫 cat 0.87") == [Run("猫 cat 0.87", han)]
    assert fonts.runs("猫 dog") == [Run("猫 ", han), Run("dog", default_font())]
    assert fonts.runs("कु 0.5") == [Run("कु", devanagari), Run(" 0.5", default_font())]
    assert fonts.runs("แม\u200d猫") == [Run("แม\u200d", thai), Run("猫", han)]


def test_fonts_are_listed_once(files: list[str]) -> None:
    calls: list[int] = []

    def find() -> list[str]:
        calls.append(1)
        return files

    fonts = Fonts(find)
    assert [fonts.readable(name, 7) for name in ("猫", "犬", "भ", "भ", "แ")] == ["猫", "犬", "7", "7", "แ"]
    assert len(calls) == 1


def test_names_are_drawn_each_in_its_own_way(files: list[str]) -> None:
    fonts = Fonts(lambda: files)
    pictures = [drawn(fonts, name) for name in ("猫", "犬", "क", "0")]
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])


@pytest.mark.parametrize("name", ["猫", "क", "แม", "\ud800", "a\nb", "\U0001fae8", "\0"])
def test_a_number_stands_for_what_cannot_be_drawn(name: str) -> None:
    fonts = Fonts(list)
    np.testing.assert_array_equal(drawn(fonts, name), drawn(fonts, "0"))
    np.testing.assert_array_equal(drawn(fonts, "person", name), drawn(fonts, "person", "1"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("\U0002a6b2", "no font here has Chinese, so class numbers are drawn instead; install .* fonts-noto-cjk"),
        ("\U00011183", "no font here has Sharada, .* fonts-noto-core"),
    ],
)
def test_what_is_missing_is_said_once(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    fonts = Fonts(list)
    drawn(fonts, name, name)
    first = capsys.readouterr().out
    drawn(Fonts(list), name)
    if "Chinese" not in words or first:  # another test may have said so before
        assert re.search(words, first) and first.count("\n") == 1
    assert not capsys.readouterr().out


def test_of_long_names_the_beginning_is_drawn() -> None:
    assert Fonts(list).readable("a" * 10**6, 0) == "a" * 99 + "…"


PLOTS: dict[str, Callable[[list[str], Path, Fonts], None]] = {
    "confusion": lambda names, out, fonts: plot_confusion_matrix(
        np.ones((len(names) + 1,) * 2, np.int64), names, out, fonts=fonts
    ),
    "labels": lambda names, out, fonts: plot_labels(
        np.arange(len(names)), np.full((len(names), 4), 0.5, np.float32), names, out, fonts=fonts
    ),
    "precision": lambda names, out, fonts: plot_pr_curve(
        np.full((10, 101, len(names), 4, 3), 0.5), names, out, fonts=fonts
    ),
    "confidence": lambda names, out, fonts: plot_confidence_curves(
        np.linspace(0, 1, 5), dict.fromkeys("ab", np.full((len(names), 5), 0.5)), names, out, best=None, fonts=fonts
    ),
}


@pytest.mark.parametrize(
    "plot",
    [
        pytest.param(plot, id=name, marks=() if name == "confidence" else pytest.mark.slow)
        for name, plot in PLOTS.items()
    ],
)
def test_plots_write_every_name(
    plot: Callable[[list[str], Path, Fonts], None],
    files: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pictures = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each letter that it has no shape for
        for names, found in ((["猫", "क"], files), (["猫", "क"], []), (["0", "1"], [])):
            plot(names, tmp_path / "plot.png", Fonts(lambda found=found: found))
            pictures.append(cv2.imread(str(tmp_path / "plot.png")))
    drawn_names, without, numbers = pictures
    np.testing.assert_array_equal(without, numbers)
    assert drawn_names.shape == numbers.shape and (drawn_names != numbers).any()
    assert "findfont" not in caplog.text
