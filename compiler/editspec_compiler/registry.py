"""The modalities, and the spec that each family has. Imports no torch.

A modality is entered by one line here, and imported when a spec needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partialmethod
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field, create_model

from editspec_compiler.document import Document
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.schema import AnySpec, Check
from editspec_compiler.visit import Item
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.families.registry import FAMILIES


@dataclass(frozen=True)
class Surroundings:
    """What the parts of a document are looked up in.

    Attributes
    ----------
    document
        The spec as plain data, which may not fit the language.
    folder
        What names of files are relative to.
    architecture
        The layers of the model; None where they are not known without torch.
    """

    document: Document
    folder: Path
    architecture: Architecture | None


class Modality(Protocol):
    """What the language is about where families share their kind of inputs and outputs."""

    @property
    def name(self) -> str:
        """The name that families give."""

    @property
    def spec(self) -> type[AnySpec]:
        """The spec with the modality's places, sources, inputs and checks."""

    @property
    def checks(self) -> Mapping[str, type[Check]]:
        """The classes of checks by their measures."""

    @property
    def expected(self) -> Mapping[str, str]:
        """What a value may be, in words, by the role of its union."""

    def problems(self, document: Document, spec: AnySpec) -> Iterator[Problem]:
        """Find what does not fit in a spec whose every part fits the language."""

    def references(self, item: Item, surroundings: Surroundings) -> Iterator[Problem]:
        """Look up a value with a role of this modality, and say what is wrong with it."""

    def edit_problems(
        self, path: SpecPath, items: list[Item], layer: Layer, surroundings: Surroundings
    ) -> Iterator[Problem]:
        """Find what an edit asks of layers and they do not have.

        `items` are the values with a role in the edit at `path`; `layer` is the edited one.
        """


MODALITIES: dict[str, str] = {}
"""Where each modality is defined, ``module:attribute``, by its name."""


def register_modality(name: str, place: str) -> None:
    """Enter a modality; `place` is ``module:attribute``, which is imported when it is needed."""
    MODALITIES[name] = place


register_modality("image", "editspec_compiler.modalities.image.modality:IMAGE")


@cache
def _import(place: str) -> Modality:
    module, _, attribute = place.partition(":")
    modality: Modality = getattr(importlib.import_module(module), attribute)
    return modality


def modality_of(family: str) -> Modality:
    """The modality of a family; of an unknown one, that of the first family that is registered."""
    known = FAMILIES.get(family) or next(iter(FAMILIES.values()))
    return _import(MODALITIES[known.modality])


def fields_of(family: str) -> type[ModelFields]:
    """The fields of ``model:`` of a family; of an unknown one, those of the first family."""
    return (FAMILIES.get(family) or next(iter(FAMILIES.values()))).fields


def family_of(document: Document) -> str:
    """The family that a document names; empty where it names none."""
    model = document.data.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    return family if isinstance(family, str) else ""


def spec_type(family: str) -> type[AnySpec]:
    """The spec of a family: that of its modality, with the fields of ``model:`` of the family.

    An unknown family has the spec of the first one that is registered.
    """
    name = family if family in FAMILIES else next(iter(FAMILIES))
    return _make_spec(name, FAMILIES[name].fields, modality_of(name).spec)


@cache
def _make_spec(family: str, fields: type[ModelFields], base: type[AnySpec]) -> type[AnySpec]:
    # The family is text for pydantic, as an unknown one has a message of its own, and a constant in
    # the JSON Schema.
    text: Any = Annotated[str, Field(json_schema_extra={"const": family})]
    described = Field(description=ModelFields.model_fields["family"].description)
    named = create_model(
        f"{fields.__name__}_{family}",
        __base__=fields,
        __module__=fields.__module__,
        __doc__=fields.__doc__,
        family=(text, described),
    )
    model: Any = (named, Field(description=base.model_fields["model"].description))
    spec = create_model(
        f"{base.__name__}_{family}",
        __base__=base,
        __module__=base.__module__,
        __doc__=base.__doc__,
        model=model,
    )
    # Pickle looks for a class in its module, where these are not.
    for made, part in ((named, "model"), (spec, None)):
        setattr(made, "__reduce__", partialmethod(_reduce, family, part))  # noqa: B010 - for mypy
    return spec


def _reduce(
    value: BaseModel, family: str, part: str | None
) -> tuple[Callable[..., BaseModel], tuple[Any, ...]]:
    return _restore, (family, part, value.__getstate__())


def _restore(family: str, part: str | None, state: dict[Any, Any]) -> BaseModel:
    """A spec of a family, or one `part` of it, in another process."""
    made: Any = spec_type(family)
    if part is not None:
        made = made.model_fields[part].annotation
    value: BaseModel = made.__new__(made)
    value.__setstate__(state)
    return value
