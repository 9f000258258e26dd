"""What a modality needs for sweeps: a judge of edits, and the meaning of its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from editspec.engine.built import BuiltEdit
from editspec.engine.intervals import Estimates
from editspec.engine.modality_registry import engine_of
from editspec.engine.model_session import ModelSession
from editspec.engine.session import BuildSession
from editspec_runtime.errors import UsageError

Judge = Callable[[ModelSession, BuiltEdit], Estimates]
"""Takes a session with edits on its stack and the last of them, and gives measures by name.

Among them are ``efficacy`` and ``outside``.
"""


@runtime_checkable
class SweepableModality(Protocol):
    """The optional power of a modality engine to judge the points of a sweep.

    Attributes
    ----------
    has_ranks
        Whether edits have ranks that can be tried.
    outside
        The meaning of the measure ``outside``.
    """

    has_ranks: bool
    outside: str

    def make_judge(
        self, session: BuildSession, images: int | None, experiment: Callable[..., Any] | None
    ) -> Judge:
        """Make the judge of the last edit of a spec; nothing is on the stack of the session.

        `images` is the number of inputs that are judged; None: the default. `experiment` makes the
        judge of a perfect edit that is known. Raises `UsageError` or `SpecError` where one of them
        does not fit, or where nothing could judge.
        """


def require_sweepable(family: str) -> SweepableModality:
    """The engine of a family's modality. Raises `UsageError` where that judges no points."""
    engine = engine_of(family)
    if not isinstance(engine, SweepableModality):
        raise UsageError(
            f"Edits of the family {family} cannot be swept yet.",
            "Vary its fields by hand, and compare what editspec check says of each build.",
        )
    return engine
