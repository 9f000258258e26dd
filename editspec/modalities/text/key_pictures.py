"""Pictures of texts in which the key of an edit matches."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from editspec.engine.model_session import on_device
from editspec.engine.session import BuildSession
from editspec.modalities.image.pictures import stack_pictures
from editspec.modalities.text.heat_maps import INK, QUIET, SIZE, colour_of, is_dark, percent
from editspec.modalities.text.key_matches import KeyMatches, MatchedText, find_key_matches
from editspec_compiler.modalities.text.resolve import CompileResources

WIDTH = 960
"""The width of a picture in pixels."""

EDGE, LINE, BETWEEN = 14, 22, 10
"""Pixels: the margin, the height of a line of text, and the space below a text."""

NUMBERED = 0.1
"""The least size of a share whose number is written below its token."""


@on_device
def draw_keys(session: BuildSession, resources: CompileResources, count: int) -> Image.Image:
    """Draw for every edit in which texts its key matches, on the model before that edit.

    `count` texts of each group are drawn; tokens are red where the key matches.
    """
    pictures = []
    edits = session.loaded.spec.edits
    for number, edit in enumerate(edits):
        matches = find_key_matches(session, number, resources, count)
        pictures.append(_draw_matches(edit.name, matches))
        if number < len(edits) - 1:  # nothing is drawn behind the last
            session.edit(number)
    return stack_pictures(pictures)


@dataclass(frozen=True)
class _Placed:
    """A token with its place in a picture."""

    left: int
    line: int
    width: int
    text: str
    share: float


def _draw_matches(name: str, matches: KeyMatches) -> Image.Image:
    """Draw the texts of an edit below each other."""
    font, small = ImageFont.load_default(SIZE), ImageFont.load_default(SIZE - 4)
    parts = [_draw_heading(f"{name}: where its key at {matches.layer} matches", INK)]
    for group, texts in matches.groups.items():
        parts.append(_draw_heading(group, QUIET))
        parts += [_draw_text(text, font, small) for text in texts]
    return stack_pictures(parts)


def _draw_heading(text: str, colour: str) -> Image.Image:
    picture = Image.new("RGB", (WIDTH, LINE + BETWEEN), "white")
    place = (EDGE, (LINE + BETWEEN) // 2)
    font = ImageFont.load_default(SIZE)
    ImageDraw.Draw(picture).text(place, text, fill=colour, font=font, anchor="lm")
    return picture


def _draw_text(
    text: MatchedText,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    small: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> Image.Image:
    """Draw one text, whose tokens have their colour, and their share below where it counts."""
    placed = _place_tokens(text, font)
    lines = max(each.line for each in placed) + 1
    height = lines * (LINE + SIZE) + BETWEEN
    picture = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(picture)
    for each in placed:
        top = each.line * (LINE + SIZE)
        frame = (each.left, top, each.left + each.width - 1, top + LINE - 1)
        pen.rectangle(frame, fill=colour_of(each.share))
        ink = "white" if is_dark(each.share) else INK
        middle = each.left + each.width // 2
        pen.text((middle, top + LINE // 2), each.text, fill=ink, font=font, anchor="mm")
        if abs(each.share) >= NUMBERED:
            below = (middle, top + LINE + SIZE // 2)
            pen.text(below, percent(each.share), fill=QUIET, font=small, anchor="mm")
    return picture


def _place_tokens(
    text: MatchedText, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[_Placed]:
    """Place the tokens of a text in lines."""
    left, line, found = EDGE, 0, []
    for token, share in text.pairs:
        shown = token.strip() or repr(token)[1:-1]
        width = int(font.getlength(shown)) + 6
        gap = 4 if token[:1].isspace() else 0
        if left + gap + width > WIDTH - EDGE:
            left, line, gap = EDGE, line + 1, 0
        found.append(_Placed(left + gap, line, width, shown, share))
        left += gap + width
    return found
