"""The results of exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from editspec.engine.result import CommandResult


@dataclass(frozen=True)
class RecordExport(CommandResult):
    """A record of the authors' notebook: its path, and the name of its edit."""

    out: Path
    edit: str

    def to_text(self) -> str:
        """One line."""
        return f"{self.out}: {self.edit}"


@dataclass(frozen=True)
class AdaptedModule:
    """A module that changes: its kind in torch, and the rank of its LoRA."""

    kind: str
    rank: int


@dataclass(frozen=True)
class AdapterExport(CommandResult):
    """An adapter of peft.

    Attributes
    ----------
    format, out
        ``peft``, and the folder.
    modules
        The modules that change, by name.
    notes
        The limits of peft with such a model.
    """

    format: str
    out: Path
    modules: dict[str, AdaptedModule]
    notes: tuple[str, ...]

    def to_text(self) -> str:
        """One line for each module, then the notes and the path."""
        lines = [
            f"{name}: {module.kind}, LoRA of rank {module.rank}"
            for name, module in self.modules.items()
        ]
        return "\n".join([*lines, *self.notes, str(self.out)])


@dataclass(frozen=True)
class TensorsExport(CommandResult):
    """Plain tensors, ``delta`` or ``full``: their path, and the shape of each."""

    format: str
    out: Path
    tensors: dict[str, list[int]]

    def to_text(self) -> str:
        """One line for each tensor, then the path."""
        lines = []
        for name, shape in self.tensors.items():
            sizes = " x ".join(map(str, shape))
            lines.append(f"{name}: {sizes}")
        return "\n".join([*lines, str(self.out)])
