"""Which layer was meant: by its parameter, its number, or a name that is nearly its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from editspec_compiler.problems import suggest
from editspec_compiler.schema import AnySpec
from editspec_runtime.core.architecture import Architecture, Layer


def select_layers(name: str, architecture: Architecture) -> list[str]:
    """Select the layers that a name in a list of layers stands for, in the order of computation.

    It is the name of one, of a group of them, or one in which ``*`` stands for any text.
    """
    if name in architecture.layers:
        return [name]
    if name in architecture.groups:
        return list(architecture.groups[name])
    if "*" not in name:
        return []
    return [each for each in architecture.layers if fnmatchcase(each, name)]


def expand_layers(spec: AnySpec, architecture: Architecture | None) -> AnySpec:
    """Write out the names of layers that stand for several, each once and in order."""
    if architecture is None:
        return spec
    edits: list[Any] = []
    for edit in spec.edits:
        names = getattr(edit, "layers", None)
        if names and not edit.layer:
            chosen: set[str] = set()
            for name in names:
                chosen |= set(select_layers(name, architecture))
            written = [each for each in architecture.layers if each in chosen]
            if written != names and chosen:
                edit = edit.model_copy(update={"layers": written})
        edits.append(edit)
    return spec.model_copy(update={"edits": edits})


def suggest_layer(wanted: object, layers: Mapping[str, Layer]) -> str:
    """Write a hint that names the layer that is meant by a foreign name, and all layers.

    People write the name of the module or of the parameter as the checkpoint has it
    (``convs.5``), the number alone (``7``), or another case (``Layer7``).
    """
    text = str(wanted).strip()
    names = list(layers)
    meant = _find_by_case(text, names) or _find_by_parameter(text, layers)
    meant = meant or _find_by_number(text, names)
    if meant is None:
        return suggest(text, names)
    return f'did you mean "{meant}"? known here: {", ".join(names)}'


def _find_by_case(wanted: str, names: list[str]) -> str | None:
    """Find the layer whose name differs by case, spaces or dashes alone."""

    def plain(name: str) -> str:
        """A name without what people change."""
        return re.sub(r"[\s_-]", "", name).lower()

    return next((name for name in names if plain(name) == plain(wanted)), None)


def _find_by_parameter(wanted: str, layers: Mapping[str, Layer]) -> str | None:
    """Find the first layer whose parameter has these parts, from one dot to another."""
    if not wanted or wanted.isdigit():
        return None
    parts = f".{wanted.strip('.')}."
    for name, layer in layers.items():
        # A checkpoint of a training holds the generator below a name of its own.
        parameter = f".{layer.parameter}."
        if parts in parameter or parts.endswith(parameter):
            return name
    return None


def _find_by_number(wanted: str, names: list[str]) -> str | None:
    """Find the layer whose name ends in the number that stands at the end of a text."""
    number = re.search(r"(\d+)$", wanted)
    if number is None:
        return None
    ending = re.compile(rf"(^|\D)0*{int(number[1])}$")
    return next((name for name in names if ending.search(name)), None)
