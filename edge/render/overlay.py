# SPDX-License-Identifier: Apache-2.0
"""The overlay: the film, the outline of the anatomy mask, where each sentence looked, and a legend.

Attention says where the model looked while it wrote, not where a finding is.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from edge.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageDraw

    from edge.report import Evidence, Report

LONG_SIDE = 1024
LEGEND_WIDTH = 460
MARGIN = 22
CONTOUR_MASS = 0.35
"""The contour of a sentence encloses the patches that hold this share of its attention."""
FOOTER = "Draft by a model. Not for clinical use."

# Okabe and Ito's colours that stand out on a grey film, told apart with any colour vision.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 190, 140),
    (240, 228, 66),
    (220, 140, 190),
    (235, 235, 235),
    (226, 100, 40),
    (150, 160, 255),
)
_BACKGROUND, _TEXT, _DIM = (17, 19, 23), (238, 240, 243), (157, 164, 174)


def overlay_png(report: Report) -> bytes:
    """The overlay of a report as PNG.

    Raises
    ------
    UsageError
        The report holds no picture (it was not made by :meth:`edge.Engine.report`).
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", FOOTER)
    stream = io.BytesIO()
    overlay_image(report).save(stream, "PNG", pnginfo=info, compress_level=3)
    return stream.getvalue()


def overlay_image(report: Report) -> Image.Image:
    """The overlay as an RGB picture: the film at a long side of 1024 pixels, the legend to its right."""
    from PIL import Image, ImageDraw

    film = _film(report)
    seen = [(i, s.evidence) for i, s in enumerate(report.sentences) if s.evidence is not None]
    for index, evidence in seen:
        film = _tint(film, evidence, _colour(index))
    if report.mask is not None:
        _outline(film, report.mask)
    for index, evidence in seen:
        _contour(film, evidence, _colour(index))
    height = max(film.shape[0], _legend(None, report, 0, LONG_SIDE))
    canvas = Image.new("RGB", (film.shape[1] + LEGEND_WIDTH, height), _BACKGROUND)
    canvas.paste(Image.fromarray(film), (0, 0))
    draw = ImageDraw.Draw(canvas)
    _labels(draw, seen, (film.shape[1], film.shape[0]))
    _legend(draw, report, film.shape[1], height)
    return canvas


def _colour(index: int) -> tuple[int, int, int]:
    return COLOURS[index % len(COLOURS)]


def _film(report: Report) -> NDArray[np.uint8]:
    """The film [h, w, 3], a little darkened so that colours stand out."""
    import numpy as np
    from PIL import Image

    if report.film is None:
        raise UsageError("this report holds no picture of its film to draw on")
    if "films" in report.input:
        raise UsageError("the picture shows one film, and this report is about several")
    rows, columns = report.film.shape
    scale = LONG_SIDE / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    grey = np.asarray(Image.fromarray(report.film).resize(size, Image.Resampling.LANCZOS), np.float32)
    return np.repeat((grey * 0.86)[:, :, None], 3, axis=2).astype(np.uint8)


def _smooth(evidence: Evidence, size: tuple[int, int]) -> NDArray[np.float32]:
    """The heat at `size` (width, height), without the edges of patches."""
    import cv2
    import numpy as np

    heat = np.asarray(evidence.heat, np.float32)
    heat = cv2.GaussianBlur(heat, (0, 0), 0.9, borderType=cv2.BORDER_REPLICATE)
    large = cv2.resize(heat, size, interpolation=cv2.INTER_CUBIC)
    return np.maximum(np.asarray(large, np.float32), np.float32(0.0))


def _level(heat: NDArray[np.float32], share: float) -> float:
    """The value above which `share` of the heat lies."""
    import numpy as np

    values = np.sort(heat[::4, ::4], axis=None)[::-1]
    sums = np.cumsum(values, dtype=np.float64)
    return float(values[min(int(np.searchsorted(sums, share * sums[-1])), values.size - 1)])


