"""The results of a bench for people: Markdown, and a picture of the same images in every row."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from editspec.modalities.image.pictures import GAP, to_image

LABEL = 280
CELL = 96


def markdown(result: dict[str, Any]) -> str:
    """The tables as Markdown: our numbers, and the paper's beside them."""
    lines = [
        "# The paper's tables on Skyline",
        "",
        f"{result['images']:,} images at the most; n is printed. Features of {result['features']['name']} "
        f"(`{result['features']['digest']}`), base weights `{result['base']}`.",
        "",
        "efficacy: of the pixels that the perfect edit changes, the share that ends closer to it than to the original. "
        "read: the share of the images with something to change whose attributes are read as changed. outside: mean "
        "absolute change of all other pixels, -1..1. perceptual: the same in features. distance: to the perfect edit, "
        "over the pixels that it changes. closer: the share of the images with something to change that end closer to "
        "the perfect edit than ours do. seconds: for the edit, its statistics left out; of propagation, for an image.",
    ]
    for table in result["tables"]:
        lines += ["", f"## {table['place']}: {table['title']}", "", *_rows(table["rows"])]
    if "succession" in result:
        lines += ["", "## Figure 1: a succession of edits", "", *_retention(result["succession"])]
    return "\n".join(lines) + "\n"


def picture(rows: list[tuple[str, Tensor]]) -> Image.Image:
    """Rows of pictures [n, 3, size, size] in -1..1, each with its name."""
    size = CELL + GAP
    page = Image.new(
        "RGB",
        (LABEL + max(len(images) for _, images in rows) * size, len(rows) * size + GAP),
        "white",
    )
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    for row, (label, images) in enumerate(rows):
        y = GAP + row * size
        draw.text((LABEL - 2 * GAP, y + CELL // 2), label, fill="black", font=font, anchor="rm")
        for column, image in enumerate(images):
            tile = to_image(image).resize((CELL, CELL), Image.Resampling.LANCZOS)
            page.paste(tile, (LABEL + column * size, y))
    return page


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    ours = [
        ("efficacy", ".1%"),
        ("read", ".1%"),
        ("outside", ".4f"),
        ("perceptual", ".4f"),
        ("distance", ".3f"),
        ("closer_than_ours", ".1%"),
        ("middle", "d"),
        ("bottom", "d"),
        ("correlation", "+.2f"),
        ("n", "d"),
        ("seconds", ".2f"),
    ]
    columns = [(name, form) for name, form in ours if any(name in row for row in rows)]
    published = list(dict.fromkeys(name for row in rows for name in row["published"]))
    names = ["method", "layer", "rank", "steps", *(_heading(name) for name, _ in columns)]
    names += [f"paper: {name}" for name in published]
    lines = ["| " + " | ".join(names) + " |", "|---" * 4 + "|---:" * (len(names) - 4) + "|"]
    for row in rows:
        cells = [
            row["title"],
            *(str(row["settings"].get(name, "–")) for name in ("layer", "rank", "steps")),
        ]
        cells += [
            "–" if row.get(name) is None else format(row[name], form) for name, form in columns
        ]
        cells += [row["published"].get(name, "") for name in published]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _heading(name: str) -> str:
    return {"closer_than_ours": "closer"}.get(name, name)


def _retention(succession: dict[str, Any]) -> list[str]:
    names = succession["edits"]
    lines = [
        "| efficacy of | " + " | ".join(f"after {name}" for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for name in names:
        found = {
            entry["after"]: entry for entry in succession["retention"] if entry["edit"] == name
        }
        cells = [f"{found[after]['efficacy']:.1%}" if after in found else "" for after in names]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines
