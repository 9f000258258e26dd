"""``editspec schema``: the JSON Schema of the language. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from editspec.engine.result import CommandResult
from editspec_compiler.json_schema import json_schema


@dataclass(frozen=True)
class SchemaResult(CommandResult):
    """The JSON Schema of the language, for editors."""

    schema: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The schema itself."""
        return self.schema

    def to_text(self) -> str:
        """The schema as JSON."""
        return json.dumps(self.schema, indent=2)


def schema() -> SchemaResult:
    """Make the JSON Schema of the language."""
    return SchemaResult(json_schema())
