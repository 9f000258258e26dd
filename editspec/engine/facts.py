"""Facts about a file, for people and as plain values. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from editspec.engine.result import CommandResult
from editspec_runtime.io.headers import Header


@dataclass(frozen=True)
class TensorFacts:
    """A tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class FileFacts(CommandResult):
    """The base of the facts about a file.

    As text each fact is a line, and each entry of a list is a line below its fact.
    """

    def to_text(self) -> str:
        """The facts for people."""
        lines = []
        for name, value in self.to_dict().items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines.append(f"{name}:")
                lines += [f"  {_entry_text(entry)}" for entry in value]
            elif isinstance(value, dict):
                lines.append(f"{name}:")
                lines += [f"  {key}: {value_text(part)}" for key, part in value.items()]
            else:
                lines.append(f"{name}: {value_text(value)}")
        return "\n".join(lines)


def list_tensors(header: Header) -> tuple[TensorFacts, ...]:
    """The tensors of a safetensors file, sorted by name."""
    return tuple(
        TensorFacts(name, info.dtype, tuple(info.shape))
        for name, info in sorted(header.tensors.items())
    )


def _entry_text(entry: dict[str, Any]) -> str:
    return "  ".join(f"{key} {value_text(part)}" for key, part in entry.items())


def value_text(value: Any) -> str:
    """Show a plain value in words; numbers of a shape are joined by x."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {value_text(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        between = " x " if all(isinstance(part, int) for part in value) else ", "
        return between.join(map(value_text, value)) or "none"
    return "none" if value is None else str(value)
