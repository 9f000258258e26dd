"""``editspec import``: specs from the records of the authors' notebook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.result import DONE, WRONG_USE, CommandResult
from editspec.modalities.image.records import Imported, read_records
from editspec_compiler import SpecError


@dataclass(frozen=True)
class ImportResult(CommandResult):
    """The records that were imported, and those that are wrong.

    Attributes
    ----------
    records
        Each record with its spec and its meaning, or with its error.
    folder
        Whether the records are those of a folder.
    """

    records: tuple[Imported, ...]
    folder: bool

    @property
    def exit_code(self) -> int:
        """The exit code: 2 where a record is wrong."""
        failed = any(record.error is not None for record in self.records)
        return WRONG_USE if failed else DONE

    def to_dict(self) -> dict[str, Any]:
        """The records as plain values."""
        return {"records": [_record_entry(record) for record in self.records]}

    def to_text(self) -> str:
        """One line for each record."""
        lines = [_record_line(record) for record in self.records]
        if self.folder:
            done = sum(record.error is None for record in self.records)
            lines.append(f"{done} of {len(self.records)} records imported")
        return "\n".join(lines)


def import_records(
    record: Path | str,
    out: Path | str,
    *,
    family: str,
    weights: str,
    layer: str,
    compatibility: bool = False,
) -> ImportResult:
    """Make a spec of a record, or specs of all records in a folder.

    Each mask is written once, byte for byte, into a folder ``masks`` next to the specs, and named
    by its digest. In a folder of records, an error in one stops no other.

    Parameters
    ----------
    record
        A record, or a folder of records.
    out
        The spec to write; for a folder of records, a folder of specs.
    family, weights, layer
        The model and the layer, which records do not say.
    compatibility
        Ask for the numbers of the authors' code, including its quirks.

    Raises
    ------
    SpecError
        The record, or the given family or layer, is wrong.
    FileError
        A file is missing, or a foreign file lies where one is to be written.
    """
    imported = read_records(
        Path(record),
        Path(out),
        family=family,
        weights=weights,
        layer=layer,
        compatibility=compatibility,
    )
    return ImportResult(tuple(imported), Path(record).is_dir())


def _record_entry(record: Imported) -> dict[str, str]:
    if record.error is not None:
        return {"record": str(record.record), "error": str(record.error)}
    return {
        "record": str(record.record),
        "spec": str(record.spec),
        "meaning": record.meaning,
    }


def _record_line(record: Imported) -> str:
    if isinstance(record.error, SpecError):
        # Each of its lines already names the record.
        return str(record.error)
    if record.error is not None:
        return f"{record.record}: {record.error}"
    return f"{record.record}: {record.meaning} -> {record.spec}"
