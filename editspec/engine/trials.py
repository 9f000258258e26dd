"""Trials of an edit with other fields, free of any modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from editspec.engine.session import BuildSession
from editspec_compiler import LoadedSpec, SpecError
from editspec_compiler.schema import AnyEdit
from editspec_runtime.core.model import Model
from editspec_runtime.errors import EditError

STATISTICS = "statistics"
"""The key under which the fields of a trial hold those of ``statistics``, of the whole spec."""

Fields = dict[str, Any]
"""Fields of an edit as plain values; under `STATISTICS`, those of the spec's statistics."""


@dataclass(frozen=True)
class Judgement:
    """What an edit does to inputs that shaped none of it.

    Attributes
    ----------
    efficacy
        The share of the asked-for change that comes out where the context matches, 0 to 1.
    trace
        The share of the inputs that visibly change where it does not.
    """

    efficacy: float
    trace: float


Judge = Callable[[Model], Judgement]
"""A function that judges an edited model. It pickles, as trials are made in several processes."""


def with_fields(loaded: LoadedSpec, number: int, fields: Fields) -> LoadedSpec:
    """The spec with other fields of edit `number`; a field of None is left out."""
    spec = loaded.spec
    edits: list[AnyEdit] = list(spec.edits)
    plain = edits[number].model_dump(by_alias=True, exclude_unset=True, mode="json") | fields
    statistics = plain.pop(STATISTICS, {})
    given = {name: value for name, value in plain.items() if value is not None}
    edits[number] = type(edits[number]).model_validate(given)
    update: dict[str, Any] = {"edits": edits}
    if statistics:
        own: BaseModel = getattr(spec, STATISTICS)
        whole = own.model_dump(exclude_unset=True) | statistics
        update[STATISTICS] = type(own).model_validate(whole)
    return dataclasses.replace(loaded, spec=spec.model_copy(update=update))


@dataclass
class TrialSolver:
    """A function that solves and judges an edit with other fields, in whatever process.

    Attributes
    ----------
    session, number
        The session with the edits before on its stack, and the number of the edit, from 0.
    judge
        The judge of edited models.
    last
        The fields that were solved last in this process, and the model that they gave.
    """

    session: BuildSession
    number: int
    judge: Judge
    last: tuple[Fields, Model] | None = None

    def solve(self, fields: Fields) -> Model:
        """Make the model after the edit with these fields."""
        if self.last is not None and self.last[0] == fields:
            return self.last[1]
        loaded = with_fields(self.session.loaded, self.number, fields)
        session = dataclasses.replace(self.session, loaded=loaded, lock=None)
        model = session.try_edit(self.number)
        self.last = fields, model
        return model

    def __call__(self, fields: Fields) -> Judgement | str:
        """Judge the edit with these fields; a text says why it cannot be solved.

        Raises `SpecError` where the given edit itself is wrong.
        """
        try:
            return self.judge(self.solve(fields))
        except SpecError as error:
            if not fields:
                raise
            return error.problems[0].message
        except EditError as error:
            return error.message

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process, which has solved nothing."""
        return {**self.__dict__, "last": None}
