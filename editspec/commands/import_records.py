"""``editspec import``: specs of the records that the authors' notebook made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editspec.engine.result import DONE, WRONG_USE, CommandResult
from editspec.modalities.image.records import Imported, read_records


@dataclass(frozen=True)
class ImportResult(CommandResult):
    """The records that were imported, and those that could not be.

    Attributes
    ----------
    records
        Each with its spec and its meaning, or with its error.
    folder
        Whether they are the records of a folder.
    """

    records: tuple[Imported, ...]
    folder: bool

    @property
    def exit_code(self) -> int:
        """2 where a record is wrong."""
        failed = any(record.error is not None for record in self.records)
        return WRONG_USE if failed else DONE

    def to_dict(self) -> dict[str, Any]:
        """The records as plain values."""
        return {"records": [_record_entry(record) for record in self.records]}

    def to_text(self) -> str:
        """One line a record."""
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

    Masks go into ``masks`` beside `out` (or in it), byte for byte, each once, named by their
    digest. In a folder a record that is wrong stops no other.

    Parameters
    ----------
    record
        A record, or a folder of records.
    out
        The spec; of a folder, a folder of specs.
    family, weights, layer
        The model and the layer: no record says them.
    compatibility
        Ask for the numbers of the authors' code, its quirks included.

    Raises
    ------
    SpecError
        The record, or the family or layer that was asked for, is wrong.
    FileError
        A file is missing, or something else lies where one is to be written.
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
    if record.error is not None:
        return f"{record.record}: {record.error}"
    return f"{record.record}: {record.meaning} -> {record.spec}"
