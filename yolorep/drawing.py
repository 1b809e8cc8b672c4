"""Boxes and labels on an image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from yolorep.detections import class_name
from yolorep.fonts import Fonts, default_font, machine_fonts

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from yolorep.detections import Detections

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

#: Hues (degrees in OKLCH) of the first classes, far apart from one to the next; later classes repeat them at other
#: lightnesses. Sorted by hand so that a data set of two or three classes gets the clearest contrast.
HUES = (255, 45, 145, 345, 105, 200, 310, 15, 170, 75, 225, 285)
#: (lightness, chroma) of each round through the hues.
TONES = ((0.70, 0.17), (0.82, 0.13), (0.56, 0.16), (0.76, 0.08), (0.64, 0.23), (0.46, 0.12), (0.90, 0.09))


def draw(
    image: Image,
    detections: Detections,
    names: Sequence[str],
    *,
    line_thickness: int | None = None,
    hide_labels: bool = False,
    hide_conf: bool = False,
    fonts: Fonts | None = None,
) -> Image:
    """Draws detections on a copy of an image.

    Args:
        image: (height, width, 3) BGR uint8; not changed.
        detections: boxes in pixels of the image.
        names: class names by class index; an index without a name is shown as a number.
        line_thickness: box lines in pixels, text grows with them; by image size if None.
        hide_labels: boxes only.
        hide_conf: names without confidences.
        fonts: what names are drawn with; by default what the machine has. A name that no font has letters for is shown
            as its class's number.

    Returns:
        A new image of the same shape.
    """
    canvas: Image = image.copy()
    height, width = canvas.shape[:2]
    line = line_thickness or max(1, round(math.sqrt(height * width) / 260))
    order = np.argsort(detections.confidence, kind="stable")  # the most certain is drawn last, on top
    corners = np.rint(detections.xyxy).clip(0, [width - 1, height - 1] * 2).astype(int)
    for i in order:
        x1, y1, x2, y2 = corners[i].tolist()
        colour = class_colour(int(detections.class_id[i]))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line)
    if hide_labels:
        return canvas
    fonts = fonts or machine_fonts()
    # All labels after all boxes: no line crosses a text.
    for i in order:
        class_id = int(detections.class_id[i])
        text = fonts.readable(" ".join(class_name(names, class_id).split()), class_id)  # in one line
        if not hide_conf:
            text += f" {detections.confidence[i]:.2f}"
        mask = _text_mask(text, 4 * line + 6, fonts)
        _draw_label(canvas, mask, tuple(corners[i].tolist()), class_colour(class_id), line)
    return canvas


@cache
def class_colour(class_id: int) -> Colour:
    """Returns the BGR colour of a class: always the same, and unlike its neighbours'."""
    round_, position = divmod(class_id, len(HUES))
    lightness, chroma = TONES[round_ % len(TONES)]
    # Each round is shifted by a fraction of the spacing, so that no hue repeats exactly.
    hue = math.radians(HUES[position] + round_ * 11)
    return _oklch_to_bgr(lightness, chroma, hue)


def text_colour(background: Colour) -> Colour:
    """Returns black or white, whichever contrasts more with a BGR colour (WCAG relative luminance)."""
    blue, green, red = (_linear(channel / 255) for channel in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # (L + .05) / .05 against 1.05 / (L + .05): they are equal at L = 0.179.
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def _draw_label(canvas: Image, mask: NDArray[np.float32], corners: tuple[int, ...], colour: Colour, line: int) -> None:
    """Puts a text, filled around, on top of a box, inside it where there is no room above, always within the image."""
    x1, y1, _, _ = corners
    padding = max(2, line)
    height, width = mask.shape[0] + 2 * padding, mask.shape[1] + 2 * padding
    edge = line // 2
    top = y1 - edge - height if y1 - edge >= height else y1 - edge
    top = max(0, min(top, canvas.shape[0] - height))
    left = max(0, min(x1 - edge, canvas.shape[1] - width))
    area = canvas[top : top + height, left : left + width]
    area[:] = colour
    ink = area[padding : padding + mask.shape[0], padding : padding + mask.shape[1]]
    alpha = mask[: ink.shape[0], : ink.shape[1], None]
    ink[:] = np.rint(ink * (1 - alpha) + np.array(text_colour(colour)) * alpha)


@lru_cache(maxsize=1024)
def _text_mask(text: str, size: int, fonts: Fonts) -> NDArray[np.float32]:
    """Renders one line of text: (height, width) coverage in 0..1. Its height depends on the size, as a rule only."""
    # OpenCV's own fonts know ASCII only and are not smooth; class names are in every language.
    from PIL import Image as PillowImage
    from PIL import ImageDraw

    runs = [(run.text, _font(run.file, size)) for run in fonts.runs(text)]
    boxes = [font.getbbox(part, anchor="ls") for part, font in runs]
    _, top, _, bottom = _font(default_font(), size).getbbox("Ålpqg|", anchor="ls")
    top, bottom = min(top, *(box[1] for box in boxes)), max(bottom, *(box[3] for box in boxes))
    starts = [0.0, *itertools.accumulate(font.getlength(part) for part, font in runs)]
    left, right = boxes[0][0], starts[-2] + boxes[-1][2]
    sheet = PillowImage.new("L", (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top))))
    for (part, font), start in zip(runs, starts, strict=False):
        ImageDraw.Draw(sheet).text((start - left, -top), part, fill=255, font=font, anchor="ls")
    coverage: NDArray[np.float32] = np.asarray(sheet, dtype=np.float32) / np.float32(255)
    return coverage


@cache
def _font(file: str | None, size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def _oklch_to_bgr(lightness: float, chroma: float, hue: float) -> Colour:
    """Converts a perceptually uniform colour (Ottosson 2020, OKLab) to 8-bit sRGB, clipped."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short

    def encode(value: float) -> int:
        value = min(max(value, 0.0), 1.0)
        value = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
        return round(value * 255)

    return encode(blue), encode(green), encode(red)


def _linear(value: float) -> float:
    """Undoes the sRGB transfer curve."""
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)
