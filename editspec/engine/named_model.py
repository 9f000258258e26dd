"""A model that options name, as a spec without edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editspec.engine.opening import find_architecture
from editspec.engine.resources import locate_weights
from editspec_compiler import LoadedSpec
from editspec_compiler.document import parse
from editspec_compiler.references import load_document
from editspec_runtime.errors import UsageError
from editspec_runtime.families.open import read_weights
from editspec_runtime.families.registry import FAMILIES

PLACE = "command line"

ENDINGS = (".yaml", ".yml", ".json")
"""The ends of names of specs, among names of weights."""


def is_spec(model: Path | str | LoadedSpec) -> bool:
    """Whether a model is named by a spec, and not by its weights."""
    return isinstance(model, LoadedSpec) or Path(model).suffix in ENDINGS


def spec_of_model(
    weights: str,
    *,
    family: str | None = None,
    module: str | None = None,
    folder: Path = Path(),
    **fields: Any,
) -> LoadedSpec:
    """Make a spec without edits of a model that options name.

    Parameters
    ----------
    weights
        The weights, relative to `folder`.
    family
        Their family. Default: that of networks from code where there is a `module`, else the first
        that fits.
    module
        ``package.module:factory``, which makes the network.
    folder
        Where files and code are looked for first. Default: the working folder.
    fields
        Further fields of the spec.

    Raises
    ------
    UsageError
        A family that has no foreign code is given with a module.
    SpecError, EditError
        The model cannot be used.
    """
    model = {"family": family or _find_family(weights, module), "weights": weights}
    if module is not None:
        if not FAMILIES[model["family"]].runs_code:
            raise UsageError(
                f"The family {model['family']} has its own network, and --module names another.",
                "Leave out --family or --module.",
            )
        model["module"] = module
    text = json.dumps({"version": 1, "model": model, **fields})
    return load_document(parse(text, PLACE), folder / PLACE)


def _find_family(weights: str, module: str | None) -> str:
    """The family of a network from code, or of weights by the names of their tensors."""
    if module is not None:
        return next(family.name for family in FAMILIES.values() if family.runs_code)
    path = locate_weights(weights)
    return find_architecture(read_weights(path), path).family
