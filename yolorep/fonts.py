"""Fonts for class names in any script: DejaVu Sans as a rule, another one of the machine where that lacks a letter.

What a machine has is looked up when a name needs it, once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from yolorep.console import say

#: Fonts that draw a box for whatever they lack.
_BOXES = ("lastresort", "adobeblank", "notdef", "tofu")
#: The first words of Unicode's names for letters of the Far East, and what they are.
_FAR_EAST = {
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "BOPOMOFO": "Chinese",
}
#: Letters of a name that are drawn.
_LONGEST = 100


@dataclass(frozen=True)
class Run:
    """A part of a text, and the font file it is drawn with; None for Pillow's own font."""

    text: str
    file: str | None


class Fonts:
    """Which fonts a text is drawn with.

    Args:
        find: lists the font files to look into; called when a text needs another font than DejaVu Sans.
    """

    def __init__(self, find: Callable[[], Iterable[str]] | None = None) -> None:
        self._find = find or _installed
        self._files: list[str] | None = None
        self._letters: dict[str, frozenset[int]] = {}
        self._chosen: list[str] = []
        self._absent: set[str] = set()

    def readable(self, name: str, class_id: int) -> str:
        """The name, or the class's number where no font has its letters: said once for each script.

        Of a name of more than 100 letters only the first are drawn.
        """
        if len(name) > _LONGEST:
            name = f"{name[: _LONGEST - 1]}…"
        missing = self._missing(name)
        if not missing:
            return name
        _say_missing(*_script(missing[0]))
        return str(class_id)

    def runs(self, text: str) -> list[Run]:
        """The text in parts, each in one font. Letters that no font has stay with the one before."""
        default = default_font()
        if _is_plain(text) or default is None:
            return [Run(text, default)]
        self._missing(text)
        files = [default, *self._chosen]
        for file in files:  # one font for all, where there is one: it joins and orders its letters
            if all(self._has(file, letter) for letter in text):
                return [Run(text, file)]
        runs: list[Run] = []
        for letter in text:
            current = runs[-1].file if runs else default
            joins = runs and (letter.isspace() or unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf"))
            if not joins or not self._has(str(current), letter):
                current = next((file for file in files if self._has(file, letter)), current)
            if runs and runs[-1].file == current:
                runs[-1] = Run(runs[-1].text + letter, current)
            else:
                runs.append(Run(letter, current))
        return runs

    def families(self, texts: Iterable[str]) -> list[str]:
        """The families beside DejaVu Sans that matplotlib needs for these texts, made known to it."""
        default = default_font()
        files = {run.file: None for text in texts if not _is_plain(text) for run in self.runs(text)}
        return [_known_to_matplotlib(file) for file in files if file not in (None, default)]

    def _missing(self, text: str) -> list[str]:
        """The letters that no font has; fonts are looked for until one has each."""
        default = default_font()
        if _is_plain(text) or default is None:
            return []
        wanted = {letter for letter in text if not any(self._has(file, letter) for file in (default, *self._chosen))}
        if wanted - self._absent:
            self._look_for(wanted - self._absent)
        return [letter for letter in text if letter in self._absent]

    def _look_for(self, wanted: set[str]) -> None:
        if self._files is None:
            self._files = sorted(self._find(), key=_rank)
        for file in self._files:
            found = {letter for letter in wanted if self._has(file, letter)}
            if found and _draws(file, min(found)):
                self._chosen.append(file)
                wanted = wanted - found
            if not wanted:
                break
        self._absent |= wanted

    def _has(self, file: str, letter: str) -> bool:
        kind = unicodedata.category(letter)
        if kind in ("Cc", "Cs", "Zl", "Zp"):
            return False  # breaks the line, or is half a letter, whatever the font says
        if kind == "Cf" or "\ufe00" <= letter <= "\ufe0f":
            return True  # joins others, and has no shape
        if file not in self._letters:
            self._letters[file] = _letters(file)
        return ord(letter) in self._letters[file]


@cache
def machine_fonts() -> Fonts:
    """The fonts of this machine."""
    return Fonts()


def _is_plain(text: str) -> bool:
    """Whether DejaVu Sans has every letter, known without looking: Latin, Greek and Cyrillic."""
    return all(" " <= letter <= "~" or "\xa1" <= letter < "\u02ea" or "\u0384" <= letter < "\u0526" for letter in text)


@cache
def default_font() -> str | None:
    """The file of DejaVu Sans Bold; None where it is not found, for Pillow's own font."""
    # matplotlib ships DejaVu Sans (Latin, Greek, Cyrillic, Arabic, …); found without paying for importing it.
    spec = find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans-Bold.ttf")
        if file.exists():
            return str(file)
    return None


def _installed() -> list[str]:
    from matplotlib.font_manager import findSystemFonts

    return findSystemFonts()


def _rank(file: str) -> tuple[int, str]:
    """Upright sans-serif fonts first, bold ones before others."""
    name = Path(file).name.lower()
    unlike = 8 * any(word in name for word in ("serif", "mono", "italic", "oblique", "condensed"))
    return unlike + (0 if "bold" in name else 1 if "regular" in name else 2), file


def _letters(file: str) -> frozenset[int]:
    """The code points that a font has letters for; none for a file that is no font, or draws boxes for all."""
    from matplotlib.ft2font import FT2Font

    if any(word in Path(file).name.lower() for word in _BOXES):
        return frozenset()
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _draws(file: str, letter: str) -> bool:
    """Whether Pillow makes anything of a letter: of fonts with pictures in colour it makes nothing."""
    from PIL import ImageFont

    try:
        return letter.isspace() or ImageFont.truetype(file, 24).getmask(letter).getbbox() is not None
    except (OSError, ValueError):
        return False


def _known_to_matplotlib(file: str) -> str:
    """The family that matplotlib finds the file by, its path: it has one weight, so that no other is missed."""
    from matplotlib.font_manager import FontEntry, fontManager

    if not any(entry.name == file for entry in fontManager.ttflist):
        fontManager.ttflist.append(FontEntry(fname=file, name=file, weight=400, size="scalable"))
    return file


def _script(letter: str) -> tuple[str, str]:
    """What a letter belongs to, and the package that brings a font for it on Debian and Ubuntu."""
    kind, word = unicodedata.category(letter), unicodedata.name(letter, "unknown").split()[0]
    if kind in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp"):
        return "characters that are no letters", ""
    if word in _FAR_EAST:
        return _FAR_EAST[word], "fonts-noto-cjk"
    if kind == "So":
        return "symbols and emoji", "fonts-symbola"
    return word.title(), "fonts-noto-core"


@cache
def _say_missing(script: str, package: str) -> None:
    hint = f"; install one, such as the package {package}" if package else ""
    say(f"class names: no font here has {script}, so class numbers are drawn instead{hint}")


def readable_names(names: Sequence[str], fonts: Fonts) -> list[str]:
    """Class names as they can be drawn, by class number."""
    return [fonts.readable(name, class_id) for class_id, name in enumerate(names)]
