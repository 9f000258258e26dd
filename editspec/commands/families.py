"""``editspec families``: the families of models. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from editspec.engine.result import CommandResult
from editspec_runtime.families.registry import FAMILIES


@dataclass(frozen=True)
class FamilyEntry:
    """One family; `loads` names the containers that it can load."""

    name: str
    description: str
    loads: str


@dataclass(frozen=True)
class FamiliesResult(CommandResult):
    """All families that are registered."""

    families: tuple[FamilyEntry, ...]

    def to_text(self) -> str:
        """Two lines for each family."""
        return "\n".join(
            f"{family.name}: {family.description}\n  loads {family.loads}"
            for family in self.families
        )


def families() -> FamiliesResult:
    """List the families of models, with the containers that each can load."""
    known = FAMILIES.values()
    entries = [FamilyEntry(family.name, family.description, family.loads) for family in known]
    return FamiliesResult(tuple(entries))
