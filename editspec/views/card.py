"""A model card: what a stack of patches is, in Markdown, with a head that the hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from editspec.engine.checks import CheckRow
from editspec.engine.collateral import predicted_collateral
from editspec.engine.result import describe_rank
from editspec.views.checks import checks_markdown
from editspec.views.text import markdown_code, markdown_text
from editspec_runtime.patches.patch import Patch

MARK = b"---\n# made by editspec card\n"
"""The first bytes of a card."""


@dataclass(frozen=True)
class CardContent:
    """What a card says.

    Attributes
    ----------
    title
        Its heading.
    patches
        The names of the files of the stack, and the patches, in order.
    weights
        The base as the spec names it; None where no spec was given.
    licence
        The identifier of the base's licence; None where it is not known.
    licence_file
        Whether the text of the licence lies beside the card.
    picture
        The name of a picture beside the card; None without one.
    checks
        The rows of the checks; None where they were not measured.
    """

    title: str
    patches: Sequence[tuple[str, Patch]]
    weights: str | None = None
    licence: str | None = None
    licence_file: bool = False
    picture: str | None = None
    checks: Sequence[CheckRow] | None = None


def write_card(content: CardContent) -> bytes:
    """Write a card in Markdown."""
    patches = [patch for _, patch in content.patches]
    base, result = patches[0].metadata["base"], patches[-1].metadata["result"]
    named = "its base" if content.weights is None else markdown_code(content.weights)
    lines = [f"# {markdown_text(content.title)}", ""]
    lines += [f"Edits of {named}, as patches of editspec.", ""]
    lines += [f"- base: `{base}`", f"- edited: `{result}`", "", "## Edits", ""]
    lines += ["| edit | layers | rank | predicted collateral | file |", "|---|---|---|---|---|"]
    lines += [_edit_line(name, patch) for name, patch in content.patches]
    if content.picture is not None:
        lines += ["", "## Before and after", "", f"![Images before and after]({content.picture})"]
    if content.checks is not None:
        lines += ["", "## Checks", "", checks_markdown(content.checks).rstrip()]
    files = " ".join(name for name, _ in content.patches)
    lines += ["", "## How to use them", ""]
    lines += [f"    editspec apply --model BASE {files} -o edited.safetensors", ""]
    lines += ["BASE is refused unless its digest is the one above.", "", "## Licence", ""]
    lines += [_licence_line(content), ""]
    return MARK + _head(content).encode() + "\n".join(lines).encode()


def _head(content: CardContent) -> str:
    """The head of a card, in YAML, behind its mark."""
    head: dict[str, object] = {"library_name": "editspec", "tags": ["editspec", "model-editing"]}
    if content.licence is not None:
        head["license"] = content.licence
    elif content.licence_file:
        head |= {"license": "other", "license_link": "LICENSE"}
    if content.weights is not None and content.weights.startswith("hf://"):
        head["base_model"] = "/".join(content.weights.removeprefix("hf://").split("/")[:2])
    return f"{yaml.safe_dump(head, sort_keys=True)}---\n"


def _edit_line(name: str, patch: Patch) -> str:
    layers = ", ".join(patch.layers)
    cells = (
        markdown_text(patch.name),
        markdown_text(layers),
        describe_rank(patch.metadata["rank"]),
        f"{predicted_collateral(patch):.2g}",
        markdown_code(name),
    )
    return f"| {' | '.join(cells)} |"


def _licence_line(content: CardContent) -> str:
    if content.licence is None and not content.licence_file:
        return "That of the base, which no file beside it says."
    said = "in `LICENSE`" if content.licence is None else markdown_code(content.licence)
    return f"That of the base: {said}."