def _tint(film: NDArray[np.uint8], evidence: Evidence, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Lay a soft tint over what a sentence looked at most."""
    import numpy as np

    heat = _smooth(evidence, (film.shape[1], film.shape[0]))
    low, high = _level(heat, CONTOUR_MASS), float(heat.max())
    if not high > low:
        return film
    alpha = (np.clip((heat - low) / (high - low), 0.0, 1.0) * 0.42)[:, :, None]
    mixed = film * (1.0 - alpha) + np.asarray(colour, np.float32) * alpha
    return np.asarray(mixed, np.uint8)


def _contour(film: NDArray[np.uint8], evidence: Evidence, colour: tuple[int, int, int]) -> None:
    import cv2
    import numpy as np

    heat = _smooth(evidence, (film.shape[1], film.shape[0]))
    inside = (heat >= _level(heat, CONTOUR_MASS)).astype(np.uint8)
    lines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    lines = [line for line in lines if cv2.contourArea(line) >= 60]
    cv2.polylines(film, lines, True, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.polylines(film, lines, True, colour, 2, cv2.LINE_AA)


def _outline(film: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    """Draw the outline of the anatomy mask as a thin dashed line."""
    import cv2
    import numpy as np

    size = (film.shape[1], film.shape[0])
    smooth = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(smooth, (0, 0), max(1.0, 0.6 * max(size) / max(mask.shape)))
    lines, _ = cv2.findContours((smooth > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for line in lines:
        for at in range(0, len(line), 14):
            cv2.polylines(film, [line[at : at + 9]], False, (240, 242, 245), 2, cv2.LINE_AA)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _labels(draw: ImageDraw.ImageDraw, seen: list[tuple[int, Evidence]], size: tuple[int, int]) -> None:
    """Number each sentence at its peak; numbers that would lie on each other move aside."""
    radius, taken = 15, list[tuple[float, float]]()
    for index, evidence in seen:
        x = (evidence.peak[1] + 0.5) / evidence.grid[1] * size[0]
        y = (evidence.peak[0] + 0.5) / evidence.grid[0] * size[1]
        while any((x - a) ** 2 + (y - b) ** 2 < (2.1 * radius) ** 2 for a, b in taken):
            x += 2.2 * radius
            if x > size[0] - radius:
                x, y = radius + 2, y + 2.2 * radius
        x = min(max(x, radius + 2), size[0] - radius - 2)
        y = min(max(y, radius + 2), size[1] - radius - 2)
        taken.append((x, y))
        _badge(draw, (x, y), radius, index)


def _badge(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: int, index: int) -> None:
    x, y = at
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=_colour(index), outline=(0, 0, 0), width=2)
    draw.text((x, y), str(index + 1), font=_font(18), fill=(0, 0, 0), anchor="mm")


def _legend(draw: ImageDraw.ImageDraw | None, report: Report, left: int, height: int) -> int:
    """Draw the legend into the column that begins at `left` (``None``: only measure); the height it needs."""
    width = LEGEND_WIDTH - 2 * MARGIN
    x, y = left + MARGIN, MARGIN

    def lines(text: str, size: int, fill: tuple[int, int, int], indent: int = 0) -> None:
        nonlocal y
        font = _font(size)
        for line in wrap(text, font, width - indent):
            if draw is not None:
                draw.text((x + indent, y), line, font=font, fill=fill)
            y += round(size * 1.32)

    lines("Findings (draft)", 26, _TEXT)
    lines(report.model.get("name", ""), 15, _DIM)
    y += 14
    for index, sentence in enumerate(report.sentences):
        if draw is not None:
            _badge(draw, (x + 15, y + 14), 15, index)
        lines(sentence.text, 20, _TEXT, 44)
        if sentence.confidence is None:
            lines("given as a prompt", 15, _DIM, 44)
        else:
            lines(f"confidence {sentence.confidence:.0%}", 15, _DIM, 44)
        y += 12
    if not report.sentences:
        lines("(no text)", 20, _DIM)
    for warning in report.warnings:
        lines(f"! {warning}", 15, (240, 200, 110))
        y += 4
    notes = ["Colours: where the model looked while it wrote a sentence."]
    if report.mask is not None:
        notes.append("Dashed line: lungs and heart as it sees them.")
    notes.append("Confidence is about the words, not about how likely a finding is.")
    y += 10
    foot = y
    for note in notes:
        lines(note, 15, _DIM)
    y += 6
    lines(FOOTER, 19, (255, 170, 120))
    needed = y + MARGIN
    if draw is None or height <= needed:
        return needed
    _move_down(draw, (left, foot, left + LEGEND_WIDTH, needed), height - needed)
    return needed


def _move_down(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], by: int) -> None:
    """Move what was drawn in `box` to the bottom of the column."""
    image = draw._image
    part = image.crop(box)
    draw.rectangle(box, fill=_BACKGROUND)
    image.paste(part, (box[0], box[1] + by))


def wrap(text: str, font: Any, width: float) -> list[str]:
    """Break `text` into lines of at most `width` pixels; words that are too long are broken too."""
    result: list[str] = []
    line = ""
    for word in text.split():
        while font.getlength(word) > width and len(word) > 1:
            cut = len(word) - 1
            while cut > 1 and font.getlength(word[:cut]) > width:
                cut -= 1
            if line:
                result.append(line)
                line = ""
            result.append(word[:cut])
            word = word[cut:]
        longer = f"{line} {word}" if line else word
        if line and font.getlength(longer) > width:
            result.append(line)
            line = word
        else:
            line = longer
    return [*result, line] if line else result
