"""A modality is a class and a registry line: the compiler has no table that knows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import jsonschema
import pytest
from pydantic import Field

from editspec_compiler import SpecError, load, registry
from editspec_compiler.document import Document, parse
from editspec_compiler.json_schema import json_schema
from editspec_compiler.problems import Problem, SpecPath
from editspec_compiler.registry import Surroundings, register_modality
from editspec_compiler.schema import (
    AnySpec,
    Check,
    Edit,
    Finite,
    PatchSize,
    Spec,
    SpecHead,
    measures_of,
)
from editspec_compiler.visit import FILE, Item, Role
from editspec_runtime.core.architecture import Layer
from editspec_runtime.core.fields import FieldProblem, ModelFields, Part
from editspec_runtime.families import registry as families
from editspec_runtime.families.registry import Family, register_family


class Prompt(Part):
    """A token of a text."""

    prompt: Annotated[str, Role("prompt")] = Field(description="The text.")
    token: int = Field(-1, description="Which of its tokens.")


class Goal(Part):
    """The text that the model is to go on with."""

    text: str = Field(description="The text.")
    examples: Annotated[str, Role(FILE)] | None = Field(None, description="A file of texts.")


class ToyEdit(Edit[Prompt, Goal, list[Prompt], Prompt]):
    """One rule change."""


class Corpus(Part):
    """The texts that the second moment is taken over."""

    corpus: Annotated[str, Role(FILE)] = Field(description="A file of texts.")


class ToyInputs(SpecHead):
    """The texts that a spec works on."""

    statistics: Corpus = Field(description="The texts of the second moment.")


class ToySpec(
    Spec[ToyEdit, Annotated[Finite | PatchSize, Field(discriminator="measure")]], ToyInputs
):
    """An edit spec of texts."""


class ToyModality:
    name = "toy"
    checks: Mapping[str, type[Check]] = measures_of(Finite, PatchSize)
    plurals: Mapping[str, str] = {}
    expected: Mapping[str, str] = {}

    def problems(self, document: Document, spec: AnySpec) -> Iterator[Problem]:
        yield from ()

    def references(self, item: Item, surroundings: Surroundings) -> Iterator[Problem]:
        missing = item.role == FILE and not (surroundings.folder / item.value).exists()
        if missing:
            yield surroundings.document.problem(item.path, f"{item.value} is missing")
        if item.role == "prompt" and "{}" not in item.value:
            yield surroundings.document.problem(item.path, "no place for the subject")

    def edit_problems(
        self, path: SpecPath, items: list[Item], layer: Layer, surroundings: Surroundings
    ) -> Iterator[Problem]:
        yield from ()


TOY = ToyModality()


class ToyFields(ModelFields):
    """A model of texts."""

    tokenizer: str | None = Field(None, description="The file of its tokens.")

    def problems(self, compatibility: str | None) -> Iterator[FieldProblem]:
        if self.tokenizer == "":
            yield FieldProblem(("tokenizer",), "the name is empty")


SPEC = """\
version: 1
model: {family: toy, weights: w.pt, tokenizer: t.json}
statistics: {corpus: texts.txt}
edits:
  - name: rome
    layer: layer1
    source: {text: Rome, examples: texts.txt}
    target: {prompt: "{} is in"}
    context: [{prompt: "see {}"}]
checks:
  - {measure: finite}
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "MODALITIES", dict(registry.MODALITIES))
    known = dict(families.FAMILIES)
    for name in known:
        monkeypatch.setitem(families.FAMILIES, name, known[name])
    monkeypatch.setitem(families.FAMILIES, "toy", known["stylegan2"])
    # pytest gives this module a name that cannot be imported, so its modality is put in as it is.
    register_modality("toy", "tests:Spec", "tests:TOY")
    find = registry._import
    own = {"tests:TOY": TOY, "tests:Spec": ToySpec}
    monkeypatch.setattr(registry, "_import", lambda at: own.get(at) or find(at))
    find_part = families.import_part
    monkeypatch.setattr(
        families, "import_part", lambda at: ToyFields if at == "tests:ToyFields" else find_part(at)
    )
    register_family(
        Family(
            name="toy",
            modality="toy",
            fields="tests:ToyFields",
            read_architecture=None,
            make="",
            description="",
            loads="",
        )
    )
    (tmp_path / "texts.txt").write_text("Rome\n")
    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)


def problems(text: str) -> list[str]:
    Path("spec.yaml").write_text(text)
    with pytest.raises(SpecError) as error:
        load("spec.yaml")
    return [f"{'.'.join(map(str, p.path))}: {p.message}; {p.hint}" for p in error.value.problems]


def test_a_spec_of_another_modality_is_read() -> None:
    Path("spec.yaml").write_text(SPEC)
    loaded = load("spec.yaml")
    assert isinstance(loaded.spec, ToySpec)
    assert loaded.spec.edits[0].target == Prompt(prompt="{} is in")
    assert loaded.files(0) == {"texts.txt": Path("texts.txt")}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("tokenizer: t", "tokeniser: t", 'unknown key tokeniser; did you mean "tokenizer"?'),
        ("tokenizer: t.json", "truncation: 0.5", "the family toy takes no truncation"),
        ("tokenizer: t.json", 'tokenizer: ""', "the name is empty"),
        ("{corpus: ", "{corpos: ", 'unknown key corpos; did you mean "corpus"?'),
        ("{text: Rome", "{texd: Rome", 'unknown key texd; did you mean "text"?'),
        ('[{prompt: "see', '[{promt: "see', 'unknown key promt; did you mean "prompt"?'),
        ('"{} is in"', "in", "no place for the subject"),
        ("examples: texts.txt", "examples: none.txt", "none.txt is missing"),
        ("corpus: texts.txt", "corpus: none.txt", "none.txt is missing"),
        ("measure: finite", "measure: efficacy", "there is no measure efficacy"),
        ("measure: finite", "measure: finite, at_most: 1", "unknown key at_most"),
        ("layer1", "layer1\n    solver: direkt", 'did you mean "direct"?'),
    ],
)
def test_messages_know_its_fields(before: str, after: str, message: str) -> None:
    assert before in SPEC
    assert message in "\n".join(problems(SPEC.replace(before, after)))


def test_the_json_schema_holds_it() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    data = parse(SPEC).data
    assert validator.is_valid(data)
    data["edits"][0]["target"] = {"latent": 1, "mask": "m.png"}
    assert not validator.is_valid(data)
