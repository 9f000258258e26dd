"""Choices of the fields of a spec's last edit: as values, as specs, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from editspec.engine.relocation import relocate_names
from editspec.engine.trials import STATISTICS, Fields, with_fields
from editspec_compiler import LoadedSpec
from editspec_compiler.rewrite import Put, rewrite
from editspec_compiler.schema import AnyEdit
from editspec_runtime.errors import UsageError


@dataclass(frozen=True)
class Choice:
    """A layer, a rank and values of other fields of the last edit.

    Attributes
    ----------
    layer, rank
        None: as the edit has it.
    varied
        The paths of other fields, and their values.
    """

    layer: str | None
    rank: int | None
    varied: tuple[tuple[str, Any], ...] = ()

    def fields(self, edit: AnyEdit) -> Fields:
        """The fields of an edit that the choice replaces."""
        given = edit.model_dump(by_alias=True, exclude_unset=True, mode="json")
        fields: Fields = {}
        if self.layer is not None:
            fields["layer"] = self.layer
            if "layers" in given:
                fields["layers"] = None
        if self.rank is not None and self.rank != edit.rank:
            fields["rank"] = self.rank
        for path, value in self.varied:
            name, _, below = path.partition(".")
            if not below:
                fields[name] = value
                continue
            there = fields.get(name, {} if name == STATISTICS else given.get(name)) or {}
            fields[name] = {**there, below: value}
        return fields

    def apply(self, loaded: LoadedSpec) -> LoadedSpec:
        """The spec with this choice; raises `UsageError` where the edit has no such fields."""
        last = len(loaded.spec.edits) - 1
        edit = loaded.spec.edits[last]
        try:
            return with_fields(loaded, last, self.fields(edit))
        except (ValidationError, TypeError) as error:
            said = ", ".join(f"{path}={value}" for path, value in self.varied)
            raise UsageError(
                f"{edit.name} does not take {said}.",
                "Give paths of fields that the edit can have, such as solver.collateral_weight "
                "where its solver has one.",
            ) from error

    def __str__(self) -> str:
        """The choice in a few words."""
        parts = [self.layer or "as given"]
        if self.rank is not None:
            parts.append(f"rank{self.rank}")
        parts += [f"{path.rpartition('.')[2]} {value}" for path, value in self.varied]
        return "-".join(parts[:2]) if not self.varied else ", ".join(parts)


def combine_choices(
    layers: Sequence[str | None],
    ranks: Sequence[int | None],
    varied: Mapping[str, Sequence[Any]],
) -> list[Choice]:
    """Combine all layers, ranks and values of other fields."""
    return [
        Choice(layer, rank, tuple(zip(varied, values, strict=True)))
        for layer in layers
        for rank in ranks
        for values in product(*varied.values())
    ]


def rewrite_winner(loaded: LoadedSpec, folder: Path, choice: Choice) -> str:
    """The text of a spec with a choice of fields in its last edit, for `folder`.

    Relative names of files are changed so that they lead from `folder` to the same files. All else
    stays as it was written. Raises `RewriteError` where the text does not let that be changed.
    """
    document, last = loaded.document, len(loaded.spec.edits) - 1
    given = document.data["edits"][last]
    puts = []
    if choice.layer is not None:
        puts.append(Put(("edits", last, "layer"), choice.layer, instead_of=("layers",)))
    if choice.rank is not None:
        puts.append(Put(("edits", last, "rank"), choice.rank, after="layer"))
    for path, value in choice.varied:
        name, _, below = path.partition(".")
        holder: tuple[str | int, ...] = () if name == STATISTICS else ("edits", last)
        there = document.data if name == STATISTICS else given
        if below and name in there:
            puts.append(Put((*holder, name, below), value, short="method"))
        else:
            puts.append(Put((*holder, name), {below: value} if below else value))
    text = rewrite(document.text, document.file, relocate_names(loaded, folder))
    for put in puts:
        text = rewrite(text, document.file, [put])
    return text
