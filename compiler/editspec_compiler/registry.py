"""The modalities, and the spec that each family has. Imports no torch.

A modality is entered by one line here, and imported when a spec needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BaseModel, Field, create_model

from editspec_compiler.document import Document
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.schema import AnySpec, Check
from editspec_compiler.spec_folder import Folder
from editspec_compiler.visit import Item
from editspec_runtime.core.architecture import Architecture, Layer
from editspec_runtime.core.fields import ModelFields
from editspec_runtime.families.registry import FAMILIES, Family

if TYPE_CHECKING:
    from editspec_compiler.loaded_spec import LoadedSpec


@dataclass(frozen=True)
class Surroundings:
    """Document, folder and model in which the parts of a document are looked up.

    Attributes
    ----------
    document
        The spec as plain data, which may not fit the language.
    folder
        What names of files are relative to.
    architecture
        The layers of the model; None where they are not known without torch.
    weights
        Where the weights lie.
    """

    document: Document
    folder: Folder
    architecture: Architecture | None
    weights: Path


@dataclass(frozen=True)
class EditFacts:
    """What is known of an edit besides what the spec says.

    Attributes
    ----------
    values
        Plain values by name.
    lines
        The same for people.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


class Modality(Protocol):
    """Language of the families that share their kind of inputs and outputs.

    An instance is entered by `register_modality`; `editspec.engine.modality_registry` holds the
    other half, which needs torch.
    """

    @property
    def name(self) -> str:
        """Name that families give."""

    @property
    def checks(self) -> Mapping[str, type[Check]]:
        """Classes of checks by their measures."""

    @property
    def expected(self) -> Mapping[str, str]:
        """Values that are accepted, in words, by the role of their union."""

    @property
    def plurals(self) -> Mapping[str, str]:
        """Keys of places that stand for several, and the key that each of these has instead."""

    def problems(self, document: Document, spec: AnySpec) -> Iterator[Problem]:
        """Find what does not fit in a spec whose every part fits the language."""

    def references(self, item: Item, surroundings: Surroundings) -> Iterator[Problem]:
        """Look up a value with a role of this modality, and say what is wrong with it."""

    def edit_problems(
        self, path: SpecPath, items: list[Item], layer: Layer, surroundings: Surroundings
    ) -> Iterator[Problem]:
        """Find what an edit asks of layers and they do not have.

        `items` are the values with a role in the edit at `path`; `layer` is the edited one, or the
        last of several.
        """

    def edit_facts(self, loaded: LoadedSpec, number: int) -> EditFacts:
        """Find what is known of edit `number` without torch, besides what the spec says."""

    def first_edit(self, architecture: Architecture) -> dict[str, Any]:
        """Write an edit for a new spec of a model, as plain data that validate."""


@dataclass(frozen=True)
class ModalityPlaces:
    """The parts of a modality, each as ``module:attribute``.

    Attributes
    ----------
    spec
        The type of its specs: enough for the JSON Schema, which opens no masks and no arrays.
    modality
        The `Modality`, which opens what a spec names.
    """

    spec: str
    modality: str


MODALITIES: dict[str, ModalityPlaces] = {}
"""The places of each modality by its name."""


def register_modality(name: str, spec: str, modality: str) -> None:
    """Enter a modality.

    `spec` and `modality` are those of `ModalityPlaces`; a module is imported when it is needed.
    """
    MODALITIES[name] = ModalityPlaces(spec, modality)


_IMAGE = "editspec_compiler.modalities.image"
register_modality("image", f"{_IMAGE}.schema:ImageSpec", f"{_IMAGE}.modality:IMAGE")
_TEXT = "editspec_compiler.modalities.text"
register_modality("text", f"{_TEXT}.schema:TextSpec", f"{_TEXT}.modality:TEXT")
_PROMPTS = "editspec_compiler.modalities.text_to_image"
register_modality(
    "text_to_image", f"{_PROMPTS}.schema:PromptSpec", f"{_PROMPTS}.modality:TEXT_TO_IMAGE"
)


@cache
def _import(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def modality_of(family: str) -> Modality:
    """Return the modality of a family; of an unknown family, that of the first one."""
    modality: Modality = _import(MODALITIES[_family_or_first(family).modality].modality)
    return modality


def fields_of(family: str) -> type[ModelFields]:
    """Return the fields of ``model:`` of a family; of an unknown one, of the first."""
    return _family_or_first(family).load_fields()


def _family_or_first(family: str) -> Family:
    # A spec with a misspelt family is checked as one of the first family: all else that is wrong
    # is told at once, besides the name.
    return FAMILIES.get(family) or next(iter(FAMILIES.values()))


def family_of(document: Document) -> str:
    """Return the family that a document names; empty where it names none."""
    model = document.data.get("model")
    if not isinstance(model, dict):
        return ""
    family = model.get("family")
    return family if isinstance(family, str) else ""


def spec_type(family: str) -> type[AnySpec]:
    """Return the type of a spec of a family.

    The type is that of the modality, with the fields of ``model:`` of the family. An unknown family
    has the type of the first one that is registered.
    """
    name = family if family in FAMILIES else next(iter(FAMILIES))
    family_entry = FAMILIES[name]
    base: type[AnySpec] = _import(MODALITIES[family_entry.modality].spec)
    return _make_spec(name, family_entry.load_fields(), base)


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
    # Specs go to other processes, and pickle looks for a class in its module, where these are not.
    for made, part in ((named, "model"), (spec, None)):
        setattr(made, "__reduce__", partialmethod(_reduce, family, part))  # noqa: B010 - for mypy
    return spec


def _reduce(
    value: BaseModel, family: str, part: str | None
) -> tuple[Callable[..., BaseModel], tuple[Any, ...]]:
    return _restore, (family, part, value.__getstate__())


def _restore(family: str, part: str | None, state: dict[Any, Any]) -> BaseModel:
    """Make a spec of a family again in another process, or one `part` of it."""
    made: Any = spec_type(family)
    if part is not None:
        made = made.model_fields[part].annotation
    value: BaseModel = made.__new__(made)  # checked once; validating again could add defaults
    value.__setstate__(state)
    return value
